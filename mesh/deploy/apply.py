"""Install and removal by the API itself, without kubectl: for `--apply`, the kind world and tests.

    CRDs ─► Established ─► all else, in order ─► each Deployment rolled out
    references ─► deleted, in order ─► gone

Server-side apply with one field manager: the control plane's own fields (`caBundle`) and a user's (replicas, by an
autoscaler) survive an upgrade. Waiting is by polling: an install is minutes, and a poll cannot miss an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lightkube import Client

from mesh.deploy import paths
from mesh.deploy.paths import RequestFailed
from mesh.deploy.text import name_of

FIELD_MANAGER = "gameday-mesh"
POLL_SECONDS = 0.5
WAIT_SECONDS = 180.0

Tell = Callable[[str], None]
"""Hears of progress, one line a step."""


class NotReady(Exception):
    """Applied, but not there in time: one line that says what is missing and how to look at it."""


def apply_mesh(
    client: Client,
    crds: Sequence[Mapping[str, Any]],
    objects: Sequence[Mapping[str, Any]],
    *,
    wait: float = WAIT_SECONDS,
    tell: Tell = lambda line: None,
) -> None:
    """Applies everything and waits until it serves. `wait`: seconds for CRDs and for rollouts, each.

    Raises:
        RequestFailed: the API server refused an object.
        NotReady: `wait` is over.
    """
    for item in crds:
        paths.apply_object(client, item, FIELD_MANAGER)
    tell(f"{len(crds)} custom resource definitions applied")
    _wait(lambda: [name_of(item) for item in crds if not _established(client, item)], wait, "not established", "")
    for item in objects:
        paths.apply_object(client, item, FIELD_MANAGER)
    tell(f"{len(objects)} objects applied")
    wait_for_rollouts(client, objects, wait=wait)
    tell("all deployments are rolled out")


def wait_for_rollouts(client: Client, objects: Iterable[Mapping[str, Any]], *, wait: float = WAIT_SECONDS) -> None:
    """Returns once every Deployment among `objects` runs its newest pods, all ready.

    Raises:
        NotReady: `wait` seconds are over.
    """
    deployments = [item for item in objects if item["kind"] == "Deployment"]
    hint = "; see kubectl -n linkerd describe pods, or gameday mesh check"
    _wait(lambda: [name_of(item) for item in deployments if not _rolled_out(client, item)], wait, "not ready", hint)


def remove(
    client: Client,
    references: Sequence[Mapping[str, Any]],
    *,
    wait: float = WAIT_SECONDS,
    tell: Tell = lambda line: None,
) -> None:
    """Deletes what `references` name, in order, and waits until it is gone.

    Raises:
        RequestFailed: the API server refused.
        NotReady: something is still there after `wait` seconds.
    """
    removed = [item for item in references if paths.delete_object(client, item)]
    tell(f"{len(removed)} objects deleted")
    hint = "; a finalizer holds it: see kubectl get -o yaml"
    _wait(lambda: [name_of(item) for item in removed if _exists(client, item)], wait, "still there", hint)


def _wait(missing: Callable[[], list[str]], seconds: float, what: str, hint: str) -> None:
    deadline = time.monotonic() + seconds
    while left := missing():
        if time.monotonic() > deadline:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise NotReady(f"after {seconds:.0f} s {what}: {', '.join(left[:3])}{more}{hint}")
        time.sleep(POLL_SECONDS)


def _exists(client: Client, item: Mapping[str, Any]) -> bool:
    metadata = item["metadata"]
    return paths.get(client, paths.kind_of(item), metadata["name"], metadata.get("namespace")) is not None


def _established(client: Client, item: Mapping[str, Any]) -> bool:
    found = paths.get(client, paths.CRD, item["metadata"]["name"])
    conditions = (found or {}).get("status", {}).get("conditions") or []
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)


def _rolled_out(client: Client, item: Mapping[str, Any]) -> bool:
    found = paths.get(client, paths.DEPLOYMENT, item["metadata"]["name"], item["metadata"]["namespace"])
    if found is None:
        return False
    status, wanted = found.get("status", {}), found["spec"].get("replicas", 1)
    seen = bool(status.get("observedGeneration", 0) >= found["metadata"]["generation"])
    return seen and all(status.get(f"{which}eplicas", 0) == wanted for which in ("r", "updatedR", "availableR"))


__all__ = ["NotReady", "RequestFailed", "apply_mesh", "remove", "wait_for_rollouts"]
