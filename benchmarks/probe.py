"""`python -m benchmarks.probe`: the proxy, with a probe of how long its event loop does not turn.

A timer of one millisecond runs in the loop; what passes between two of its turns beyond that, minus the time in which
the kernel had the thread waiting for a core (schedstat's run delay: that is the machine, not the proxy), is a stall.
Stalls of `NOTED_SECONDS` and more are appended to the file $GAMEDAY_PROBE as a line of JSON (`Stall`): beside the
stall itself the thread's own CPU time (what it worked; the rest is a system call that slept, or the machine, which
`benchmarks/witness.py` tells apart), the garbage collector's part, and, with $GAMEDAY_PROBE_STACKS set, where the
loop was: a second thread looks at its Python stack while a tick is overdue. That costs time itself, so stacks are for
finding causes and not for figures; compiled frames do not show. The gauge `proxy_loop_lag_seconds` sees ten moments a
second and would miss most.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import os
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path

import msgspec
import uvloop

TICK_SECONDS = 0.001
NOTED_SECONDS = 0.002
LOOK_SECONDS = 0.0005
"""Between two looks at the stack."""
SHOWN_FRAMES = 14


class Stall(msgspec.Struct, frozen=True, omit_defaults=True):
    """One gap between two ticks. Milliseconds; `at`: its end, in seconds of time.monotonic()."""

    at: float
    ms: float
    cpu_ms: float
    waited_ms: float = 0.0
    """For a core, in the same gap and not part of `ms`: what has arrived meanwhile is served in one go."""
    gc_ms: float = 0.0
    """CPU time of the collector."""
    collections: list[int] = []
    """Generations that the collector went through in it."""
    stacks: dict[str, int] = {}
    """Innermost frames last, and how often they were seen."""


class Probe:
    """Ticks for ever on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, *, stacks: bool = False) -> None:
        self._loop = loop
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._last = time.monotonic()
        self._delayed = self._run_delay()
        self._worked = time.thread_time()
        self._collecting_since = 0.0
        self._collected = 0.0
        self._generations: list[int] = []
        self._stacks: collections.Counter[str] = collections.Counter()
        gc.callbacks.append(self._collector)
        if stacks:
            sys.setswitchinterval(LOOK_SECONDS / 2)
            watcher = threading.Thread(target=self._watch, args=(threading.get_ident(),), daemon=True)
            watcher.start()
        loop.call_soon(self._tick)

    def _collector(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_since = time.thread_time()
        else:
            self._collected += time.thread_time() - self._collecting_since
            self._generations.append(info["generation"])

    def _watch(self, thread: int) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            if time.monotonic() - self._last > TICK_SECONDS + NOTED_SECONDS / 2:
                frames = traceback.extract_stack(sys._current_frames()[thread], limit=SHOWN_FRAMES)
                shown = [f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno} {frame.name}" for frame in frames]
                self._stacks[" > ".join(shown)] += 1

    def _run_delay(self) -> float:
        return int(os.pread(self._schedstat, 64, 0).split()[1]) / 1e9

    def _tick(self) -> None:
        now, delayed, worked = time.monotonic(), self._run_delay(), time.thread_time()
        stall = (now - self._last) - TICK_SECONDS - (delayed - self._delayed)
        if stall >= NOTED_SECONDS:
            noted = Stall(
                now,
                round(stall * 1e3, 2),
                round((worked - self._worked) * 1e3, 2),
                round((delayed - self._delayed) * 1e3, 2),
                round(self._collected * 1e3, 2),
                self._generations,
                dict(self._stacks.most_common()),
            )
            os.write(self._file, msgspec.json.encode(noted) + b"\n")
        self._last, self._delayed, self._worked = now, delayed, worked
        self._collected, self._generations = 0.0, []
        self._stacks.clear()
        self._loop.call_later(TICK_SECONDS, self._tick)


def stalls(path: Path, since: float, until: float) -> list[Stall]:
    """Longest first, of those noted in this span of time.monotonic(). Raises OSError: no probe ran."""
    noted = [msgspec.json.decode(line, type=Stall) for line in path.read_bytes().splitlines()]
    return sorted((stall for stall in noted if since <= stall.at <= until), key=lambda stall: -stall.ms)


def main() -> int:
    make = uvloop.new_event_loop

    def probed() -> uvloop.Loop:
        loop = make()
        Probe(loop, os.environ["GAMEDAY_PROBE"], stacks="GAMEDAY_PROBE_STACKS" in os.environ)
        return loop

    # However the proxy makes its loop, it makes this one.
    uvloop.new_event_loop = probed
    uvloop.run = partial(uvloop.run, loop_factory=probed)
    from mesh.proxy.__main__ import main as proxy  # after the loop is ours

    return proxy()


if __name__ == "__main__":
    sys.exit(main())
