"""`gameday mesh edges RESOURCE`: who calls whom, by which identities, and is it secured."""

from __future__ import annotations

from mesh.commands.cluster import DEFAULTS, ClusterOptions
from mesh.commands.tables import Column, Output, print_table
from mesh.commands.viz_api import NUMBERS, AllNamespaces, Row, Window, named, numbers, viz

SECURED = "√"
COLUMNS = (
    Column("SRC"),
    Column("DST"),
    Column("SRC_NS"),
    Column("DST_NS"),
    Column("CLIENT_ID"),
    Column("SERVER_ID"),
    Column("SECURED"),
    Column("PROTOCOL", wide=True),
    *(Column(c.name, c.show, c.right, wide=True, key=c.key) for c in NUMBERS),
)


def edges(
    *resource: str,
    time_window: Window = "1m",
    all_namespaces: AllNamespaces = False,
    output: Output = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show the connections between resources: identities, and whether all traffic of the window was mutual TLS.

    Where it was not, SECURED says why. Clients without a proxy are seen by their servers only and shown as `unmeshed`.

    Parameters
    ----------
    resource
        deploy, deploy/web, sts, ns, po …
    time_window
        The last seconds or minutes that count, up to 10m.
    all_namespaces
        All namespaces.
    """
    rows: list[Row] = []
    with viz(cluster) as api:
        for one in named(api, resource):
            namespace = "" if all_namespaces else one.namespace
            rows += api.ask("edges", resource=str(one), namespace=namespace, window=time_window)["rows"]
    lines = [
        (
            *(r[name] or None for name in ("src", "dst", "src_namespace", "dst_namespace")),
            *(_identity(r[name], output) for name in ("client_id", "server_id")),
            _secured(r, output),
            r["protocol"],
            *numbers(r),
        )
        for r in rows
    ]
    print_table(COLUMNS, lines, output)
    return 0


def _secured(row: Row, output: Output) -> object:
    if output == "json":
        return row["secured"]
    # One word, so that scripts can cut the table: each row has as many words as there are columns.
    return SECURED if row["secured"] else row["reason"].replace(" ", "_")


def _identity(name: str, output: Output) -> str | None:
    """`default.shop` of the long TLS name, as Linkerd shows it; all of it in JSON and wide."""
    shown = name if output != "table" else name.partition(".serviceaccount.identity.")[0]
    return shown or None
