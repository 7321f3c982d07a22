"""`gameday mesh stat-outbound RESOURCE`: what a workload asked for, by route and backend."""

from __future__ import annotations

from mesh.commands.cluster import DEFAULTS, ClusterOptions
from mesh.commands.stat_inbound import count
from mesh.commands.tables import Column, Output, percent, print_table
from mesh.commands.viz_api import NUMBERS, AllNamespaces, Row, Window, named, numbers, target, viz

COLUMNS = (
    Column("NAMESPACE", wide=True),
    Column("NAME"),
    Column("SERVICE"),
    Column("ROUTE"),
    Column("TYPE"),
    Column("BACKEND"),
    *NUMBERS,
    Column("TIMEOUTS", percent, right=True),
    Column("RETRIES", percent, right=True),
    Column("UNREACHED", count, right=True, wide=True),
)


def stat_outbound(
    *resource: str,
    to: str | None = None,
    to_namespace: str | None = None,
    time_window: Window = "1m",
    all_namespaces: AllNamespaces = False,
    output: Output = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show what workloads asked for: each route as its clients saw it, and below it the tries at each backend.

    Latencies come from the routes' histograms, whose buckets are coarse: 50 ms, 500 ms, 1 s, 10 s for a request.

    Parameters
    ----------
    resource
        deploy, deploy/web, sts/db, ns/shop, po/web-1 …
    to
        Only routes of svc/NAME, or of the services in ns/NAME.
    to_namespace
        Namespace of --to, where it is another.
    time_window
        The last seconds or minutes that count, up to 10m.
    all_namespaces
        All namespaces.
    """
    rows: list[Row] = []
    with viz(cluster) as api:
        for one in named(api, resource):
            parameters = {
                "resource": str(one),
                "namespace": "" if all_namespaces else one.namespace,
                "window": time_window,
                **target(api, "to", to, to_namespace),
            }
            rows += api.ask("stat-outbound", **parameters)["rows"]
    lines = [line for row in rows for line in _lines(row, output)]
    print_table(COLUMNS, lines, "wide" if all_namespaces and output == "table" else output)
    return 0


def _lines(row: Row, output: Output) -> list[tuple[object, ...]]:
    """A route, and its backends as a tree below it. In JSON the names are repeated instead."""
    names = tuple(row[name] for name in ("namespace", "name", "service", "route", "type"))
    requests = row["requests"]
    shares = tuple(row[name] / requests if requests else None for name in ("timeouts", "retries"))
    lines: list[tuple[object, ...]] = [(*names, None, *numbers(row), *shares, row["own"])]
    for index, backend in enumerate(row["backends"]):
        last = index == len(row["backends"]) - 1
        branch = "└─►" if last else "├─►"
        shown = names if output == "json" else (row["namespace"], branch, None, None, None)
        lines.append((*shown, backend["backend"], *numbers(backend), None, None, None))
    return lines
