"""`python -m benchmarks.probe`: the proxy, with a probe of how long its event loop does not turn.

A timer of one millisecond runs in the loop; what passes between two of its turns beyond that, minus the time in which
the kernel had the thread waiting for a core (schedstat's run delay: that is the machine, not the proxy), is a stall.
Stalls of `NOTED_SECONDS` and more are appended to the file $GAMEDAY_PROBE as "monotonic seconds, milliseconds". The
gauge `proxy_loop_lag_seconds` sees ten moments a second and would miss most.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from functools import partial
from pathlib import Path

import uvloop

TICK_SECONDS = 0.001
NOTED_SECONDS = 0.002


class Probe:
    """Ticks for ever on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str) -> None:
        self._loop = loop
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._last = time.monotonic()
        self._delayed = self._run_delay()
        loop.call_soon(self._tick)

    def _run_delay(self) -> float:
        return int(os.pread(self._schedstat, 64, 0).split()[1]) / 1e9

    def _tick(self) -> None:
        now, delayed = time.monotonic(), self._run_delay()
        stall = (now - self._last) - TICK_SECONDS - (delayed - self._delayed)
        if stall >= NOTED_SECONDS:
            os.write(self._file, f"{now:.6f} {stall * 1e3:.2f}\n".encode())
        self._last, self._delayed = now, delayed
        self._loop.call_later(TICK_SECONDS, self._tick)


def stalls(path: Path, since: float, until: float) -> list[float]:
    """Milliseconds, longest first, of those noted in this span of time.monotonic(). Raises OSError: no probe ran."""
    lines = path.read_text().splitlines()
    noted = [(float(at), float(ms)) for at, ms in (line.split() for line in lines)]
    return sorted((ms for at, ms in noted if since <= at <= until), reverse=True)


def main() -> int:
    make = uvloop.new_event_loop

    def probed() -> uvloop.Loop:
        loop = make()
        Probe(loop, os.environ["GAMEDAY_PROBE"])
        return loop

    # However the proxy makes its loop, it makes this one.
    uvloop.new_event_loop = probed
    uvloop.run = partial(uvloop.run, loop_factory=probed)
    from mesh.proxy.__main__ import main as proxy  # after the loop is ours

    return proxy()


if __name__ == "__main__":
    sys.exit(main())
