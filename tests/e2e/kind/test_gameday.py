"""Whole game days in a real cluster: to a report, through a runner that is killed, and with every fault of Kubernetes.

The runs install a mesh of their own, so the one that other tests share is taken out first; they install it again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from chaos.ledger import Ledger, Record
from gameday.worlds.kind.names import RUN_LABEL
from mesh.deploy.apply import remove
from mesh.deploy.owned import owned_objects
from mesh.deploy.paths import CLUSTER_ROLE, CRD, NAMESPACE, list_labelled, request
from mesh.kube.client import connect
from reports.store import RunStore

pytestmark = [pytest.mark.kind, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
TINY = HERE.parent / "local" / "tiny" / "scenario.yaml"
GAMEDAY = [sys.executable, "-m", "gameday"]
SHARED_KINDS = (NAMESPACE, CLUSTER_ROLE, CRD)


@pytest.fixture(scope="module")
def free_cluster(kind_cluster: str, kind_kubeconfig: str) -> str:
    """The cluster's name; no mesh is in it."""
    client = connect(None, kind_kubeconfig)
    try:
        remove(client, owned_objects(client))
    finally:
        client.close()
    return kind_cluster


def run_to_the_end(cluster: str, out: Path, scenario: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*GAMEDAY, "run", str(scenario), "--world", "kind", "--cluster", cluster, "--out", str(out), "--plain"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, cwd=out.parent, timeout=560
    )


def leftovers(kubeconfig: str, run: str) -> list[str]:
    """What carries the run's label, and namespaces beside Kubernetes' own."""
    client = connect(None, kubeconfig)
    try:
        found = [
            f"{kind.name} {item['metadata']['name']}"
            for kind in SHARED_KINDS
            for item in list_labelled(client, kind, f"{RUN_LABEL}={run}")
        ]
        names = [item["metadata"]["name"] for item in request(client, "GET", NAMESPACE.path())["items"]]
    finally:
        client.close()
    return found + [name for name in names if name != "default" and not name.startswith(("kube-", "local-path"))]


def good(store: RunStore, start: float, end: float) -> float:
    """Share of requests in the window that were answered below 500."""
    requests = list(store.requests(start, end))
    assert requests
    return sum(r.status is not None and r.status < 500 for r in requests) / len(requests)


def test_a_game_day_goes_to_its_report_and_leaves_nothing(
    free_cluster: str, kind_kubeconfig: str, tmp_path: Path
) -> None:
    out = tmp_path / "tiny"
    done = run_to_the_end(free_cluster, out, TINY)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    report = msgspec.json.decode((out / "report.json").read_bytes())
    assert report["run"]["world"] == "kind"
    assert report["verdict"]["outcome"] in ("passed", "failed")
    assert report["forecast"]["sealed_at"] < report["faults"][0]["injected_at"] < report["faults"][0]["reverted_at"]
    assert report["load"]["completed"] > 300
    with RunStore(out / "run.sqlite") as store:
        processes = {process for process, _, _ in store.samples_of("process_cpu_seconds_total")}
        secured = [labels for _, labels, _ in store.samples_of("request_total") if 'tls="true"' in labels]
        usage = {usage.process for usage in store.usage()}
    expected = {"front-0/proxy", "front-0/app", "back-0/proxy", "back-0/app", "loadgen-0/proxy"}
    assert expected | {"control/identity", "control/destination", "control/policy"} <= processes
    assert expected <= usage
    assert secured, "requests between the pods went over mTLS"
    assert leftovers(kind_kubeconfig, "tiny") == []


def test_a_killed_runner_is_outlived_by_the_reaper_and_cleaned_up_by_recover(
    free_cluster: str, kind_kubeconfig: str, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = [*GAMEDAY, "run", str(TINY), "--world", "kind", "--cluster", free_cluster, "--out", str(out), "--plain"]
    with (tmp_path / "output").open("w") as output:
        runner = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        wait_until(lambda: injected(out), 200.0, lambda: (tmp_path / "output").read_text())
    finally:
        runner.kill()
        runner.wait()
    wait_until(lambda: reverted(out), 30.0, lambda: str(Ledger(out).records()))
    assert set(leftovers(kind_kubeconfig, "killed")) >= {"Namespace gameday", "Namespace tiny"}

    refused = run_to_the_end(free_cluster, tmp_path / "second", TINY)
    assert refused.returncode == 2
    assert "gameday recover killed" in refused.stderr
    assert not (tmp_path / "second").exists()

    for _ in range(2):
        done = subprocess.run(
            [*GAMEDAY, "recover", str(out)], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=200
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert leftovers(kind_kubeconfig, "killed") == []
    with RunStore(out / "run.sqlite") as store:
        assert store.meta()["state"] == "interrupted"
        assert sum(1 for _ in store.requests()) > 100


def test_every_fault_of_kubernetes_bites_and_is_undone(free_cluster: str, kind_kubeconfig: str, tmp_path: Path) -> None:
    out = tmp_path / "faults"
    done = run_to_the_end(free_cluster, out, HERE / "drills" / "faults.yaml", "--load-workers", "2")
    assert done.returncode in (0, 1), done.stdout + done.stderr
    records = {record.name: record for record in Ledger(out).records()}
    assert all(record.state == "reverted" for record in records.values())
    with RunStore(out / "run.sqlite") as store:
        before = good(store, *store.meta()["windows"]["baseline"])
        throttled = records["slow-wire"]
        misrouted = records["wrong-route"]
        lost = records["lost-metrics"]
        starved = records["small-proxy"]
        senders = {process for process, _, _ in store.samples_of("request_total") if process.startswith("loadgen-")}
        scrapes = {
            process: [at for at, _ in samples if _inside(at, lost)]
            for process, _, samples in store.samples_of("process_cpu_seconds_total")
        }
        killed = [event.text for event in store.events() if event.kind == "restart" and "OOMKilled" in event.text]
        assert before > 0.95
        assert good(store, throttled.injected_at + 3.0, throttled.injected_at + 9.0) < 0.7
        assert good(store, misrouted.injected_at + 2.0, misrouted.injected_at + 7.0) < 0.1
        assert good(store, starved.injected_at + 8.0, starved.injected_at + 20.0) < 0.2
        assert good(store, lost.injected_at + 1.0, lost.injected_at + 7.0) > 0.9
        end = max(r.intended_at for r in store.requests())
        assert good(store, end - 4.0, end - 1.0) > 0.9
    assert senders == {"loadgen-0/proxy", "loadgen-1/proxy"}
    assert scrapes["back-0/proxy"] == []
    assert len(scrapes["front-0/proxy"]) >= 4
    assert any(text.startswith("back-0: linkerd-proxy") for text in killed)
    assert leftovers(kind_kubeconfig, "faults") == []


def _inside(at: float, record: Record) -> bool:
    """In the fault's time, less a second at either end."""
    assert record.injected_at is not None
    assert record.reverted_at is not None
    return record.injected_at + 1.5 < at < record.reverted_at - 0.5


def injected(out: Path) -> bool:
    return (out / "ledger.sqlite").is_file() and any(r.injected_at is not None for r in Ledger(out).records())


def reverted(out: Path) -> bool:
    return all(record.reverted_at is not None for record in Ledger(out).records())


def wait_until(holds: Callable[[], bool], seconds: float, told: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(0.3)
