"""The driver as the runner starts it: real locust, a real workload, and a stall that must not hide."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.ports import free_port
from loadtests.client import Client
from loadtests.plan import LoadPlan, command, environment, write_plan
from loadtests.results import RequestResult, ResultTail
from loadtests.schedule import arrivals

pytestmark = pytest.mark.e2e

HOST = "127.82.4.1"
APP = """\
apiVersion: gameday.dev/v1
kind: Application
metadata: {name: one}
spec:
  services:
    shop:
      namespace: shop
      workers: 200
      queue: 1000
      routes:
        GET /x: {time: 5ms}
        POST /y: {time: 5ms}
        GET /bad: {time: 1ms, failureRate: 100%}
  journeys:
    one: {share: 50%, steps: [GET shop /x]}
    two: {share: 50%, steps: [GET shop /x, POST shop /y]}
    bad: {share: 0%, steps: [GET shop /bad, GET shop /x]}
"""


class Shop:
    """A workload to send to."""

    def __init__(self, folder: Path) -> None:
        self.app = folder / "app.yaml"
        self.app.write_text(APP)
        self.port, self.admin = free_port(), free_port()
        addresses = ["--listen", f"{HOST}:{self.port}", "--admin", f"{HOST}:{self.admin}"]
        workload = [sys.executable, "-m", "scenarios.workload", "--app", str(self.app), "--service", "shop"]
        self.process = subprocess.Popen([*workload, *addresses])
        deadline = time.monotonic() + 15
        while True:
            try:
                self.freeze(False)
                return
            except OSError:
                assert time.monotonic() < deadline, "never ready"
                time.sleep(0.05)

    def freeze(self, frozen: bool) -> None:
        connection = http.client.HTTPConnection(HOST, self.admin, timeout=5)
        connection.request("PUT", "/faults", json.dumps({"freeze": frozen}))
        assert connection.getresponse().status == 200
        connection.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.process.kill()
    shop.process.wait()


@pytest.fixture
def plan(shop: Shop, tmp_path: Path) -> Callable[..., LoadPlan]:
    def make(**changes: object) -> LoadPlan:
        values: dict[str, object] = {
            "app": str(shop.app),
            "proxy": f"http://{HOST}:{shop.port}",
            "rate": 50.0,
            "mix": {"one": 1.0},
            "max_in_flight": 500,
            "timeout_seconds": 5.0,
            "seed": 3,
            "duration_seconds": 60.0,
            "output": str(tmp_path / "requests.ndjson"),
        }
        return LoadPlan(**(values | changes))  # type: ignore[arg-type]

    return make


@contextmanager
def driving(plan: LoadPlan, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[float], None]]]:
    """The driver's process, and a wait until so many seconds after the first result."""
    write_plan(plan, folder / "plan.json")
    process = subprocess.Popen(command(), env=os.environ | environment(folder / "plan.json"), cwd=folder)
    try:
        deadline = time.monotonic() + 30
        while not ResultTail(Path(plan.output)).read():
            assert time.monotonic() < deadline, "no result"
            time.sleep(0.02)
        began = time.monotonic()
        yield process, lambda seconds: time.sleep(max(0.0, began + seconds - time.monotonic()))
    finally:
        process.kill()
        process.wait()


def results(plan: LoadPlan) -> list[RequestResult]:
    return ResultTail(Path(plan.output)).read()


def test_requests_follow_the_seeded_schedule_and_sigterm_ends_it_with_0(
    plan: Callable[..., LoadPlan], tmp_path: Path
) -> None:
    asked = plan(mix={"one": 0.5, "two": 0.5})
    with driving(asked, tmp_path) as (process, until):
        until(3.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=8) == 0
    found = results(asked)
    assert all(result.status == 200 and result.error is None for result in found)

    firsts = sorted((r for r in found if r.route == "GET shop /x"), key=lambda r: r.intended_at)
    schedule = list(arrivals(asked.rate, asked.mix, asked.seed, asked.duration_seconds))[: len(firsts)]
    assert [r.journey for r in firsts] == [arrival.journey for arrival in schedule]
    start = firsts[0].intended_at - schedule[0].at
    assert [r.intended_at - start for r in firsts] == pytest.approx([a.at for a in schedule], abs=2e-5)

    seconds = [r for r in found if r.route == "POST shop /y"]
    assert len(seconds) == sum(r.journey == "two" for r in firsts)
    ends = {r.finished_at for r in firsts if r.journey == "two"}
    assert all(r.intended_at in ends for r in seconds)
    assert len({r.trace_id for r in found}) == len(found)


