"""`gameday mesh routes RESOURCE`: success by route, effective (as clients saw it) and actual (each try counts)."""

from __future__ import annotations

from mesh.commands.cluster import DEFAULTS, ClusterOptions
from mesh.commands.tables import Column, Output, per_second, percent, print_table
from mesh.commands.viz_api import NUMBERS, AllNamespaces, Row, Window, named, numbers, target, viz

COLUMNS = (Column("ROUTE"), Column("SERVICE"), *NUMBERS)
_SUCCESS, _RPS, *_LATENCIES = NUMBERS
BOTH = (
    Column("ROUTE"),
    Column("SERVICE"),
    Column("EFFECTIVE_SUCCESS", percent, right=True),
    Column("EFFECTIVE_RPS", per_second, right=True),
    Column("ACTUAL_SUCCESS", percent, right=True),
    Column("ACTUAL_RPS", per_second, right=True),
    *_LATENCIES,
)
"""Linkerd's columns of `routes --to … -o wide`."""


def routes(
    *resource: str,
    to: str | None = None,
    to_namespace: str | None = None,
    time_window: Window = "1m",
    all_namespaces: AllNamespaces = False,
    output: Output = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show success, requests a second and latency by route.

    With --to, effective and actual numbers side by side: retries raise the effective success at the price of more
    actual requests.

    Parameters
    ----------
    resource
        svc/pay (all its clients), or deploy/web (services whose endpoints its pods are; with --to: what it sends).
    to
        svc/NAME: routes of it, as the resource's requests took them.
    to_namespace
        Namespace of --to, where it is another.
    time_window
        The last seconds or minutes that count, up to 10m.
    all_namespaces
        All namespaces.
    """
    rows: list[Row] = []
    with viz(cluster) as api:
        for one in named(api, resource, "svc/pay"):
            parameters = {
                "resource": str(one),
                "namespace": "" if all_namespaces else one.namespace,
                "window": time_window,
                **target(api, "to", to, to_namespace),
            }
            rows += api.ask("routes", **parameters)["rows"]
    both = to is not None or output != "table"
    lines = []
    for row in rows:
        success, rps, *latencies = numbers(row)
        actual = (row["actual_success"], row["actual_rps"]) if both else ()
        lines.append((row["route"], row["service"], success, rps, *actual, *latencies))
    print_table(BOTH if both else COLUMNS, lines, output)
    return 0
