"""What `test_drills.py` breaks things under: an application under steady load, counted by its clients.

    client ─► Service web ─► web ×2                       all injected
      10 HTTP requests a second                           over connections that the proxies keep
      5 TCP connections a second, to an opaque port       each a TLS handshake of its own between the proxies
      every 8 s an HTTP request to Service seldom         the proxy asks the control plane anew for it

The clients are open loops: what goes wrong does not slow them down. Their logs are read afterwards, so that a window
can lie in a time in which the API server did not answer.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

SHOP = "drill-shop"
COUNTED = ("http", "tcp")
LEAF_EXPIRES = "control_identity_cert_expiration_timestamp_seconds"
LEAF_REFRESHED = "control_identity_cert_refresh_timestamp_seconds"
ANCHORS = "control_identity_trust_anchors"
Json = dict[str, Any]
OPAQUE = {"config.linkerd.io/opaque-ports": "9999"}


@dataclass(frozen=True, slots=True)
class Failure:
    kind: str
    sent: float
    """Unix seconds, as `ended`."""
    ended: float
    error: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a client saw within a window."""

    answered: Counter[str]
    """`http web-1` → how often."""
    failures: list[Failure]

    def total(self, kind: str) -> int:
        return sum(count for who, count in self.answered.items() if who.startswith(f"{kind} "))


