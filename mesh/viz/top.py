"""`top`: what a tap saw, added up by who asks whom for what.

A request between two tapped pods is told twice, by both proxies. The source's word is taken, for it knows what the
client waited for; the destination's counts where the source is not among the tapped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from mesh.viz.pods import Pod
from mesh.viz.tap import Event

MAX_ROWS = 1_000
MAX_OPEN = 10_000
"""Requests under way that are remembered."""


class TopRow(msgspec.Struct, kw_only=True):
    """Requests of one kind. Latencies in milliseconds, until the end of the answer."""

    source: str
    destination: str
    method: str
    path: str
    """Without the query."""
    count: int = 0
    best_ms: float | None = None
    worst_ms: float | None = None
    last_ms: float | None = None
    success: float | None = None
    failures: int = 0


class Top:
    """Adds events up."""

    def __init__(self, tapped: Iterable[Pod], by_workload: bool = False) -> None:
        """`by_workload`: rows by workload instead of pod."""
        pods = list(tapped)
        self._tapped = {(pod.namespace, pod.name) for pod in pods}
        self._identities = {pod.identity for pod in pods if pod.identity}
        self._by_workload = by_workload
        self._rows: dict[tuple[str, str, str, str], TopRow] = {}
        self._open: dict[tuple[str, str, int], Event] = {}
        self.folded = 0
        """Requests that found no row free."""

    @property
    def rows(self) -> list[TopRow]:
        """The most asked first."""
        return sorted(self._rows.values(), key=lambda row: (-row.count, row.source, row.destination, row.path))

    def add(self, event: Event) -> None:
        request = (event.get("namespace", ""), event.get("pod", ""), event.get("id", -1))
        if event["event"] == "requestInit":
            if self._counts(event) and len(self._open) < MAX_OPEN:
                self._open[request] = event
        elif event["event"] == "responseEnd":
            begun = self._open.pop(request, None)
            # Which endpoint it went to is known by its end only.
            row = self._row(begun, event) if begun is not None else None
            if row is not None:
                _ended(row, event)

    def _counts(self, event: Event) -> bool:
        if event.get("proxyDirection") == "outbound":
            return True
        source = event.get("source") or {}
        if source.get("pod"):
            return (source.get("namespace", ""), source["pod"]) not in self._tapped
        return source.get("identity", "") not in self._identities

    def _row(self, begun: Event, ended: Event) -> TopRow | None:
        path = str(begun.get("path", "")).partition("?")[0]
        source, destination = self._name(begun.get("source")), self._name(ended.get("destination"))
        key = (source, destination, str(begun.get("method")), path)
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= MAX_ROWS:
                self.folded += 1
                return None
            row = self._rows[key] = TopRow(source=key[0], destination=key[1], method=key[2], path=path)
        return row

    def _name(self, end: dict[str, Any] | None) -> str:
        end = end or {}
        name = end.get("workload") if self._by_workload else end.get("pod")
        return str(name or end.get("authority") or end.get("ip") or "-")


def _ended(row: TopRow, event: Event) -> None:
    latency = event.get("sinceRequestInitUs", 0) / 1000
    status, grpc = event.get("httpStatus", 0), event.get("grpcStatus")
    row.count += 1
    row.failures += not status or status >= 500 or (grpc or 0) in (2, 4, 7, 13, 14, 15) or "error" in event
    row.success = (row.count - row.failures) / row.count
    row.last_ms = latency
    row.best_ms = latency if row.best_ms is None else min(row.best_ms, latency)
    row.worst_ms = latency if row.worst_ms is None else max(row.worst_ms, latency)
