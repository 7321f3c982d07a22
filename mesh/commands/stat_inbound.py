"""`gameday mesh stat-inbound RESOURCE`: what arrived at a workload, by Server and route."""

from __future__ import annotations

from mesh.commands.cluster import DEFAULTS, ClusterOptions
from mesh.commands.tables import Column, Output, print_table
from mesh.commands.viz_api import NUMBERS, AllNamespaces, Row, Window, named, numbers, viz


def count(value: object) -> str:
    """A whole number; counts at a window's edge may be broken."""
    assert isinstance(value, (int, float)), value
    return f"{value:.0f}"


COLUMNS = (
    Column("NAMESPACE", wide=True),
    Column("NAME"),
    Column("SERVER"),
    Column("ROUTE"),
    Column("TYPE"),
    *NUMBERS,
    Column("DENIED", count, right=True),
    Column("LIMITED", count, right=True),
    Column("ALLOWED", count, right=True, wide=True),
)


def stat_inbound(
    *resource: str,
    time_window: Window = "1m",
    all_namespaces: AllNamespaces = False,
    output: Output = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show what arrived at workloads, by Server and route: let in, denied, limited, and how it went.

    Success and latency are known by port: where several routes share one, they are left open.

    Parameters
    ----------
    resource
        deploy, deploy/web, sts/db, ns/shop, po/web-1 …
    time_window
        The last seconds or minutes that count, up to 10m.
    all_namespaces
        All namespaces.
    """
    rows: list[Row] = []
    with viz(cluster) as api:
        for one in named(api, resource):
            namespace = "" if all_namespaces else one.namespace
            rows += api.ask("stat-inbound", resource=str(one), namespace=namespace, window=time_window)["rows"]
    lines = [
        (
            *(r[name] for name in ("namespace", "name")),
            f"{r['server']}:{r['port']}" if r["port"] else r["server"],
            *(r[name] for name in ("route", "type")),
            *numbers(r),
            *(r[name] for name in ("denied", "limited", "allowed")),
        )
        for r in rows
    ]
    print_table(COLUMNS, lines, "wide" if all_namespaces and output == "table" else output)
    return 0
