"""The life of one supervised process: real ones, small ones."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from benchmarks.ports import free_port
from chaos.processes import started_at
from gameday.worlds.local import supervised
from gameday.worlds.local.layout import ProcessSpec
from gameday.worlds.local.recover import marked_processes
from gameday.worlds.local.supervised import Supervised, inherited

pytestmark = pytest.mark.e2e

SERVER = """
import http.server, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ok = not os.path.exists(sys.argv[2])
        self.send_response(200 if ok else 503); self.send_header('content-length', '0'); self.end_headers()
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()
"""


class Bench:
    """One supervised process with SIGCHLD wired up as the supervisor does it."""

    def __init__(self, folder: Path, command: tuple[str, ...], ready_url: str | None, ready_tcp: str | None) -> None:
        (folder / "logs").mkdir()
        self.events: list[tuple[str, str]] = []
        spec = ProcessSpec("it", None, command, {"OWN": "1"}, ready_url, ready_tcp)
        self.process = Supervised(spec, folder, asyncio.Semaphore(1), lambda kind, _, text: self._note(kind, text))
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.process.child_exited)

    def _note(self, kind: str, text: str) -> None:
        self.events.append((kind, text))

    def count(self, kind: str) -> int:
        return sum(k == kind for k, _ in self.events)

    async def until(self, claim: Callable[[], bool], seconds: float = 8.0) -> None:
        deadline = time.monotonic() + seconds
        while not claim():
            assert time.monotonic() < deadline, f"not within {seconds} s; {self.events}"
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        self.process.hold_down(signal.SIGKILL)
        await self.until(lambda: self.process.pid is None)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)


def run(folder: Path, body: Callable[[Bench], Awaitable[None]], command: tuple[str, ...] | None = None) -> None:
    async def whole() -> None:
        port = free_port()
        if command is None:
            words = (sys.executable, "-c", SERVER, str(port), str(folder / "unready"))
            bench = Bench(folder, words, f"http://127.0.0.1:{port}/ready", None)
        else:
            bench = Bench(folder, command, None, f"127.0.0.1:{port}")
        bench.process.up()
        try:
            await body(bench)
        finally:
            await bench.end()

    asyncio.run(whole())


def test_what_ends_by_itself_is_restarted_and_each_restart_is_told(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.until(lambda: bench.process.ready)
        first = bench.process.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await bench.until(lambda: bench.process.ready and bench.process.pid != first)
        assert bench.process.restarts == 1
        assert [text for kind, text in bench.events if kind == "restart"] == [
            "it ended by itself (signal SIGKILL); again in 0.5 s"
        ]

    run(tmp_path, body)


def test_restarts_come_more_and_more_slowly(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.until(lambda: bench.process.restarts == 3)
        waits = [text.rpartition("again in ")[2] for kind, text in bench.events if kind == "restart"]
        assert waits == ["0.5 s", "1 s", "2 s"]
        assert bench.process.last_exit == 7

    run(tmp_path, body, (sys.executable, "-c", "raise SystemExit(7)"))


def test_what_was_taken_down_stays_down_until_it_is_wanted_and_is_then_up_at_once(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.until(lambda: bench.process.ready)
        bench.process.hold_down(signal.SIGKILL)
        assert not bench.process.ready
        await bench.until(lambda: bench.process.pid is None)
        await asyncio.sleep(0.8)
        assert bench.process.pid is None
        bench.process.up()
        await bench.until(lambda: bench.process.pid is not None, 0.3)
        await bench.until(lambda: bench.process.ready)
        assert bench.count("restart") == 0

    run(tmp_path, body)


def test_up_while_it_is_still_ending_is_no_restart_of_its_own(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.until(lambda: bench.process.ready)
        first = bench.process.pid
        bench.process.hold_down(signal.SIGTERM)
        bench.process.up()
        await bench.until(lambda: bench.process.ready and bench.process.pid != first)
        assert bench.count("restart") == 0

    run(tmp_path, body)


def test_a_kill_on_purpose_is_followed_by_a_start_and_not_held_against_it(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.until(lambda: bench.process.ready)
        first = bench.process.pid
        bench.process.kill()
        await bench.until(lambda: bench.process.ready and bench.process.pid != first)
        assert bench.process.restarts == 0

    run(tmp_path, body)


def test_sigterm_that_is_not_heeded_is_followed_by_sigkill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "TERM_GRACE_SECONDS", 0.3)

    async def body(bench: Bench) -> None:
        log = tmp_path / "logs" / "it.log"
        await bench.until(lambda: log.is_file() and log.read_text() == "deaf\n")
        bench.process.hold_down(signal.SIGTERM)
        await bench.until(lambda: bench.process.pid is None, 2.0)
        assert bench.process.last_exit == -signal.SIGKILL

    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    run(tmp_path, body, (sys.executable, "-c", deaf))


def test_readiness_follows_the_probes_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "READY_INTERVAL_SECONDS", 0.1)

    async def body(bench: Bench) -> None:
        await bench.until(lambda: bench.process.ready)
        (tmp_path / "unready").touch()
        await bench.until(lambda: not bench.process.ready)
        (tmp_path / "unready").unlink()
        await bench.until(lambda: bench.process.ready)
        assert [kind for kind, _ in bench.events] == ["ready", "unready", "ready"]

    run(tmp_path, body)


def test_what_a_process_started_ends_with_it(tmp_path: Path) -> None:
    child = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"

    async def body(bench: Bench) -> None:
        log = tmp_path / "logs" / "it.log"
        await bench.until(lambda: log.is_file() and log.read_text().endswith("\n"))
        grandchild = int(log.read_text())
        assert bench.process.pid is not None
        assert grandchild in [found.pid for found in marked_processes(tmp_path)]
        os.kill(bench.process.pid, signal.SIGKILL)
        await bench.until(lambda: started_at(grandchild) is None)

    run(tmp_path, body, (sys.executable, "-c", child))


def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "MAX_LOG_BYTES", 10_000)
    talk = "import time\nwhile True: print('x' * 100, flush=True); time.sleep(0.002)"

    async def body(bench: Bench) -> None:
        log = tmp_path / "logs" / "it.log"
        sizes = [0]

        def shrank() -> bool:
            sizes.append(log.stat().st_size if log.is_file() else 0)
            return sizes[-1] < sizes[-2]

        for _ in range(2):  # it is written on after it was cut
            await bench.until(shrank)
        assert max(sizes) < 500_000

    run(tmp_path, body, (sys.executable, "-c", talk))


def test_nothing_that_would_lead_traffic_past_the_proxy_is_inherited() -> None:
    kept = inherited({"PATH": "/bin", "http_proxy": "x", "NO_PROXY": "*", "LINKERD2_PROXY_LOG": "x", "HOME": "/h"})
    assert kept == {"PATH": "/bin", "HOME": "/h"}
