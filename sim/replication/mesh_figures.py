"""The guide's M1-M5 over the whole mesh, from a replication's counters; `reports.mesh_metrics` has them from scrapes.

    M1   share of logical requests between services that did not end with 5xx or without an answer
    M2   p95 of the time from sending a try to its answer at the proxy where load enters, seconds: through Linkerd's
         buckets and Prometheus' quantile, as measured, though the twin knows better; a perfect model would be 14 % off
         otherwise. The wait for an endpoint is no part of it
    M3   handshakes that proxies saw fail, at either end: between two proxies each counts it
    M4   retries over logical requests
    M5   requests that reached services, a second

M6 and M7 (CPU and memory of proxies), M8 and M10 (telemetry) are not forecast; M9 is read off the certificates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mesh.proxy.metrics import LATENCY_BUCKETS_MS
from scenarios.quantiles import histogram_quantile
from sim.model.record import SLOT_SECONDS, Record

FIGURES = ("M1", "M2", "M3", "M4", "M5")
HANDSHAKES, THROUGHPUT = "M3", "M5"
"""A count, which grows with its window, and a rate, which follows the load; the others are shares and a latency."""
Floats = npt.NDArray[np.float64]
MESH = ""
"""The subject: all of it."""


def mesh_figures(record: Record, start: float, end: float) -> dict[str, float]:
    """Those of M1-M5 that have a value over [start, end) of the counters."""
    found: dict[str, float] = {}
    meant = sum(between(seconds, start, end) for seconds in record.meant.values())
    reached = sum(between(seconds, start, end) for seconds in record.reached.values())
    if meant:
        found["M1"] = 1.0 - between(record.failed, start, end) / meant
        found["M4"] = between(record.retried, start, end) / meant
    seconds = [took for at, took in record.entered if start <= at < end]
    p95 = bucketed_quantile(np.asarray(seconds, dtype=np.float64), 0.95)
    if p95 is not None:
        found["M2"] = p95
    found["M3"] = between(record.refused, start, end)
    if reached:
        found["M5"] = reached / (end - start)
    return found


def bucketed_quantile(latencies: Floats, share: float) -> float | None:
    """Of seconds, as Prometheus tells it from `response_latency_ms`; seconds."""
    bounds = [*LATENCY_BUCKETS_MS, float("inf")]
    # The proxy's buckets hold what is at or below their bound.
    below = np.searchsorted(np.sort(latencies * 1_000.0), bounds, side="right")
    value = histogram_quantile(share, dict(zip(bounds, below.astype(np.float64).tolist(), strict=True)))
    return value / 1_000.0 if value is not None else None


def between(by_slot: Mapping[int, int], start: float, end: float) -> float:
    """Counts of [start, end), seconds; of a slot that an edge cuts, the part that lies inside."""
    first, last = start / SLOT_SECONDS, end / SLOT_SECONDS
    return math.fsum(
        count * (min(slot + 1.0, last) - max(slot, first))
        for slot, count in by_slot.items()
        if first - 1.0 < slot < last
    )
