"""What `test_user_manifests.py` applies its manifests to, and how it sees them in effect.

    probe (injected) ─► Services web, web-v1, web-v2, web-both ─► v1, v2 (injected)        outside (not meshed)

A manifest is applied through the API server; the clock starts when that has answered, and stops when a probe, which is
held open over one `kubectl exec` and asks again at once, has seen the effect. So each figure includes the last probe.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from mesh.deploy.paths import RequestFailed, request
from mesh.kube import kinds
from mesh.kube.client import connect
from mesh.kube.kinds import Kind

SHOP, OUTSIDE = "manifest-shop", "manifest-outside"
SUFFIX = f"{SHOP}.serviceaccount.identity.linkerd.cluster.local"
ALLOWED_SECONDS = 3.0
"""A loaded machine's; what is aimed at is one second."""
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
Manifest = dict[str, Any]
_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
KINDS = {
    (kind.api_version, kind.name): kind
    for kind in (*kinds.CORE_KINDS, _ACCOUNT, *kinds.MESH_KINDS, *kinds.FOREIGN_KINDS)
}


def manifest(api_version: str, kind: str, name: str, namespace: str | None = SHOP, **more: Any) -> Manifest:
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **more}


def policy(kind: str, name: str, version: str = "v1alpha1", **spec: Any) -> Manifest:
    """A resource of policy.linkerd.io."""
    return manifest(f"policy.linkerd.io/{version}", kind, name, spec=spec)


