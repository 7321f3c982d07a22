"""The workload as a process of its own: sockets, signals, admin port, calls through a proxy."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ports import free_port

pytestmark = pytest.mark.e2e

APP = """\
apiVersion: gameday.dev/v1
kind: Application
metadata: {name: pair}
spec:
  services:
    front:
      namespace: web
      workers: 1
      queue: 1
      routes:
        POST /buy: {time: 5ms, calls: [POST back /charge]}
        GET /slow: {time: 300ms}
    quitter:
      namespace: web
      workers: 1
      queue: 1
      cancels: true
      routes:
        POST /buy: {time: 5ms, calls: [POST back /charge]}
        GET /slow: {time: 300ms}
    back:
      namespace: pay
      routes: {POST /charge: {time: 1ms}}
  journeys: {buy: {share: 100%, steps: [POST front /buy]}}
"""
HOST = "127.82.3.1"


class Proxy(ThreadingHTTPServer):
    """Records what it is asked for; answers `status`."""

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Handler)
        self.status = 200
        self.close_after_answer = False
        self.answer_after = 0.0
        self.hung_up = threading.Event()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.clients: set[tuple[str, int]] = set()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((self.requestline, {k.lower(): v for k, v in self.headers.items()}))
        self.server.clients.add(self.client_address)
        if self.server.answer_after and select.select([self.connection], [], [], self.server.answer_after)[0]:
            self.server.hung_up.set()  # nothing more is due from this client, so what there is to read is its end
            self.close_connection = True
            return
        closing = self.server.close_after_answer  # as of the request: after the answer the test is a step further
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()
        # Without a word in the header, as an idle timeout does it: the client must notice by itself.
        self.close_connection = closing

    def log_message(self, *_: Any) -> None:
        pass


class Workload:
    def __init__(self, app: Path, proxy: Proxy, service: str = "front") -> None:
        self.port, self.admin = free_port(), free_port()
        environment = os.environ | {"http_proxy": f"http://{HOST}:{proxy.server_port}"}
        command = [sys.executable, "-m", "scenarios.workload", "--app", str(app), "--service", service]
        command += ["--listen", f"{HOST}:{self.port}", "--admin", f"{HOST}:{self.admin}", "--seed", "1"]
        self.process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 15
        while True:
            try:
                assert self.ask("GET", "/ready", admin=True)[0] == 200
                break
            except OSError:
                assert time.monotonic() < deadline, "never ready"
                time.sleep(0.02)

    def ask(
        self, method: str, path: str, body: Any = None, *, admin: bool = False, headers: Any = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.admin if admin else self.port, timeout=10)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def workload(tmp_path: Path, proxy: Proxy, request: pytest.FixtureRequest) -> Iterator[Workload]:
    app = tmp_path / "app.yaml"
    app.write_text(APP)
    workload = Workload(app, proxy, getattr(request, "param", "front"))
    yield workload
    workload.process.kill()
    workload.process.wait()


def in_background(call: Callable[[], tuple[int, bytes]]) -> tuple[threading.Thread, list[tuple[int, bytes]]]:
    results: list[tuple[int, bytes]] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def test_a_call_goes_through_the_proxy_with_the_callers_trace(workload: Workload, proxy: Proxy) -> None:
    trace = {"traceparent": "00-aaaa-bbbb-01", "x-b3-traceid": "cc", "x-request-id": "r1", "cookie": "secret"}
    assert workload.ask("POST", "/buy?x=1", {}, headers=trace)[0] == 200
    line, headers = proxy.seen[0]
    assert line == "POST http://back.pay.svc.cluster.local:8080/charge HTTP/1.1"
    assert headers["host"] == "back.pay.svc.cluster.local:8080"
    assert {name: headers.get(name) for name in trace} == {**trace, "cookie": None}


def test_calls_share_a_connection_and_replace_one_that_was_closed(workload: Workload, proxy: Proxy) -> None:
    for _ in range(3):
        assert workload.ask("POST", "/buy", {})[0] == 200
    assert len(proxy.clients) == 1
    proxy.close_after_answer = True
    assert workload.ask("POST", "/buy", {})[0] == 200
    assert workload.ask("POST", "/buy", {})[0] == 200
    assert (len(proxy.seen), len(proxy.clients)) == (5, 2)


def test_a_failed_call_is_502_and_so_is_a_proxy_that_is_gone(workload: Workload, proxy: Proxy) -> None:
    proxy.status = 503
    assert workload.ask("POST", "/buy", {})[0] == 502
    proxy.shutdown()
    proxy.server_close()
    assert workload.ask("POST", "/buy", {})[0] == 502


def test_a_full_queue_is_503_at_once(workload: Workload) -> None:
    first = in_background(lambda: workload.ask("GET", "/slow"))
    time.sleep(0.05)
    second = in_background(lambda: workload.ask("GET", "/slow"))
    time.sleep(0.05)
    started = time.monotonic()
    assert workload.ask("GET", "/slow")[0] == 503
    assert time.monotonic() - started < 0.15
    for thread, results in (first, second):
        thread.join()
        assert results[0][0] == 200


def test_faults_are_put_read_and_lifted_on_the_admin_port(workload: Workload) -> None:
    body = {"errorRate": 1.0, "status": 504, "latencySeconds": 0.2, "freeze": False, "route": "POST /buy"}
    assert workload.ask("PUT", "/faults", body, admin=True)[0] == 200
    assert json.loads(workload.ask("GET", "/faults", admin=True)[1]) == body
    started = time.monotonic()
    assert workload.ask("POST", "/buy", {})[0] == 504
    assert time.monotonic() - started >= 0.2
    assert workload.ask("DELETE", "/faults", admin=True)[0] == 200
    assert workload.ask("POST", "/buy", {})[0] == 200


@pytest.mark.parametrize(
    "body",
    [{"errorRate": 2}, {"status": 200}, {"freze": True}, {"route": "GET /nowhere"}, [], "x", {"latencySeconds": -1}],
)
def test_wrong_faults_are_400_with_a_reason_and_change_nothing(workload: Workload, body: Any) -> None:
    status, answer = workload.ask("PUT", "/faults", body, admin=True)
    assert status == 400
    assert json.loads(answer)["error"]
    assert json.loads(workload.ask("GET", "/faults", admin=True)[1])["errorRate"] == 0.0


def test_a_freeze_holds_answers_until_it_is_lifted(workload: Workload) -> None:
    workload.ask("PUT", "/faults", {"freeze": True}, admin=True)
    thread, results = in_background(lambda: workload.ask("POST", "/buy", {}))
    time.sleep(0.3)
    assert not results
    workload.ask("PUT", "/faults", {"freeze": False}, admin=True)
    thread.join()
    assert results[0][0] == 200


@pytest.mark.parametrize("workload", ["front", "quitter"], indirect=True)
@pytest.mark.parametrize("kept", [False, True])
def test_a_client_that_leaves_is_worked_for_no_longer_where_the_service_cancels(
    workload: Workload, proxy: Proxy, request: pytest.FixtureRequest, kept: bool
) -> None:
    """While a call of its is under way, on a new connection or on one that another request has used. The one worker is
    free for the next client at once, or after the call."""
    cancels = request.node.callspec.params["workload"] == "quitter"
    if kept:
        assert workload.ask("POST", "/buy")[0] == 200
    proxy.answer_after = 1.5
    calls = len(proxy.seen)
    client = socket.create_connection((HOST, workload.port))
    client.sendall(b"POST /buy HTTP/1.1\r\nhost: front\r\ncontent-length: 0\r\n\r\n")
    deadline = time.monotonic() + 5.0
    while len(proxy.seen) == calls:
        assert time.monotonic() < deadline, "it never called"
        time.sleep(0.01)
    client.close()
    assert proxy.hung_up.wait(5.0 if cancels else 0.5) is cancels
    began = time.monotonic()
    assert workload.ask("GET", "/slow")[0] == 200
    assert (time.monotonic() - began < 0.8) is cancels
    assert f"app_cancelled_total {int(cancels)}" in workload.ask("GET", "/metrics", admin=True)[1].decode()


def test_sigterm_lets_the_request_under_way_finish_and_exits_0(workload: Workload) -> None:
    thread, results = in_background(lambda: workload.ask("GET", "/slow"))
    time.sleep(0.1)
    workload.process.send_signal(signal.SIGTERM)
    assert workload.process.wait(timeout=5) == 0
    thread.join()
    assert results[0][0] == 200


def test_pipelined_requests_are_answered_in_order_and_rubbish_is_400(workload: Workload) -> None:
    with socket.create_connection((HOST, workload.port), timeout=5) as raw:
        request = b"POST /buy HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
        raw.sendall(request + b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = b""
        while chunk := raw.recv(65536):
            answer += chunk
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"404"]
    with socket.create_connection((HOST, workload.port), timeout=5) as raw:
        raw.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_metrics_can_be_read_by_prometheus_own_parser(workload: Workload) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    workload.ask("POST", "/buy", {})
    text = workload.ask("GET", "/metrics", admin=True)[1].decode()
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"app_requests", "app_service_seconds", "app_queue_seconds", "app_queue_length", "app_rejected"} <= families


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--service", "nobody"], "no service 'nobody' in topology pair; there is front, quitter, back"),
        (["--listen", "nowhere"], "--listen: 'nowhere' is not ip:port"),
        (["--app", "gone.yaml"], "gone.yaml: no such file"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    app = tmp_path / "app.yaml"
    app.write_text(APP)
    command = [sys.executable, "-m", "scenarios.workload", "--app", str(app), "--service", "back"]
    command += ["--listen", f"{HOST}:{free_port()}", "--admin", f"{HOST}:{free_port()}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr.strip()) == (2, message)


def test_a_taken_port_is_one_line_and_exit_2(workload: Workload, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scenarios.workload", "--app", str(tmp_path / "app.yaml"), "--service", "back"]
    command += ["--listen", f"{HOST}:{workload.port}", "--admin", f"{HOST}:{free_port()}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr.startswith(f"cannot listen on {HOST}:{workload.port}: ")
    assert done.stderr.count("\n") == 1
