"""Processes pinned to a core, and what they cost, from /proc (Linux only).

A program under test gets a session of its own, so that all of its processes and threads are found and ended together:
nginx has a master and workers, Envoy has threads. CPU is read in nanoseconds from each thread's schedstat; the tick
counters of /proc/PID/stat (10 ms) serve only for the split into user and kernel time. "Foreign" CPU is what the core
was busy with beyond the processes we know of: a run with much of it says nothing.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chaos.processes import die_with_parent

START_TIMEOUT_SECONDS = 15.0
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class StartFailed(Exception):
    """A program ended or did not listen in time; the text holds the end of what it printed."""


class NotServing(StartFailed):
    """It listens and does not do its work."""


@dataclass(frozen=True, slots=True)
class Command:
    argv: list[str]
    port: int
    """On 127.0.0.1; listening on it means started."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds so far. `user` and `kernel` are coarser than `total`."""

    total: float
    user: float
    kernel: float

    def __sub__(self, before: Usage) -> Usage:
        return Usage(self.total - before.total, self.user - before.user, self.kernel - before.kernel)


@dataclass(slots=True)
class Running:
    session: int
    start_seconds: float
    """From exec to the first accepted connection."""
    process: subprocess.Popen[bytes]

    def pids(self) -> list[int]:
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):  # it ended between the listing and the look
                    if int(_stat(entry.name)[3]) == self.session:
                        found.append(int(entry.name))
        return found

    def usage(self) -> Usage:
        total, user, kernel = 0, 0, 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for thread in os.listdir(f"/proc/{pid}/task"):
                    total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
                stat = _stat(pid)
                user, kernel = user + int(stat[11]), kernel + int(stat[12])
        return Usage(total / 1e9, user / _TICK, kernel / _TICK)

    def rss_bytes(self) -> int:
        """Of all processes together; pages that they share count for each."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        return total

    def pin(self, cpu: int) -> None:
        for pid in self.pids():
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), {cpu})

    def end(self) -> None:
        """SIGTERM to the program, SIGKILL to whatever of its session is left after 3 s."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.session, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3.0)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def total_usage(running: Iterable[Running]) -> Usage:
    usages = [each.usage() for each in running]
    return Usage(sum(u.total for u in usages), sum(u.user for u in usages), sum(u.kernel for u in usages))


def _stat(pid: int | str) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on: the second may hold blanks."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def start(command: Command, cpu: int) -> Running:
    """Starts the command on one core and waits until it listens.

    Raises:
        StartFailed: it did not.
    """
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **command.environment},
            start_new_session=True,
            preexec_fn=pinned(cpu),
        )
        running = Running(process.pid, 0.0, process)
        try:
            while not _listens(command.port):
                if process.poll() is not None or time.perf_counter() - began > START_TIMEOUT_SECONDS:
                    output.seek(0)
                    text = output.read().decode(errors="replace").strip()
                    raise StartFailed(f"{command.argv[0]} does not listen on port {command.port}: {text[-400:]}")
                time.sleep(0.001)
        except BaseException:
            running.end()
            raise
    running.start_seconds = time.perf_counter() - began
    return running


@contextlib.contextmanager
def started(commands: Iterable[Command], cpu: int) -> Iterator[list[Running]]:
    """All of them started, one after the other; ended on every way out."""
    with contextlib.ExitStack() as stack:
        running = []
        for command in commands:
            running.append(start(command, cpu))
            stack.callback(running[-1].end)
        yield running


def pinned(cpu: int) -> Callable[[], None]:
    """For `preexec_fn`: runs on this core, ends when we do."""

    def prepare() -> None:
        os.sched_setaffinity(0, {cpu})
        die_with_parent()

    return prepare


def raise_descriptor_limit() -> None:
    """To what the system allows us; children inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def core_busy_seconds(cpu: int, text: str | None = None) -> float:
    """CPU seconds that this core has been busy since boot; time stolen by the hypervisor counts as busy."""
    for line in (text if text is not None else Path("/proc/stat").read_text()).splitlines():
        name, *ticks = line.split()
        if name == f"cpu{cpu}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            return (user + nice + system + irq + softirq + steal) / _TICK
    raise ValueError(f"no cpu{cpu} in /proc/stat")