def _pod(name: str, image: str, *command: str, namespace: str = SHOP, account: str = "default") -> Manifest:
    container: dict[str, Any] = {"name": "app", "image": image, "imagePullPolicy": "Never", "command": list(command)}
    if "versions.py" in command[1]:
        container["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    spec = {"serviceAccountName": account, "terminationGracePeriodSeconds": 1, "containers": [container]}
    made = manifest("v1", "Pod", name, namespace, spec=spec)
    made["metadata"]["labels"] = {"app": "web" if name in ("v1", "v2") else name, "version": name}
    return made


def _service(name: str, **selector: str) -> Manifest:
    ports = [
        {"name": name, "port": port, "targetPort": target}
        for name, port, target in (("http", 80, 8080), ("grpc", 9000, 9000), ("echo", 9999, 9999))
    ]
    return manifest("v1", "Service", name, spec={"selector": selector, "ports": ports})


def _manifests(image: str) -> list[Manifest]:
    shop = manifest("v1", "Namespace", SHOP, None)
    shop["metadata"]["annotations"] = {"linkerd.io/inject": "enabled"}
    versions = ("python", "/workloads/versions.py")
    return [
        shop,
        manifest("v1", "Namespace", OUTSIDE, None),
        *(manifest("v1", "ServiceAccount", name) for name in ("client", "other")),
        manifest("v1", "ServiceAccount", "default", OUTSIDE),
        manifest("v1", "ServiceAccount", "default"),
        _service("web", app="web", version="v1"),
        _service("web-v1", app="web", version="v1"),
        _service("web-v2", app="web", version="v2"),
        _service("web-both", app="web"),
        _pod("v1", image, *versions, "v1"),
        _pod("v2", image, *versions, "v2"),
        _pod("client", image, "sleep", "3600", account="client"),
        _pod("other", image, "sleep", "3600", account="other"),
        _pod("outside", image, *versions, "outside", namespace=OUTSIDE),
    ]


class Probe:
    """`workloads/probe.py` in a pod, for as long as the context lasts."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the probe ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def http(self, path: str = "/", host: str = "web", **more: Any) -> list[Answer]:
        return [Answer(*answer) for answer in self.ask("http", host=host, path=path, **more)["answers"]]

    def status(self, path: str = "/", host: str = "web", **more: Any) -> int:
        return self.http(path, host, **more)[0].status

    def version(self, path: str = "/", host: str = "web", **more: Any) -> str:
        return self.http(path, host, **more)[0].version

    def echoes(self, host: str = "web", *, fresh: bool) -> bool:
        """Whether a line comes back over TCP: over a connection of its own, or over the one that is kept open."""
        return bool(self.ask("tcp", host=host, port=9999, text="hello", fresh=fresh)["answer"] == "hello")

    def metrics(self, port: int = 4191) -> list[str]:
        """Of its own proxy."""
        return self.http("/metrics", "127.0.0.1", port=port, fresh=True)[0].body.splitlines()

    def metric(self, name: str, *labels: str) -> float:
        """The sum of a family's series that have these labels."""
        lines = (line for line in self.metrics() if line.partition("{")[0].partition(" ")[0] == name)
        return sum(float(line.split()[-1]) for line in lines if all(label in line for label in labels))


class Answer:
    """Status 0: there was none."""

    def __init__(self, status: int, location: str | None, body: str) -> None:
        self.status, self.location, self.body = status, location, body
        self.says: dict[str, Any] = json.loads(body) if body.startswith("{") else {}
        self.version = str(self.says.get("version", ""))


class Shop:
    """One cluster with the shop in it, and what was measured."""

    def __init__(self, context: str, kubeconfig: str) -> None:
        self._client = connect(context, kubeconfig)
        self._kubectl = ["kubectl", "--context", context, "--kubeconfig", kubeconfig]
        self.measured: list[tuple[str, float]] = []
        self.client: Probe
        self.other: Probe

    # ---- the API server

    def apply(self, *manifests: Manifest) -> None:
        """Raises RequestFailed."""
        for one in manifests:
            path = self._path(one)
            options = {"fieldManager": "user", "force": "true", "fieldValidation": "Strict"}
            content, headers = json.dumps(one).encode(), {"content-type": APPLY}
            request(self._client, "PATCH", path, params=options, content=content, headers=headers)

    def patch(self, one: Manifest, change: Manifest) -> None:
        headers = {"content-type": MERGE}
        request(self._client, "PATCH", self._path(one), content=json.dumps(change).encode(), headers=headers)

    def get(self, one: Manifest) -> Manifest:
        return request(self._client, "GET", self._path(one))

    def delete(self, *manifests: Manifest) -> None:
        for one in manifests:
            try:
                request(self._client, "DELETE", self._path(one), params={"gracePeriodSeconds": "0"})
            except RequestFailed as error:
                if error.status != 404:
                    raise

    def exists(self, one: Manifest) -> bool:
        try:
            self.get(one)
        except RequestFailed as error:
            if error.status == 404:
                return False
            raise
        return True

    def ip(self, name: str, namespace: str = SHOP) -> str:
        return str(self.get(manifest("v1", "Pod", name, namespace))["status"]["podIP"])

    def _path(self, one: Manifest) -> str:
        metadata = one["metadata"]
        return KINDS[one["apiVersion"], one["kind"]].path(metadata.get("namespace"), metadata["name"])

    # ---- effects

    def sees(self, what: str, true: Callable[[], bool]) -> None:
        """Waits until it is true, and keeps how long that took. The clock starts here."""
        start = time.monotonic()
        while not true():
            assert time.monotonic() - start < ALLOWED_SECONDS, f"{what}: not in effect after {ALLOWED_SECONDS} s"
            time.sleep(0.005)
        self.measured.append((what, time.monotonic() - start))

    @contextmanager
    def in_effect(self, what: str, seen: Callable[[], bool], *manifests: Manifest) -> Iterator[None]:
        """The manifests are applied, and gone again at the end; the effect comes and goes with them."""
        assert not seen(), f"{what}: in effect before it was applied"
        try:
            self.apply(*manifests)
            self.sees(what, seen)
            yield
        finally:
            self.delete(*manifests)
        self.sees(f"{what}, deleted", lambda: not seen())

    @contextmanager
    def annotated(self, what: str, seen: Callable[[], bool], service: str, **annotations: str) -> Iterator[None]:
        """The same with annotations of a Service; `__` stands for a slash."""
        one = manifest("v1", "Service", service)
        assert not seen(), f"{what}: in effect before it was applied"
        try:
            self.patch(one, {"metadata": {"annotations": annotations}})
            self.sees(what, seen)
            yield
        finally:
            self.patch(one, {"metadata": {"annotations": dict.fromkeys(annotations)}})
        self.sees(f"{what}, taken out", lambda: not seen())

    # ---- life

    @contextmanager
    def open(self, image: str) -> Iterator[Shop]:
        namespaces = [manifest("v1", "Namespace", name, None) for name in (SHOP, OUTSIDE)]
        self.delete(*namespaces)
        eventually(lambda: not any(map(self.exists, namespaces)))
        made = _manifests(image)
        try:
            self.apply(*made)
            for one in made:
                if one["kind"] == "Pod":
                    eventually(lambda one=one: self._is_ready(one), 120)  # type: ignore[misc]
            with ExitStack() as stack:
                self.client, self.other = (stack.enter_context(self._probe(name)) for name in ("client", "other"))
                yield self
        finally:
            pods = [one for one in made if one["kind"] == "Pod"]
            self.delete(*pods, *namespaces)
            eventually(lambda: not any(map(self.exists, namespaces)))
            self._client.close()

    def _is_ready(self, pod: Manifest) -> bool:
        conditions = self.get(pod)["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _probe(self, name: str) -> Probe:
        command = ["exec", "-i", "-n", SHOP, name, "-c", "app", "--", "python", "/workloads/probe.py"]
        return Probe([*self._kubectl, *command])


def eventually(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.2)
