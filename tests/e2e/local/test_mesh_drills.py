"""The embedded world's mesh, held to what the guide and Linkerd promise: certificates, expiry, retries, outages."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chaos.requests import Step, perform
from chaos.world import WorldState, read_world
from gameday.scrape import parse_exposition
from gameday.worlds.local.world import LocalWorld
from mesh.control.names import identity_name
from scenarios.load import load_scenario
from sim.forecast.predict import cold_observation, make_forecast
from tests.e2e.local.conftest import TINY

pytestmark = pytest.mark.e2e
FRONT, BACK = "front.tiny.svc.cluster.local:8080", "back.tiny.svc.cluster.local:8080"
LEAF_SECONDS = 6.0


class Mesh:
    """A tiny world that is up."""

    def __init__(self, folder: Path, leaf_seconds: float) -> None:
        (folder / "logs").mkdir()
        self.folder = folder
        overrides = (f"identity.leafLifetime={leaf_seconds:g}s", "identity.clockSkew=500ms", "identity.minRefresh=1s")
        self.scenario = load_scenario(str(TINY), overrides=overrides)
        self.world = LocalWorld(self.scenario, folder, 1)
        asyncio.run(self.world.up(lambda _: None))

    @property
    def state(self) -> WorldState:
        return read_world(self.folder)

    def get(self, authority: str, path: str = "/", connection: http.client.HTTPConnection | None = None) -> int:
        """Status of a GET through the load generator's proxy."""
        own = connection or self.connection()
        own.request("GET", f"http://{authority}{path}", headers={"host": authority})
        answer = own.getresponse()
        answer.read()
        if connection is None:
            own.close()
        return answer.status

    def connection(self) -> http.client.HTTPConnection:
        host, _, port = self.world.load_entry().partition(":")
        return http.client.HTTPConnection(host, int(port), timeout=15)

    def metric(self, process: str, name: str, *labels: str) -> float:
        """Sum of a metric's samples whose labels contain all of `labels`."""
        url = dict(self.world.scrape_targets())[process]
        text = perform(Step("GET", url)).decode()
        return sum(v for n, found, v in parse_exposition(text) if n == name and all(label in found for label in labels))

    def control(self, component: str, what: str) -> None:
        body = '{"signal":"KILL"}' if what == "down" else ""
        perform(Step("POST", self.state.supervisor_url(f"/processes/control/{component}/{what}"), body))

    def pod(self, service: str) -> Any:
        return self.state.pods_of(service)[0]


