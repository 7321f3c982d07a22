"""Whole game days in a real cluster: to a report through an API server that is killed, of a runner that is killed with
its reaper, and with every fault of Kubernetes.

The runs install a mesh of their own, so the one that other tests share is taken out first; they install it again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import yaml

from chaos.actions import inject_fault
from chaos.ledger import Ledger, Record
from chaos.processes import is_alive, recorded_children
from gameday.worlds.kind.names import RUN_LABEL, SERVICE_LABEL, WORKLOAD_ADMIN_PORT
from mesh.deploy.apply import remove
from mesh.deploy.owned import owned_objects
from mesh.deploy.paths import CLUSTER_ROLE, CRD, NAMESPACE, list_labelled, request
from mesh.kube.client import connect
from reports.store import RunStore

pytestmark = [pytest.mark.kind, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
TINY = HERE.parent / "local" / "tiny" / "scenario.yaml"
RATE = 30.0
"""Requests a second that it sends."""
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


class Running:
    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def output(self) -> str:
        return self._log.read_text()


@contextmanager
def running(cluster: str, out: Path, *arguments: str) -> Iterator[Running]:
    """The tiny game day under way; it is killed where the test ends before it does."""
    command = [*GAMEDAY, "run", str(TINY), "--world", "kind", "--cluster", cluster, "--out", str(out), "--plain"]
    log = out.parent / f"{out.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *arguments], stdout=output, stderr=subprocess.STDOUT, cwd=out.parent)
    try:
        yield Running(process, log)
    finally:
        process.kill()
        process.wait()


def kubectl(kubeconfig: str) -> Callable[..., str]:
    def run(*words: str) -> str:
        command = ["kubectl", "--kubeconfig", kubeconfig, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    return run


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


def test_in_a_context_of_the_users_own_a_namespace_that_is_somebodys_is_not_touched(
    free_cluster: str, kind_kubeconfig: str, tmp_path: Path
) -> None:
    """A kubeconfig that no tool of ours has written: its names are its user's."""
    given = yaml.safe_load(Path(kind_kubeconfig).read_text())
    (cluster,), (user,) = given["clusters"], given["users"]
    cluster["name"], user["name"] = "staging", "me"
    given["contexts"] = [{"name": "work", "context": {"cluster": "staging", "user": "me", "namespace": "tiny"}}]
    given["current-context"] = ""
    mine = tmp_path / "config"
    mine.write_text(yaml.safe_dump(given))
    api, out = kubectl(kind_kubeconfig), tmp_path / "guarded"
    api("create", "namespace", "tiny")
    try:
        before = api("get", "namespace", "tiny", "-o", "json")
        command = [*GAMEDAY, "run", str(TINY), "--world", "kind", "--context", "work", "--out", str(out), "--plain"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"KUBECONFIG": str(mine)},
            timeout=60,
        )
        assert done.returncode == 2, done.stdout + done.stderr
        assert "the cluster has tiny already" in done.stderr
        assert "--allow-namespace tiny" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not out.exists()
        assert api("get", "namespace", "tiny", "-o", "json") == before
        assert leftovers(kind_kubeconfig, "guarded") == ["tiny"]
    finally:
        api("delete", "namespace", "tiny")


def test_a_game_day_goes_to_its_report_through_a_killed_api_server_and_leaves_nothing(
    free_cluster: str, kind_kubeconfig: str, tmp_path: Path
) -> None:
    """It is killed once the fault is over: what the runner missed is taken up from where the connection broke."""
    out = tmp_path / "tiny"
    with running(free_cluster, out, "--set", "phases.recover=25s") as run:
        wait_until(lambda: injected(out) and reverted(out), 240.0, run.output)
        killed_at = time.time()
        subprocess.run(
            ["docker", "exec", f"{free_cluster}-control-plane", "pkill", "-KILL", "-x", "kube-apiserver"], check=True
        )
        assert run.process.wait(240) in (0, 1), run.output()
    (away,) = re.findall(r"the agent is back after ([0-9.]+) s; nothing was lost", run.output())
    print(f"the agent was not to be reached for {away} s")
    with RunStore(out / "run.sqlite") as store:
        missed = list(store.requests(killed_at, killed_at + float(away)))
        everything = list(store.requests())
    assert len(missed) > 0.7 * RATE * float(away), "sent while nobody listened"
    assert len({(r.route, r.intended_at) for r in everything}) == len(everything), "nothing is told twice"
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


def test_a_fault_that_runner_and_reaper_do_not_outlive_is_reverted_in_the_cluster_and_cleaned_up_by_recover(
    free_cluster: str, kind_kubeconfig: str, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    with running(free_cluster, out) as run:
        wait_until(lambda: injected(out), 240.0, run.output)
        # As if the machine were gone: the reaper would see the runner's end, and chaostoolkit reverts when it is ended.
        run.process.send_signal(signal.SIGSTOP)
        here = [child for child in recorded_children(out) if is_alive(child.pid, child.start)]
        assert {"reaper", "runner"} < {child.name for child in here}
        for child in here:
            os.kill(child.pid, signal.SIGKILL)
        run.process.wait()
    (record,) = Ledger(out).records()
    api = kubectl(kind_kubeconfig)
    (pod,) = api("-n", "tiny", "get", "pods", "-l", f"{SERVICE_LABEL}=back", "-o", "name").split()
    faults = f"/api/v1/namespaces/tiny/{pod.replace('pod/', 'pods/')}:{WORKLOAD_ADMIN_PORT}/proxy/faults"
    assert json.loads(api("get", "--raw", faults))["errorRate"] == 0.5

    def in_the_cluster() -> dict[str, str]:
        found = api("-n", "gameday", "get", "configmap", "gameday-ledger", "-o", "json")
        return dict(json.loads(found)["data"])

    wait_until(lambda: "reverted.back-fails" in in_the_cluster(), 60.0, lambda: str(in_the_cluster()))
    late = float(in_the_cluster()["reverted.back-fails"]) - record.deadline
    print(f"the Job reverted {late:.2f} s after the time to live")
    assert 0.0 <= late < 5.0
    assert json.loads(api("get", "--raw", faults))["errorRate"] == 0.0
    assert [r.state for r in Ledger(out).records()] == ["injected"], "nobody here has done it"

    # A reaper that is alive does not wait for the time to live, once it sees that the runner is gone.
    again = {"name": "again", "kind": "app-degrade", "at": 0.0, "duration": 300.0}
    inject_fault(str(out), again | {"targets": {"service": "back", "replicas": 1}, "parameters": {"errorRate": 0.5}})
    assert json.loads(api("get", "--raw", faults))["errorRate"] == 0.5
    subprocess.run([sys.executable, "-m", "chaos.reaper", str(out)], check=True, timeout=60)
    assert reverted(out)
    assert json.loads(api("get", "--raw", faults))["errorRate"] == 0.0
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
        assert good(store, throttled.injected_at + 1.0, throttled.injected_at + 3.0) < 0.5
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
