"""Deadlines of requests: started and stopped for nearly every one, reached by few.

One timer of the loop serves them all. A deadline lies in the bucket of its hundredth of a second; to stop it is to take
it out of a dict. So it may come up to 10 ms late, and costs a fifth of a timer of its own (`call_later` and `cancel`:
1.4 µs).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from time import monotonic

TICKS_PER_SECOND = 100

Bucket = dict[object, Callable[[], None]]


class Deadlines:
    """All deadlines of one side of a proxy. Somebody has at most one at a time."""

    __slots__ = ("_buckets", "_loop", "_ticks", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, Bucket] = {}
        self._ticks: list[int] = []
        """Heap of the buckets' ticks."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self, who: object, due: float, callback: Callable[[], None]) -> Bucket:
        """Calls `callback` soon after `due` (of `time.monotonic`), unless `who` is popped from the returned bucket."""
        tick = int(due * TICKS_PER_SECOND) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heapq.heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._arm(tick)
        bucket[who] = callback
        return bucket

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, tick / TICKS_PER_SECOND - monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = monotonic()
        ticks = self._ticks
        while ticks and ticks[0] <= now * TICKS_PER_SECOND:
            bucket = self._buckets.pop(heapq.heappop(ticks))
            while bucket:
                _, callback = bucket.popitem()
                try:
                    callback()
                except Exception as error:  # noqa: BLE001 – one request's fault must not stop the clock of all others
                    self._loop.call_exception_handler({"message": "a deadline's callback failed", "exception": error})
        if ticks:
            self._arm(ticks[0])