@pytest.fixture
def mesh(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """Its leaves live `LEAF_SECONDS`, or what an indirect parameter says."""
    made = Mesh(tmp_path, getattr(request, "param", LEAF_SECONDS))
    yield made
    asyncio.run(made.world.down())


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh for all tests that leave it as they found it."""
    made = Mesh(tmp_path_factory.mktemp("steady"), LEAF_SECONDS)
    yield made
    asyncio.run(made.world.down())


def eventually(check: Any, seconds: float) -> float:
    """Seconds until `check()` is true; fails after `seconds`."""
    began = time.monotonic()
    while not check():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - began


def test_openssl_sees_tls_1_3_and_the_documented_name(steady: Mesh) -> None:
    name = identity_name("back", "tiny")
    command = ["openssl", "s_client", "-connect", steady.pod("back").inbound, "-servername", name, "-showcerts"]
    command += ["-CAfile", str(steady.folder / "pki" / "trust-anchors.pem"), "-verify_hostname", name]
    seen = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=20)
    assert "TLSv1.3" in seen.stdout
    assert "Verify return code: 0 (ok)" in seen.stdout, seen.stdout
    text = subprocess.run(
        ["openssl", "x509", "-noout", "-text"], input=seen.stdout, capture_output=True, text=True, check=True
    ).stdout
    assert f"DNS:{name}" in text
    assert "prime256v1" in text


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not hasattr(socket, "AF_PACKET"), reason="capturing needs root on Linux")
def test_nothing_but_tls_crosses_between_meshed_pods(steady: Mesh) -> None:
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    sniffer.bind(("lo", 0))
    sniffer.settimeout(0.2)
    payloads: dict[int, bytearray] = {4143: bytearray(), 8080: bytearray()}
    ours = steady.pod("back").ip.rpartition(".")[0]
    done = threading.Event()

    def capture() -> None:
        while not done.is_set():
            try:
                frame = sniffer.recv(65535)
            except TimeoutError:
                continue
            header = (frame[14] & 0x0F) * 4
            if frame[23] != socket.IPPROTO_TCP or not socket.inet_ntoa(frame[30:34]).startswith(ours):
                continue
            tcp = 14 + header
            source, target = struct.unpack("!HH", frame[tcp : tcp + 4])
            data = frame[tcp + (frame[tcp + 12] >> 4) * 4 :]
            for port in (source, target):
                if port in payloads:
                    payloads[port] += data

    watcher = threading.Thread(target=capture)
    watcher.start()
    for _ in range(20):
        assert steady.get(FRONT) == 200
    time.sleep(0.3)
    done.set()
    watcher.join()
    sniffer.close()
    assert len(payloads[4143]) > 2_000
    for plain in (b"HTTP/1.1", b"GET /", b"application/json", b"cluster.local:8080"):
        assert plain in payloads[8080] or plain == b"cluster.local:8080"  # app ↔ its own proxy: the capture does see it
        assert plain not in payloads[4143]
    assert b"PRI * HTTP/2.0" not in payloads[4143]  # nor HTTP/2 in the clear, whose heads one could not read


def test_a_killed_pod_costs_502_for_all_that_was_under_way_and_nothing_is_sent_twice(steady: Mesh) -> None:
    assert steady.get(BACK) == 200
    perform(Step("PUT", f"http://{steady.pod('back').workload_admin}/faults", '{"latencySeconds":5}'))
    arrived = steady.metric("loadgen-0/proxy", "request_total", 'direction="outbound"')
    with ThreadPoolExecutor(8) as pool:
        under_way = [pool.submit(steady.get, BACK) for _ in range(8)]
        eventually(
            lambda: steady.metric("loadgen-0/proxy", "request_total", 'direction="outbound"') == arrived + 8, 3.0
        )
        perform(Step("POST", steady.state.supervisor_url("/pods/back-0/kill"), ""))
        assert [future.result() for future in under_way] == [502] * 8
    assert steady.metric("loadgen-0/proxy", "outbound_http_resent_total") == 0
    eventually(lambda: steady.get(BACK) == 200, 20.0)  # the fault died with its pod


@pytest.mark.parametrize("mesh", [12.0], indirect=True)
def test_identity_back_before_expiry_costs_nothing(mesh: Mesh) -> None:
    connection = mesh.connection()
    mesh.control("identity", "down")
    statuses = Counter[int]()
    deadline = time.monotonic() + 1.2  # a leaf has at least 3.7 s left when its renewal is due
    while time.monotonic() < deadline:
        statuses[mesh.get(FRONT, connection=connection)] += 1
        time.sleep(0.02)
    mesh.control("identity", "up")
    deadline = time.monotonic() + 13.0
    while time.monotonic() < deadline:
        statuses[mesh.get(FRONT, connection=connection)] += 1
        time.sleep(0.02)
    assert set(statuses) == {200}
    assert mesh.metric("front-0/proxy", "tls_handshake_failures_total") == 0


def test_after_expiry_new_handshakes_fail_old_connections_live_and_the_mesh_heals(mesh: Mesh) -> None:
    stop = threading.Event()
    busy = Counter[int]()

    def keep_busy() -> None:
        connection = mesh.connection()
        while not stop.is_set():
            busy[mesh.get(FRONT, connection=connection)] += 1
            time.sleep(0.05)

    worker = threading.Thread(target=keep_busy)
    worker.start()
    try:
        time.sleep(1.0)
        mesh.control("identity", "down")
        time.sleep(LEAF_SECONDS + 2.0)
        # `back` was never called by the load generator's own proxy: it needs a new handshake, and does not get one.
        assert mesh.get(BACK) in (503, 504)
        failures = ("loadgen-0/proxy", "front-0/proxy", "back-0/proxy")
        assert mesh.metric("loadgen-0/proxy", "control_identity_cert_expiration_timestamp_seconds") < time.time()
        mesh.control("identity", "up")
        healed = eventually(lambda: mesh.get(BACK) == 200, 12.0)
    finally:
        stop.set()
        worker.join()
    assert healed < 12.0
    assert busy[200] > 100
    assert set(busy) == {200}, busy
    counted = sum(mesh.metric(process, "tls_handshake_failures_total") for process in failures)
    control = mesh.metric("loadgen-0/proxy", "control_response_total", 'classification="failure"')
    assert counted + control > 0


def test_busy_clients_outlive_the_control_plane_and_idle_ones_do_not(mesh: Mesh) -> None:
    assert (mesh.get(BACK), mesh.get(FRONT)) == (200, 200)
    for component in ("identity", "destination", "policy"):
        mesh.control(component, "down")
    connection = mesh.connection()
    busy = Counter[int]()
    deadline = time.monotonic() + 6.5  # longer than the discovery cache keeps what is not used
    while time.monotonic() < deadline:
        busy[mesh.get(FRONT, connection=connection)] += 1
        time.sleep(0.02)
    assert set(busy) == {200}
    assert mesh.get(BACK) == 504
    for component in ("identity", "destination", "policy"):
        mesh.control(component, "up")
    eventually(lambda: mesh.get(BACK) == 200, 20.0)


POLICIES: dict[str, dict[str, str]] = {
    "no retries": {},
    "limit 1": {"retry.linkerd.io/http": "5xx", "retry.linkerd.io/limit": "1"},
    "limit 3": {"retry.linkerd.io/http": "5xx", "retry.linkerd.io/limit": "3"},
}


def test_retries_amplify_by_their_limit_are_held_by_a_budget_and_the_twin_knows(steady: Mesh) -> None:
    perform(Step("PUT", f"http://{steady.pod('back').workload_admin}/faults", '{"errorRate":0.5,"status":503}'))
    measured = {}
    for name, policy in POLICIES.items():
        _annotate(steady, policy)
        measured[name] = _amplification(steady)
    _annotate(steady, {})
    profile = Path(steady.folder / "registry" / "profile.json")
    profile.write_text(json.dumps(PROFILE))
    time.sleep(1.0)
    measured["budget"] = _amplification(steady, requests=1200)

    assert measured["no retries"] == pytest.approx(1.0, abs=0.01)
    assert measured["limit 1"] == pytest.approx(1.5, abs=0.08)
    assert measured["limit 3"] == pytest.approx(1.875, abs=0.16)
    assert measured["no retries"] < measured["limit 1"] < measured["limit 3"]
    assert 1.05 < measured["budget"] < 1.3
    for name in ("limit 1", "limit 3"):
        low, high = _forecast_attempts(POLICIES[name])
        assert low - 0.05 <= measured[name] <= high + 0.05


PROFILE = {
    "apiVersion": "linkerd.io/v1alpha2",
    "kind": "ServiceProfile",
    "metadata": {"name": "back.tiny.svc.cluster.local", "namespace": "tiny"},
    "spec": {
        "routes": [{"name": "GET /", "condition": {"method": "GET", "pathRegex": "/"}, "isRetryable": True}],
        "retryBudget": {"retryRatio": 0.2, "minRetriesPerSecond": 1, "ttl": "10s"},
    },
}


def _annotate(mesh: Mesh, annotations: dict[str, str]) -> None:
    path = mesh.folder / "registry" / "service-back.json"
    manifest = json.loads(path.read_text())
    manifest["metadata"]["annotations"] = annotations
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(manifest))
    temporary.replace(path)
    time.sleep(1.0)


def _amplification(mesh: Mesh, requests: int = 600) -> float:
    """Requests that reached `back` over requests that were meant for it, counted at the server."""

    def arrived() -> float:
        return mesh.metric("back-0/proxy", "request_total", 'direction="inbound"')

    before = arrived()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: _some(mesh, requests // 4), range(4)))
    return (arrived() - before) / requests


def _some(mesh: Mesh, count: int) -> None:
    connection = mesh.connection()
    for _ in range(count):
        mesh.get(BACK, connection=connection)
    connection.close()


def _forecast_attempts(annotations: dict[str, str]) -> tuple[float, float]:
    scenario = replace(load_scenario(str(TINY)), service_annotations={"back": annotations})
    seen = cold_observation(scenario, 1)
    forecast = make_forecast(
        scenario, seen, world="sim", seed=1, planned_injection_at=seen.ended_at + 5.0, time_budget_seconds=5.0
    )
    row = next(
        p
        for p in forecast.predictions
        if (p.quantity, p.subject, p.window) == ("attempts_per_request", "back", "inject")
    )
    return row.low, row.high
