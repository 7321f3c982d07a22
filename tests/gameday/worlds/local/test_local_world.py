"""Whole embedded worlds: real control plane, proxies and apps, the smallest topology."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from chaos.faults.catalogue import FAULTS
from chaos.ledger import Ledger
from chaos.processes import is_alive, record_child, recorded_children
from chaos.requests import Step, perform, perform_all
from chaos.world import WorldState, read_world
from gameday.errors import WorldFailed
from gameday.worlds.local.recover import marked_processes, recover
from gameday.worlds.local.supervisor import IDLE_ORPHAN_SECONDS
from gameday.worlds.local.world import LocalWorld
from mesh.viz.pods import Pod
from scenarios.load import load_scenario
from scenarios.model import FaultSpec, Scenario

pytestmark = pytest.mark.e2e

TINY = Path(__file__).parents[3] / "e2e" / "local" / "tiny" / "scenario.yaml"
VISIT = "http://front.tiny.svc.cluster.local:{port}/"


@pytest.fixture(scope="module")
def tiny() -> Scenario:
    return load_scenario(TINY)


def made(folder: Path, scenario: Scenario) -> LocalWorld:
    (folder / "logs").mkdir(parents=True)
    return LocalWorld(scenario, folder, 1)


def with_world(folder: Path, scenario: Scenario, body: Callable[[LocalWorld], Awaitable[None]]) -> None:
    async def whole() -> None:
        world = made(folder, scenario)
        try:
            await world.up(lambda _: None)
            await body(world)
        finally:
            await world.down()

    asyncio.run(whole())
    assert marked_processes(folder) == []


async def visit(world: LocalWorld, scenario: Scenario) -> int:
    """Status of one request that enters at the load pod and goes through both hops."""

    def ask() -> int:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://{world.load_entry()}"}))
        try:
            with opener.open(VISIT.format(port=scenario.app.service("front").port), timeout=5.0) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    return await asyncio.to_thread(ask)


async def until_answered(world: LocalWorld, scenario: Scenario, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while (status := await visit(world, scenario)) != 200:
        assert time.monotonic() < deadline, f"still {status} after {seconds} s"
        await asyncio.sleep(0.1)


def post(state: WorldState, path: str, body: str = "") -> None:
    perform(Step("POST", state.supervisor_url(path), body))


def slice_says_ready(folder: Path, pod: str) -> bool:
    manifest = msgspec.json.decode((folder / "registry" / f"endpoints-{pod}.json").read_bytes())
    return bool(manifest["endpoints"][0]["conditions"]["ready"])


async def until(claim: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)


def test_a_request_crosses_the_mesh_and_everything_is_measured(tmp_path: Path, tiny: Scenario) -> None:
    async def body(world: LocalWorld) -> None:
        await until_answered(world, tiny)
        usage = {entry.process: entry for entry in world.usage()}
        assert {"front-0/app", "front-0/proxy", "loadgen-0/proxy", "control/identity"} <= usage.keys()
        machine = usage.pop("machine", None)  # where there is /proc
        assert all(entry.cpu_seconds > 0 and entry.rss_bytes > 1e6 for entry in usage.values())
        assert machine is None or machine.cpu_seconds > sum(entry.cpu_seconds for entry in usage.values())
        for name, url in world.scrape_targets():
            with urllib.request.urlopen(url, timeout=5.0) as answer:
                assert answer.status == 200, name

    with_world(tmp_path, tiny, body)


def test_a_killed_pod_leaves_its_endpoints_and_comes_back(tmp_path: Path, tiny: Scenario) -> None:
    async def body(world: LocalWorld) -> None:
        await until_answered(world, tiny)
        before = read_world(tmp_path)
        post(before, "/pods/back-0/kill")
        await until(lambda: not slice_says_ready(tmp_path, "back-0"), 1.0)
        await until(lambda: slice_says_ready(tmp_path, "back-0"))
        after = read_world(tmp_path).processes
        assert after["back-0/app"] != before.processes["back-0/app"]
        assert after["back-0/proxy"] != before.processes["back-0/proxy"]
        await until_answered(world, tiny)

    with_world(tmp_path, tiny, body)


def test_identity_that_returns_is_found_by_pods_that_started_while_it_was_away(tmp_path: Path, tiny: Scenario) -> None:
    services = tuple(replace(service, replicas=4) for service in tiny.app.services)
    many = replace(tiny, app=replace(tiny.app, services=services))

    async def body(world: LocalWorld) -> None:
        state = read_world(tmp_path)
        post(state, "/processes/control/identity/down", '{"signal":"KILL"}')
        await until(lambda: "control/identity" not in read_world(tmp_path).processes)
        for pod in state.pods:
            post(state, f"/pods/{pod.name}/kill")
        await asyncio.sleep(4.0)
        # Nine proxies wait for a certificate now, more than may be starting at once.
        assert not slice_says_ready(tmp_path, "back-0")
        assert "control/identity" not in read_world(tmp_path).processes, "down means down"
        post(state, "/processes/control/identity/up")
        post(state, "/processes/control/identity/up")
        await until(lambda: slice_says_ready(tmp_path, "back-0") and slice_says_ready(tmp_path, "front-0"), 30.0)
        await until_answered(world, many)

    with_world(tmp_path, many, body)


@pytest.mark.parametrize("addresses", ["ranges", "ports"])
def test_two_worlds_at_once_do_not_meet(
    tmp_path: Path, tiny: Scenario, addresses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if addresses == "ports":
        monkeypatch.setenv("GAMEDAY_RANGE", "127.0.0.1")

    async def whole() -> None:
        worlds = [made(tmp_path / name, tiny) for name in ("one", "two")]
        try:
            await asyncio.gather(*(world.up(lambda _: None) for world in worlds))
            assert worlds[0].load_entry() != worlds[1].load_entry()
            for world in worlds:
                await until_answered(world, tiny)
            await worlds[0].down()
            assert await visit(worlds[1], tiny) == 200
        finally:
            for world in worlds:
                await world.down()

    asyncio.run(whole())
    assert marked_processes(tmp_path / "one") == marked_processes(tmp_path / "two") == []


def test_an_app_that_does_not_start_fails_the_world_soon_and_says_why(tmp_path: Path, tiny: Scenario) -> None:
    words = (sys.executable, "-c", "raise SystemExit('no such database')")
    services = tuple(replace(s, command=words) if s.name == "back" else s for s in tiny.app.services)
    broken = replace(tiny, app=replace(tiny.app, services=services))
    began = time.monotonic()
    with pytest.raises(WorldFailed, match="back-0/app does not start: no such database"):
        with_world(tmp_path, broken, lambda _: asyncio.sleep(0))
    assert time.monotonic() - began < 30.0
    assert marked_processes(tmp_path) == []


RUNNER = """
import asyncio, os, sys, time
from pathlib import Path
from chaos.processes import record_child
from gameday.worlds.local.world import LocalWorld
from scenarios.load import load_scenario
run = Path(sys.argv[1])
(run / "logs").mkdir(parents=True)
record_child(run, "runner", os.getpid())
asyncio.run(LocalWorld(load_scenario(sys.argv[2]), run, 1).up(lambda text: print("up", flush=True)))
time.sleep(60)
"""


def killed_runner(folder: Path, environment: dict[str, str]) -> WorldState:
    """A world whose runner was killed once it was up."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(folder), str(TINY)],
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return read_world(folder)


