"""`gameday mesh authz RESOURCE`: which policies let clients in to a workload, and how much they let in now."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from typing import Annotated

from cyclopts import Parameter
from lightkube import Client

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.messages import InboundPolicy
from mesh.commands.authorizations import rows, scraped
from mesh.commands.cluster import DEFAULTS, ClusterOptions, connected, namespace_of
from mesh.commands.control_plane import Json, ask
from mesh.commands.errors import CommandFailed
from mesh.commands.tables import Column, Output, per_second, print_table
from mesh.commands.viz_api import NUMBERS
from mesh.commands.workloads import ADMIN_PORT, meshed, pods_of, ports_of, resources
from mesh.kube.client import proxy_get
from mesh.viz.exposition import Exposition

PARALLEL = 8
COLUMNS = (
    Column("ROUTE"),
    Column("SERVER"),
    Column("AUTHORIZATION"),
    Column("UNAUTHORIZED", per_second, right=True),
    *NUMBERS,
)


def authz(
    *resource: str,
    time_window: Annotated[str, Parameter(name=("--time-window", "-t"))] = "5s",
    output: Output = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show which authorizations a workload has, and what they let in during the next seconds.

    Success and latency are known by port: where several authorizations let requests in to one, they are left open.

    Parameters
    ----------
    resource
        deploy/web, po/web-1, svc/web, ns/shop …
    time_window
        How long to watch the proxies' counters; 0s shows the authorizations alone, at once.
    """
    seconds = _seconds(time_window)
    with connected(cluster) as client:
        wanted = resources(resource, namespace_of(cluster, client))
        if not wanted:
            raise CommandFailed("authz: name a workload, such as deploy/web")
        pods = meshed([pod for one in wanted for pod in pods_of(client, one)])
        if not pods:
            raise CommandFailed(f"{' '.join(resource)}: none of its pods is meshed, so no policy holds for them")
        with ThreadPoolExecutor(PARALLEL) as pool:
            before = list(pool.map(lambda pod: _scrape(client, pod), pods)) if seconds else []
            started = time.monotonic()
            policies = [message for pod in pods for message in _policies(client, cluster, pod)]
            if seconds:
                time.sleep(max(0.0, started + seconds - time.monotonic()))
            window = time.monotonic() - started
            after = list(pool.map(lambda pod: _scrape(client, pod), pods)) if seconds else []
    found = rows(policies, zip(before, after, strict=True), window if seconds else 0.0)
    if not found and output != "json":
        print("No authorizations found: nobody may call it.", file=sys.stderr)
        return 0
    print_table(COLUMNS, [astuple(row) for row in found], output)
    return 0


def _policies(client: Client, options: ClusterOptions, pod: Json) -> list[InboundPolicy]:
    """Of each port that the pod says it has."""
    metadata = pod["metadata"]
    place = f"/v1/inbound/{metadata['namespace']}/{metadata['name']}"
    messages = [message for port in ports_of(pod) for message in ask(client, options, "policy", f"{place}/{port}")]
    return [message for message in messages if isinstance(message, InboundPolicy)]


def _scrape(client: Client, pod: Json) -> Exposition:
    metadata = pod["metadata"]
    place = f"{metadata['name']}:{ADMIN_PORT}"
    return scraped(proxy_get(client, metadata["namespace"], "pods", place, "/metrics").decode())


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except InvalidDuration as error:
        raise CommandFailed(f"--time-window: {error}") from None
