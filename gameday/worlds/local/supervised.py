"""One supervised process: started, watched, restarted like a kubelet would, ended.

    down ── up ──► starting ── ready ──► ready ◄── probes ──► unready
     ▲                ▲                    │ exits by itself      │
     │                └── backoff over ── waiting ◄───────────────┘
     │                    (0.5 s, 1 s, 2 s, … 30 s; reset after a quiet minute)
     └── hold_down ◄── from any

An exit that was asked for (`kill`, or `up` soon after `hold_down`) is not held against the process: it starts again
after the shortest delay, and at once when `up` asks for it. Readiness goes on being probed, once a second; three misses
in a row and the pod leaves its endpoints, as with Kubernetes' failureThreshold. There is no liveness restart: a frozen
app stays frozen.

Exits are noticed through SIGCHLD (`child_exited`) and, should one be lost, by the next probe. Whoever is left of a
process's group is killed before its leader is reaped: until then the kernel gives the group's number to nobody else.

Rejected: asyncio's subprocesses (a thread for each child on 3.11, and their watcher reaps before the group can be
ended); polling every child 20 times a second (1 % of a core, on the machine that is being measured).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from chaos.processes import killed_with_parent, record_child
from gameday.worlds.local.layout import ProcessSpec

RESTART_MIN_SECONDS, RESTART_MAX_SECONDS, QUIET_SECONDS = 0.5, 30.0, 60.0
START_INTERVAL_SECONDS, READY_INTERVAL_SECONDS = 0.1, 1.0
"""Between two probes: until it is ready, and from then on."""
PROBE_TIMEOUT_SECONDS = 2.0
MISSES_ALLOWED = 2
SLOT_SECONDS = 3.0
"""How long a start may keep others from starting. A proxy that waits for an absent control plane must not hold up the
start of that very control plane."""
TERM_GRACE_SECONDS = 5.0
MAX_LOG_BYTES = 16 * 1024 * 1024
RUN_MARK = "GAMEDAY_RUN_DIR"
"""In the environment of every process of a run: `recover` knows them by it."""

Report = Callable[[str, str, str], None]
"""(kind, process name, text)."""


class Supervised:
    """Owns one process at a time."""

    def __init__(self, spec: ProcessSpec, run_dir: Path, slots: asyncio.Semaphore, report: Report) -> None:
        self.spec = spec
        self.log = run_dir / "logs" / f"{spec.name.replace('/', '.')}.log"
        self.ready = False
        self.restarts = 0
        """Exits that nobody asked for."""
        self.last_exit: int | None = None
        """Exit code, negative for a signal; None while it never exited."""
        self._run_dir = run_dir
        self._slots = slots
        self._report = report
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._asked = False
        self._hurry = False
        """`up` was said while it was not running: no backoff."""
        self._kill_at = float("inf")
        self._misses = 0
        self._task: asyncio.Task[None] | None = None
        self._stir = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    # ---- what it is told

    def up(self) -> None:
        """Wanted from now on; starts at once, whatever backoff was under way."""
        self._wanted = True
        self._hurry = self._process is None or self._asked
        self._stir.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep_up(), name=self.spec.name)

    def hold_down(self, number: signal.Signals) -> None:
        """Ended, and not wanted until `up`. SIGTERM is followed by SIGKILL where it is not heeded."""
        self._wanted = False
        if number == signal.SIGTERM:
            self._kill_at = time.monotonic() + TERM_GRACE_SECONDS
        self._end(number)

    def kill(self) -> None:
        """SIGKILL; it starts again like after any exit."""
        self._end(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """A signal to the process and all that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; macOS: a zombie's group
                os.killpg(self._process.pid, number)

    def child_exited(self) -> None:
        """Some child did; look whether it was this one."""
        self._stir.set()

    # ---- its life

    async def _keep_up(self) -> None:
        delay = RESTART_MIN_SECONDS
        while self._wanted:
            self._asked = self._hurry = False
            self._kill_at = float("inf")
            self._misses = 0
            began = time.monotonic()
            async with self._slots:
                if not self._wanted:
                    break
                self._start()
                await self._watch(until_ready_or=began + SLOT_SECONDS)
            await self._watch()
            self.ready = False
            if not self._wanted:
                break
            if self._asked or time.monotonic() - began > QUIET_SECONDS:
                delay = RESTART_MIN_SECONDS
            if not self._asked:
                self.restarts += 1
                self._report(
                    "restart", self.spec.name, f"{self.spec.name} ended by itself ({self._how()}); again in {delay:g} s"
                )
            await self._back_off(delay)
            delay = min(delay * 2.0, RESTART_MAX_SECONDS)

    async def _back_off(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._wanted and not self._hurry and (left := deadline - time.monotonic()) > 0:
            await self._stirred(left)
        self._hurry = False

    def _start(self) -> None:
        environment = {**inherited(os.environ), **self.spec.environment, RUN_MARK: str(self._run_dir)}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.spec.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.spec.folder,
                start_new_session=True,
                preexec_fn=killed_with_parent,
            )
        record_child(self._run_dir, self.spec.name, self._process.pid)

    async def _watch(self, until_ready_or: float | None = None) -> None:
        """Probes until the process is gone or, with a moment given, until it is ready or that moment has come."""
        due = time.monotonic() + READY_INTERVAL_SECONDS if self.ready else 0.0
        while not self._reap():
            now = time.monotonic()
            if until_ready_or is not None and (self.ready or now >= until_ready_or):
                return
            if now >= self._kill_at:
                self.send(signal.SIGKILL)
            if now >= due and not self._asked:
                self._judge(await self._probe())
                self._bound_log()
                due = time.monotonic() + (READY_INTERVAL_SECONDS if self.ready else START_INTERVAL_SECONDS)
            await self._stirred(max(0.01, min(due, self._kill_at) - time.monotonic()))

    def _judge(self, answered: bool) -> None:
        self._misses = 0 if answered else self._misses + 1
        if self._asked or answered is self.ready or (self.ready and self._misses <= MISSES_ALLOWED):
            return
        self.ready = answered
        kind = "ready" if answered else "unready"
        self._report(kind, self.spec.name, f"{self.spec.name} is {'ready' if answered else 'not ready any more'}")

    def _end(self, number: signal.Signals) -> None:
        self.ready = False
        self._asked = True
        self.send(number)
        self._stir.set()

    def _reap(self) -> bool:
        """Whether the process is gone; what is left of its group goes with it."""
        process = self._process
        if process is None:
            return True
        if hasattr(os, "waitid"):
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            self.send(signal.SIGKILL)
        if process.poll() is None:
            return False
        self.last_exit = process.returncode
        self._process = None
        return True

    async def _stirred(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stir.wait(), seconds)
        self._stir.clear()

    # ---- looking at it

    async def _probe(self) -> bool:
        spec = self.spec
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                if spec.ready_url is None:
                    assert spec.ready_tcp is not None
                    host, _, port = spec.ready_tcp.rpartition(":")
                    _, writer = await asyncio.open_connection(host, int(port))
                    writer.transport.abort()
                    return True
                return await _status(spec.ready_url) == 200
        except (OSError, TimeoutError):
            return False

    def _bound_log(self) -> None:
        if self.log.stat().st_size > MAX_LOG_BYTES:
            os.truncate(self.log, 0)  # it is appended to, so the process goes on at the new end

    def _how(self) -> str:
        code = self.last_exit
        return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process of the world takes over from the user: nothing that would lead traffic past its proxy."""
    return {
        name: value
        for name, value in environment.items()
        if not name.lower().endswith("_proxy") and not name.startswith("LINKERD2_PROXY_")
    }


async def _status(url: str) -> int:
    """Status of a GET; 0 for an answer that is not HTTP."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        request = f"GET {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n\r\n"
        writer.write(request.encode())
        words = (await reader.readline()).split()
    finally:
        writer.transport.abort()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