def test_a_stall_shows_in_the_latencies_of_all_who_arrived_during_it(
    plan: Callable[..., LoadPlan], shop: Shop, tmp_path: Path
) -> None:
    """chaos.md finding 8: users who wait for answers send 18 ms through a stall of seconds; arrivals do not."""
    asked = plan(rate=100.0)
    with driving(asked, tmp_path) as (process, until):
        until(1.0)
        frozen_at = time.time()
        shop.freeze(True)
        until(3.0)
        shop.freeze(False)
        thawed_at = time.time()
        until(4.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=8) == 0
    found = results(asked)
    during = [r for r in found if frozen_at + 0.1 < r.intended_at < thawed_at - 0.1]
    assert len(during) == pytest.approx(180, rel=0.35)  # they went on arriving
    assert all(r.finished_at is not None and r.finished_at - r.intended_at > 0.09 for r in during)
    latencies = sorted(r.finished_at - r.intended_at for r in found if r.finished_at is not None)
    assert latencies[len(latencies) // 2] < 1.9  # the median may be inside the stall; the tail must be
    assert latencies[int(len(latencies) * 0.95)] > 1.5


def test_arrivals_beyond_the_cap_are_dropped_on_record_and_late_answers_time_out(
    plan: Callable[..., LoadPlan], shop: Shop, tmp_path: Path
) -> None:
    asked = plan(max_in_flight=20, timeout_seconds=1.0)
    with driving(asked, tmp_path) as (process, until):
        shop.freeze(True)
        until(3.0)
        process.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        assert process.wait(timeout=8) == 0
        assert time.monotonic() - stopped < 3.5
    found = results(asked)
    dropped = [r for r in found if r.error == "dropped"]
    timed_out = [r for r in found if r.error == "timeout"]
    assert dropped
    assert timed_out
    assert all(r.sent_at is None and r.status is None for r in dropped)
    assert all(r.sent_at is not None and r.status is None and r.finished_at is None for r in timed_out)
    # Nobody is missing: what was recorded is the schedule, arrival for arrival.
    times = sorted(r.intended_at for r in found)
    schedule = [a.at for a in arrivals(asked.rate, asked.mix, asked.seed, asked.duration_seconds)][: len(times)]
    assert [at - times[0] for at in times] == pytest.approx([at - schedule[0] for at in schedule], abs=2e-5)


def test_connections_are_kept_from_one_request_to_the_next() -> None:
    accepted = 0
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            nonlocal accepted
            connection, _ = server.accept()
            accepted += 1
            with connection:
                while connection.recv(65536):
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        threading.Thread(target=serve, daemon=True).start()
        client = Client(HOST, server.getsockname()[1])
        statuses = [client.exchange(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", time.monotonic() + 5)[0] for _ in range(3)]
        client.close()
    assert (statuses, accepted) == ([200, 200, 200], 1)


def test_a_failed_step_ends_its_journey(plan: Callable[..., LoadPlan], tmp_path: Path) -> None:
    asked = plan(mix={"bad": 1.0})
    with driving(asked, tmp_path) as (process, until):
        until(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=8) == 0
    assert {(r.route, r.status) for r in results(asked)} == {("GET shop /bad", 500)}


def test_nobody_listening_is_recorded_and_the_plans_end_is_the_drivers(
    plan: Callable[..., LoadPlan], tmp_path: Path
) -> None:
    asked = plan(proxy=f"http://{HOST}:{free_port()}", duration_seconds=1.0)
    with driving(asked, tmp_path) as (process, _):
        assert process.wait(timeout=15) == 0
    found = results(asked)
    assert {r.error for r in found} == {"connect"}
    assert len(found) == len(list(arrivals(asked.rate, asked.mix, asked.seed, 1.0)))


def test_a_plan_that_cannot_be_used_is_one_line_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    done = subprocess.run(
        command(), env=os.environ | environment(tmp_path / "plan.json"), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "plan.json: Object missing required field" in done.stderr
    assert "Traceback" not in done.stderr


def test_by_hand_users_are_arrivals_a_second(shop: Shop) -> None:
    by_hand = [*command()[:5], "--headless", "-u", "20", "-r", "20", "-t", "6s", "--json"]
    variables = {"GAMEDAY_APP": str(shop.app), "GAMEDAY_SEED": "1"}
    host = ["--host", f"http://{HOST}:{shop.port}"]
    done = subprocess.run([*by_hand, *host], env=os.environ | variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    stats = json.loads(done.stdout)
    assert sum(entry["num_failures"] for entry in stats) == 0
    shop_x = next(entry for entry in stats if entry["name"] == "shop /x")
    seconds = shop_x["last_request_timestamp"] - shop_x["start_time"]
    assert shop_x["num_requests"] / seconds == pytest.approx(20, rel=0.6)
