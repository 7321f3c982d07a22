"""Identity's leader killed at every point of what it alone does: it copies the trust anchors to where pods mount them.

Two real replicas, an API server in memory, a lease of two seconds. The first replica leads, and is killed at the point;
the other one has to notice, take the lease, and finish the work. At no time do both say that they lead.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.ports import free_port
from mesh.control.pki import create_issuer, create_trust_anchor
from mesh.control.trust_bundle import BUNDLE_KEY
from mesh.kube import kinds
from mesh.kube.permissions import IDENTITY_LEASE, TRUST_ROOTS
from tests.mesh.control import killed_at
from tests.mesh.control.test_kubernetes_processes import KubernetesPlane
from tests.mesh.kube.fake_api import api_thread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]
NAMESPACES = ("shop", "bank", "post")
WITHIN_SECONDS = 20.0


class Replicas(KubernetesPlane):
    """Of identity, by name."""

    def start_replica(self, name: str, point: str) -> subprocess.Popen[str]:
        self.ports["identity"] = self.ports[name] = (free_port(), free_port())
        command = [sys.executable, "-m", "tests.mesh.control.killed_at", point, "mesh.control"]
        process = subprocess.Popen(
            [*command, *self.arguments("identity")], stderr=subprocess.DEVNULL, cwd=ROOT, text=True
        )
        self.processes[name] = process
        return process

    def copies(self) -> set[str]:
        """What the namespaces have."""
        found = [self.api.get(kinds.CONFIG_MAP, namespace, TRUST_ROOTS) for namespace in NAMESPACES]
        return {one["data"][BUNDLE_KEY] if one is not None else "" for one in found}

    def leaders(self) -> float:
        return sum(self.metric(name, "leader ") for name in self.processes)

    def holder(self) -> str:
        lease = self.api.get(kinds.LEASE, "linkerd", IDENTITY_LEASE)
        return str(lease["spec"]["holderIdentity"]) if lease is not None else ""


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    with api_thread() as api:
        made = Replicas(tmp_path, api)
        made.put_issuer(create_issuer(made.anchor))
        for name in NAMESPACES:
            annotations = {"linkerd.io/inject": "enabled"}
            api.put(kinds.NAMESPACE, {"metadata": {"name": name, "annotations": annotations}})
        try:
            yield made
        finally:
            made.stop()


@pytest.mark.parametrize("point", killed_at.LEADER)
def test_a_leader_that_is_killed_is_succeeded_and_its_work_finished(replicas: Replicas, point: str) -> None:
    most = 0.0

    def eventually(holds: Callable[[], bool]) -> None:
        nonlocal most
        deadline = time.monotonic() + WITHIN_SECONDS
        while not holds():
            assert time.monotonic() < deadline, "did not come true in time"
            most = max(most, replicas.leaders())
            time.sleep(0.02)

    first = replicas.start_replica("first", point)
    eventually(lambda: first.poll() is not None or replicas.holder().endswith(f"-{first.pid}"))
    second = replicas.start_replica("second", "leader: quick lease")
    if point.startswith("anchors changed"):
        eventually(lambda: len(replicas.copies()) == 1 and "" not in replicas.copies())
    bundle = replicas.bundle(replicas.anchor, create_trust_anchor())
    replicas.api.put(kinds.CONFIG_MAP, bundle)
    eventually(lambda: first.poll() is not None)
    assert first.returncode == -signal.SIGKILL
    eventually(lambda: replicas.holder().endswith(f"-{second.pid}") and replicas.leaders() == 1.0)
    eventually(lambda: replicas.copies() == {bundle["data"][BUNDLE_KEY]})
    assert most <= 1.0
