"""Whether pods are injected, found by asking for one that is never made (dry run).

An injector that is ready is not yet asked: the API server has to hear of its certificate, the nodes of its address.
Until then a webhook with failurePolicy Ignore is passed over, and pods come up outside the mesh without a word.
"""

from __future__ import annotations

import time

from lightkube import Client

from mesh.deploy.apply import NotReady
from mesh.deploy.paths import RequestFailed, request
from mesh.kube.kinds import POD

PROXY_CONTAINER = "linkerd-proxy"
POLL_SECONDS = 0.3
WAIT_SECONDS = 60.0


def wait_for_injection(client: Client, namespace: str, *, ask: bool = False, wait: float = WAIT_SECONDS) -> None:
    """Returns once a new pod of `namespace` gets a sidecar. `ask`: by the pod's own annotation, not the namespace's.

    Raises:
        NotReady: none does after `wait` seconds.
    """
    annotations = {"linkerd.io/inject": "enabled"} if ask else {}
    container = {"name": "trial", "image": "trial"}
    metadata = {"name": "gameday-trial", "annotations": annotations}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    deadline = time.monotonic() + wait
    why = "its webhook was passed over"
    while True:
        try:
            spec = request(client, "POST", POD.path(namespace), params={"dryRun": "All"}, json=pod)["spec"]
        except RequestFailed as error:
            why = str(error)  # the namespace's own service account may not be there yet
        else:
            if any(c["name"] == PROXY_CONTAINER for c in [*spec["containers"], *spec.get("initContainers", ())]):
                return
        if time.monotonic() > deadline:
            raise NotReady(f"no pod in namespace {namespace} gets a sidecar: {why}; see the injector's log")
        time.sleep(POLL_SECONDS)
