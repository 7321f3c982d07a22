"""`gameday mesh top RESOURCE`: the requests that pass now, added up by who asks whom for what."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any

from cyclopts import Parameter

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.commands.cluster import DEFAULTS, ClusterOptions
from mesh.commands.errors import CommandFailed
from mesh.commands.ranges import within
from mesh.commands.tables import Column, Output, percent, print_table, render
from mesh.commands.tap import harmless, tap_parameters
from mesh.commands.viz_api import AllNamespaces, viz

MAX_ROWS = 30
CLEAR = "\x1b[H\x1b[J"


def _latency(value: object) -> str:
    assert isinstance(value, (int, float)), value
    return f"{value:.0f}ms" if value >= 10 else f"{value:.1f}ms"


COLUMNS = (
    Column("SOURCE"),
    Column("DESTINATION"),
    Column("METHOD"),
    Column("PATH"),
    Column("COUNT", right=True),
    Column("BEST", _latency, right=True, key="best_ms"),
    Column("WORST", _latency, right=True, key="worst_ms"),
    Column("LAST", _latency, right=True, key="last_ms"),
    Column("SUCCESS", percent, right=True),
)


def top(
    *resource: str,
    to: str | None = None,
    to_namespace: str | None = None,
    method: str = "",
    path: str = "",
    authority: str = "",
    max_rps: Annotated[float, Parameter(validator=within(0.1, 1_000_000))] = 1000.0,
    by_workload: bool = False,
    duration: str = "",
    all_namespaces: AllNamespaces = False,
    output: Output = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show which requests pass now: how many, how fast, how well. Ctrl-C ends it.

    On a terminal the table is drawn anew each second; otherwise it is printed once, at the end.

    Parameters
    ----------
    resource
        deploy/web, po/web-1, ns/shop, sts/db …
    to
        Only requests that go there: svc/pay, deploy/pay, ns/bank.
    to_namespace
        Namespace of --to, where it is another.
    method
        Only this HTTP method.
    path
        Only paths that begin so.
    authority
        Only this authority; without a port, any.
    max_rps
        Requests a second of all pods together that are counted; beyond it they are a sample.
    by_workload
        Workloads instead of pods.
    duration
        How long to look; until Ctrl-C on a terminal, else 10s.
    all_namespaces
        All namespaces.
    """
    live = sys.stdout.isatty() and output != "json"
    seconds = _seconds(duration) if duration else None if live else 10.0
    with viz(cluster) as api:
        parameters = tap_parameters(api, resource, all_namespaces, to, to_namespace)
        parameters |= {"method": method, "path": path, "authority": authority, "max-rps": f"{max_rps:g}"}
        if by_workload:
            parameters["by"] = "workload"
        with api.stream("top", **parameters) as snapshots:
            last = _watch(snapshots, seconds, live)
    for note in last.get("notes") or ():
        print(f"note: {harmless(note)}", file=sys.stderr)
    if not last.get("tapping"):
        raise CommandFailed("top: no proxy could be tapped" + ("; the notes above say why" if last else ""))
    if not live:
        print_table(COLUMNS, _values(last["rows"]), output)
    return 0


def _watch(snapshots: Iterable[dict[str, Any]], seconds: float | None, live: bool) -> dict[str, Any]:
    """The last snapshot."""
    last: dict[str, Any] = {}
    try:
        for last in snapshots:
            if live:
                sys.stdout.write(CLEAR + render(COLUMNS, _values(last["rows"][:MAX_ROWS])))
                sys.stdout.flush()
            if seconds is not None and last["seconds"] >= seconds:
                break
    except KeyboardInterrupt:
        pass  # the user has seen enough
    return last


def _values(rows: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    names = ("count", "best_ms", "worst_ms", "last_ms", "success")
    texts = ("source", "destination", "method", "path")
    return [(*(harmless(row[name]) for name in texts), *(row[name] for name in names)) for row in rows]


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except InvalidDuration as error:
        raise CommandFailed(f"--duration: {error}") from None