def alive(folder: Path) -> list[str]:
    return [child.name for child in recorded_children(folder) if is_alive(child.pid, child.start)]


def test_the_dashboard_finds_the_proxies_of_an_embedded_world(tmp_path: Path, tiny: Scenario) -> None:
    async def look(_: LocalWorld) -> None:
        pods = msgspec.json.decode((tmp_path / "run" / "pods.json").read_bytes(), type=list[Pod])
        answers = [urllib.request.urlopen(f"http://{pod.admin}/metrics").read() for pod in pods if pod.meshed]
        assert all(b"process_start_time_seconds" in answer for answer in answers)
        seen.extend(pod.owner for pod in pods)

    seen: list[str] = []
    with_world(tmp_path / "run", tiny, look)
    assert set(seen) == {"back", "front", "loadgen"}


def eventually_empty(folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive(folder) == []


def test_a_world_outlives_its_runner_until_its_faults_are_reverted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed_runner(folder, {})
    ledger = Ledger(folder, create=True)
    ledger.begin("f", "k", "t", [Step("DELETE", "unix:/nowhere:/f")], 60.0)
    ledger.injected("f")
    time.sleep(IDLE_ORPHAN_SECONDS + 3.0)
    assert "supervisor" in alive(folder)
    assert ledger.revert("f")
    assert eventually_empty(folder, 15.0)


def test_a_fault_that_nobody_reverts_does_not_keep_a_world_for_ever(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killed_runner(folder, {"GAMEDAY_ORPHAN_SECONDS": "5"})
    ledger = Ledger(folder, create=True)
    ledger.begin("f", "k", "t", [Step("DELETE", "unix:/nowhere:/f")], 60.0)
    assert eventually_empty(folder, 20.0)


def test_recover_ends_all_of_a_dead_runner_and_twice_is_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    state = killed_runner(folder, {})
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        record_child(folder, "old", bystander.pid)
        recorded = f'["old",{bystander.pid},"'
        text = (folder / "children.ndjson").read_text().replace(recorded, recorded + "9")
        (folder / "children.ndjson").write_text(text)
        lines = recover(folder)
        assert "the supervisor ended the world" in lines
        assert not [line for line in lines if "still taken" in line]
        assert bystander.poll() is None, "the same pid with another start is another process"
    finally:
        bystander.kill()
        bystander.wait()
    assert alive(folder) == []
    assert not Path(state.supervisor.socket).exists()
    assert recover(folder) == ["nothing was left"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a kernel that ends children with their parent")
def test_kill_9_of_the_supervisor_too_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    state = killed_runner(folder, {})
    os.kill(state.supervisor.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5.0
    while marked_processes(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert marked_processes(folder) == []
    recover(folder)
    assert not Path(state.supervisor.socket).parent.exists()


def test_a_wrong_route_and_lost_telemetry_come_and_go(tmp_path: Path, tiny: Scenario) -> None:
    def fault(kind: str, **targets: str | int) -> FaultSpec:
        return FaultSpec("drill", kind, 0.0, 5.0, targets, {})

    async def body(world: LocalWorld) -> None:
        await until_answered(world, tiny)
        state = read_world(tmp_path / "run")
        wrong = FAULTS["misroute"].steps(fault("misroute", service="front"), state)
        await asyncio.to_thread(perform_all, wrong.inject)
        deadline = time.monotonic() + 10.0
        while (status := await visit(world, tiny)) == 200:
            assert time.monotonic() < deadline, "requests still arrive"
            await asyncio.sleep(0.1)
        assert status >= 500
        await asyncio.to_thread(perform_all, wrong.revert)
        await until_answered(world, tiny)

        lost = FAULTS["telemetry-loss"].steps(fault("telemetry-loss", service="back"), state)
        await asyncio.to_thread(perform_all, lost.inject)
        blocked = {name for name, url in world.scrape_targets() if url is None}
        assert blocked == {"back-0/app", "back-0/proxy"}
        await asyncio.to_thread(perform_all, lost.revert)
        assert all(url is not None for _, url in world.scrape_targets())

    with_world(tmp_path / "run", tiny, body)
