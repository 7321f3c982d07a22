"""What a workload counts, and its Prometheus text.

`app_service_seconds` is the self time alone: no wait for a worker, no calls to others; of an app that burns CPU, what
it burned. It is what the twin calibrates on, so its buckets are fine: each 25 % wider than the one before, from 0.5 ms
to 10 s.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from pathlib import Path

_STATM = Path("/proc/self/statm")
BOUNDS: tuple[float, ...] = tuple(float(f"{0.0005 * 1.25**k:.4g}") for k in range(46))


class _Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(BOUNDS, value)] += 1
        self.total += value


class Metrics:
    """Counters of one replica. `routes` fixes the order and makes every histogram exist from the start."""

    def __init__(self, routes: list[str]) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._service = {route: _Histogram() for route in routes}
        self._queue_seconds = 0.0
        self._queue_count = 0
        self.queue_length = 0
        self.workers_busy = 0
        self.rejected = 0
        self.cancelled = 0
        """Given up because their clients left."""

    def answered(self, route: str, status: int) -> None:
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1

    def worked(self, route: str, seconds: float) -> None:
        self._service[route].observe(seconds)

    def waited(self, seconds: float) -> None:
        """Every request that got a worker, with zero for those that found one free."""
        self._queue_seconds += seconds
        self._queue_count += 1

    def exposition(self) -> bytes:
        lines = ["# TYPE app_requests_total counter"]
        for (route, status), count in sorted(self._requests.items()):
            lines.append(f'app_requests_total{{route="{route}",status="{status}"}} {count}')
        lines.append("# TYPE app_service_seconds histogram")
        for route, histogram in self._service.items():
            cumulative = 0
            for bound, count in zip((*BOUNDS, float("inf")), histogram.counts, strict=True):
                cumulative += count
                le = "+Inf" if bound == float("inf") else f"{bound:g}"
                lines.append(f'app_service_seconds_bucket{{route="{route}",le="{le}"}} {cumulative}')
            lines.append(f'app_service_seconds_sum{{route="{route}"}} {histogram.total:.9g}')
            lines.append(f'app_service_seconds_count{{route="{route}"}} {cumulative}')
        lines += [
            "# TYPE app_queue_seconds summary",
            f"app_queue_seconds_sum {self._queue_seconds:.9g}",
            f"app_queue_seconds_count {self._queue_count}",
            "# TYPE app_queue_length gauge",
            f"app_queue_length {self.queue_length}",
            "# TYPE app_workers_busy gauge",
            f"app_workers_busy {self.workers_busy}",
            "# TYPE app_rejected_total counter",
            f"app_rejected_total {self.rejected}",
            "# TYPE app_cancelled_total counter",
            f"app_cancelled_total {self.cancelled}",
            "# TYPE process_cpu_seconds_total counter",
            f"process_cpu_seconds_total {time.process_time():.6g}",
            "# TYPE process_resident_memory_bytes gauge",
            f"process_resident_memory_bytes {_resident_bytes()}",
            "",
        ]
        return "\n".join(lines).encode()


def _resident_bytes() -> int:
    """0 where the system does not say (no /proc)."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