class Shop:
    """kubectl and `gameday mesh` on the cluster, and the application."""

    def __init__(self, context: str, kubeconfig: str, image: str) -> None:
        self._where = ["--context", context, "--kubeconfig", kubeconfig]
        self._image = image

    # ---- commands

    def kubectl(self, *words: str, given: str | None = None, check: bool = True, seconds: float = 120.0) -> str:
        done = self.tried(*words, given=given, seconds=seconds)
        assert not check or done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def tried(self, *words: str, given: str | None = None, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        command = self.kubectl_command(*words)
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=seconds)

    def kubectl_command(self, *words: str) -> list[str]:
        return ["kubectl", *self._where, *words]

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def mesh_command(self, *words: str) -> list[str]:
        where = [] if words[0] == "create-anchor" else self._where  # it asks no cluster
        return [sys.executable, "-m", "gameday", "mesh", *words, *where]

    def mesh(self, *words: str, expect: int = 0) -> str:
        """What `gameday mesh` printed, both streams."""
        command = self.mesh_command(*words)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == expect, f"{words}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def check(self, *words: str) -> Json:
        """What `gameday mesh check` finds, as it stands now."""
        command = self.mesh_command("check", "-o", "json", "--wait", "0s", *words)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        found: Json = json.loads(done.stdout)
        return found

    # ---- the application

    def open(self) -> None:
        self.kubectl("delete", "namespace", SHOP, "--ignore-not-found", "--wait")
        namespace = {"name": SHOP, "annotations": {"linkerd.io/inject": "enabled"}}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": namespace})
        self.apply(_service("web"), _service("seldom"), self._web(), self.pod("client", *_LOAD))
        self.kubectl("-n", SHOP, "rollout", "status", "deploy/web", "--timeout=120s", seconds=130)
        self.ready("client")

    def close(self) -> None:
        words = ("--ignore-not-found", "--force", "--grace-period=0")
        self.kubectl("-n", SHOP, "delete", "deploy,pods", "--all", *words, check=False)
        self.kubectl("delete", "namespace", SHOP, *words, "--wait=false", check=False)

    def apply(self, *manifests: Json) -> None:
        self.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(manifests))

    def _container(self, *command: str) -> Json:
        script = ["python", "/workloads/steady.py"]
        return {"name": "app", "image": self._image, "imagePullPolicy": "Never", "command": [*script, *command]}

    def pod(self, name: str, *command: str) -> Json:
        metadata = {"name": name, "namespace": SHOP, "labels": {"app": name}, "annotations": OPAQUE}
        spec = {"terminationGracePeriodSeconds": 1, "containers": [self._container(*command)]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def client(self, name: str) -> None:
        """One more client, that has begun."""
        self.apply(self.pod(name, *_LOAD))
        self.ready(name)

    def _web(self) -> Json:
        probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
        container = self._container("serve") | {"ports": [{"containerPort": 8080}], "readinessProbe": probe}
        template = {
            "metadata": {"labels": {"app": "web"}, "annotations": OPAQUE},
            "spec": {"terminationGracePeriodSeconds": 10, "containers": [container]},
        }
        rolling = {"maxSurge": 1, "maxUnavailable": 0}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": SHOP},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
                "template": template,
            },
        }

    def webs(self) -> list[Json]:
        """Its pods that nobody has asked to end."""
        pods = self.get("-n", SHOP, "pods", "-l", "app=web")["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def ready(self, name: str) -> None:
        self.kubectl("-n", SHOP, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s", seconds=130)

    # ---- what is seen of it

    def series(self, pod: str) -> list[str]:
        return self.kubectl("get", "--raw", f"/api/v1/namespaces/{SHOP}/pods/{pod}:4191/proxy/metrics").splitlines()

    def metric(self, pod: str, name: str) -> float:
        (line,) = (line for line in self.series(pod) if line.startswith(f"{name} "))
        return float(line.split()[1])

    def traffic(self, client: str, since: float) -> Traffic:
        """What was sent after `since`, or answered in the seconds after it."""
        now = time.time()
        eventually(lambda: any(line.get("at", 0.0) > now for line in self._lines(client)), 20, "the client's next line")
        lines = self._lines(client)
        answered: Counter[str] = Counter()
        for line in lines:
            if line.get("at", 0.0) > since + 1.0:
                answered.update(line["answered"])
        told = [
            Failure(line["failed"], line["sent"], line["ended"], line["error"]) for line in lines if "failed" in line
        ]
        return Traffic(answered, [failure for failure in told if failure.sent >= since])

    def unharmed(self, client: str, since: float, *kinds: str) -> Traffic:
        """Nothing of these kinds has failed since then, and about as much as was due has been answered."""
        traffic = self.traffic(client, since)
        seconds = time.time() - since
        failures = [failure for failure in traffic.failures if failure.kind in (kinds or COUNTED)]
        told = [f"{one.kind} {one.sent - since:.2f}–{one.ended - since:.2f} s: {one.error}" for one in failures[:8]]
        assert not failures, f"{len(failures)} failed in {seconds:.0f} s: {told}"
        assert traffic.total("http") > 10 * seconds * 0.8 - 10
        assert traffic.total("tcp") > 5 * seconds * 0.8 - 10
        return traffic

    def _lines(self, client: str) -> list[Json]:
        text = self.kubectl("-n", SHOP, "logs", client, "-c", "app")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]

    # ---- the mesh

    def kill_control_plane(self, *selectors: str) -> None:
        """Pods deleted without grace: all of them, or those with these labels."""
        for selector in selectors or ("linkerd.io/control-plane-component",):
            words = ("--force", "--grace-period=0", "--wait=false")
            self.kubectl("-n", "linkerd", "delete", "pods", "-l", selector, *words)

    def control_plane_back(self) -> None:
        for name in ("identity", "destination", "proxy-injector"):
            words = ("rollout", "status", f"deploy/linkerd-{name}", "--timeout=120s")
            self.kubectl("-n", "linkerd", *words, seconds=130)

    def control_plane_containers(self) -> set[tuple[str, int]]:
        """Container IDs with their restarts."""
        pods = self.get("-n", "linkerd", "pods")["items"]
        return {
            (status["containerID"], status["restartCount"])
            for pod in pods
            for status in pod["status"]["containerStatuses"]
        }


def requests_to(series: list[str], address: str) -> float:
    """Tries that a client's proxy has made at one endpoint."""
    found = re.compile(rf'^request_total\{{[^}}]*direction="outbound"[^}}]*target_addr="{re.escape(address)}:')
    return sum(float(line.rpartition(" ")[2]) for line in series if found.match(line))


def eventually(true: Callable[[], bool], seconds: float, what: str) -> float:
    """The seconds it took."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() < start + seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.3)
    return time.monotonic() - start


def _service(name: str) -> Json:
    ports = [
        {"name": name, "port": port, "targetPort": target}
        for name, port, target in (("http", 80, 8080), ("echo", 9999, 9999))
    ]
    metadata = {"name": name, "namespace": SHOP, "annotations": OPAQUE}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": {"app": "web"}, "ports": ports},
    }


_LOAD = ("load", "web", "seldom")
