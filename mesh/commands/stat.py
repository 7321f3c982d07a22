"""`gameday mesh stat RESOURCE`: success, requests a second and latency of workloads, services, namespaces."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from mesh.commands.cluster import DEFAULTS, ClusterOptions
from mesh.commands.errors import CommandFailed
from mesh.commands.tables import Column, Output, print_table
from mesh.commands.viz_api import NUMBERS, AllNamespaces, Row, Window, named, numbers, target, viz
from mesh.viz.resources import PREFIXES

NAMESPACE = Column("NAMESPACE")
KIND = Column("KIND")
COLUMNS = (Column("NAME"), Column("MESHED", right=True), *NUMBERS, Column("TCP_CONN", lambda v: f"{v:.0f}", right=True))
JSON_COLUMNS = (NAMESPACE, KIND, Column("NAME"), Column("MESHED"), Column("PODS"), *NUMBERS, Column("TCP_CONN"))
JSON_EXTRA = (Column("REQUESTS"), Column("FAILURES"), Column("UNSEEN"))


def stat(
    *resource: str,
    to: str | None = None,
    to_namespace: str | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    from_namespace: str | None = None,
    time_window: Window = "1m",
    all_namespaces: AllNamespaces = False,
    output: Output = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show success, requests a second and latency, as the proxies counted them.

    Without --to and --from: what arrived at each resource. A `-` is a number that nobody knows: no traffic to tell it
    from, or no proxy that could be scraped (then a note says which).

    Parameters
    ----------
    resource
        deploy, deploy/web, sts/db, ns, po/web-1, svc/pay … several may be given.
    to
        Only what the resource sent there.
    to_namespace
        Namespace of --to, where it is another.
    from_
        Only what was sent by it.
    from_namespace
        Namespace of --from, where it is another.
    time_window
        The last seconds or minutes that count, up to 10m.
    all_namespaces
        All namespaces.
    """
    if to is not None and from_ is not None:
        raise CommandFailed("stat: give either --to or --from, not both")
    rows: list[Row] = []
    with viz(cluster) as api:
        wanted = named(api, resource)
        for one in wanted:
            parameters = {
                "resource": str(one),
                "namespace": "" if all_namespaces else one.namespace,
                "window": time_window,
                **target(api, "to", to, to_namespace),
                **target(api, "from", from_, from_namespace),
            }
            rows += api.ask("stat", **parameters)["rows"]
    prefixed = len({one.kind for one in wanted}) > 1
    show(rows, output, all_namespaces, prefixed)
    return 0


def show(rows: list[Row], output: Output, all_namespaces: bool, prefixed: bool) -> None:
    """Prints rows of `stat`; `prefixed`: names with their kind."""
    if output == "json":
        names = ("namespace", "kind", "name", "meshed", "pods")
        extra = ("tcp_conn", "requests", "failures", "unseen")
        values = [(*(r[n] for n in names), *numbers(r), *(r[n] for n in extra)) for r in rows]
        print_table((*JSON_COLUMNS, *JSON_EXTRA), values, output)
        return
    lines = [
        (
            r["namespace"] or None,
            f"{PREFIXES[r['kind']]}/{r['name']}" if prefixed else r["name"],
            f"{r['meshed']}/{r['pods']}" if r["pods"] is not None else None,
            *numbers(r),
            r["tcp_conn"],
        )
        for r in rows
    ]
    with_namespace = all_namespaces and any(r["namespace"] for r in rows)
    columns = (NAMESPACE, *COLUMNS) if with_namespace else COLUMNS
    print_table(columns, lines if with_namespace else [line[1:] for line in lines], output)
