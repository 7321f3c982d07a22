"""`gameday mesh diagnostics …`: what proxies and control plane say, unprocessed.

`endpoints`, `policy` and `profile` ask the very code that tells the proxies, from the state that it has now
(`mesh.control.discovery`), so they answer "what does the mesh believe", not "what do the manifests say".
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import yaml
from cyclopts import App, Parameter

from mesh.api.messages import Endpoint, Endpoints, NotFound, Profile, WatchMessage
from mesh.commands.cluster import DEFAULTS, ClusterOptions, connected, namespace_of
from mesh.commands.control_plane import ask, containers, pods_with
from mesh.commands.errors import CommandFailed
from mesh.commands.options import OPTIONS
from mesh.commands.tables import Column, Output, print_table
from mesh.commands.workloads import ADMIN_PORT, meshed, pods_of, resources
from mesh.kube.client import ProxyFailed, proxy_get

app = App(
    name="diagnostics",
    help="What the proxies and the control plane say, unprocessed.",
    help_format="rst",
    default_parameter=OPTIONS,
)
Document = Annotated[Literal["yaml", "json"], Parameter(name=("--output", "-o"))]
ClientNamespace = Annotated[str, Parameter(name="--client-namespace")]

ENDPOINTS = (
    Column("NAMESPACE"),
    Column("IP"),
    Column("PORT"),
    Column("POD"),
    Column("SERVICE"),
    Column("IDENTITY", wide=True),
    Column("WEIGHT", wide=True, right=True),
    Column("OPAQUE", lambda opaque: "yes" if opaque else "no", wide=True),
)


@app.command(name="proxy-metrics")
def proxy_metrics(*resource: str, cluster: ClusterOptions = DEFAULTS) -> int:
    """Print the metrics of the proxies of a pod or workload.

    Exit codes: 0 all printed, 1 some proxy did not answer, 2 bad input.

    Parameters
    ----------
    resource
        What they belong to: deploy/web, po/web-1, ns/shop …
    """
    with connected(cluster) as client:
        wanted = resources(resource, namespace_of(cluster, client))
        if not wanted:
            raise CommandFailed("proxy-metrics: name a pod or workload, such as deploy/web")
        pods = meshed([pod for one in wanted for pod in pods_of(client, one)])
        if not pods:
            raise CommandFailed(f"{' '.join(resource)}: none of its pods is meshed; see `gameday mesh inject`")
        places = [(pod["metadata"]["namespace"], pod["metadata"]["name"], ADMIN_PORT, "") for pod in pods]
        return _print_metrics(client, places)


@app.command(name="controller-metrics")
def controller_metrics(*, cluster: ClusterOptions = DEFAULTS) -> int:
    """Print the metrics of the control plane's containers.

    Exit codes: 0 all printed, 1 some container did not answer, 2 bad input.
    """
    with connected(cluster) as client:
        found = containers(pods_with(client, cluster))
        if not found:
            raise CommandFailed(f"no control plane runs in {cluster.linkerd_namespace}; see `gameday mesh check`")
        places = [(cluster.linkerd_namespace, pod, port, f" CONTAINER {name}") for pod, name, port in found]
        return _print_metrics(client, places)


@app.command
def endpoints(
    *authority: str,
    client_namespace: ClientNamespace = "",
    output: Output = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show where the control plane sends requests for an authority.

    Parameters
    ----------
    authority
        Name and port of a service: web.shop.svc.cluster.local:80, or address and port.
    client_namespace
        Answer as for clients of this namespace.
    """
    if not authority:
        raise CommandFailed("endpoints: name an authority, such as web.shop.svc.cluster.local:80")
    with connected(cluster) as client:
        asked = [
            (name, ask(client, cluster, "destination", f"/v1/destinations/{name}", ns=client_namespace))
            for name in authority
        ]
    missing = [name for name, messages in asked if any(isinstance(message, NotFound) for message in messages)]
    rows = [
        endpoint_row(name, endpoint)
        for name, messages in asked
        for message in messages
        if isinstance(message, Endpoints)
        for endpoint in message.endpoints
    ]
    if missing and len(missing) == len(asked):
        raise CommandFailed(f"{', '.join(missing)}: no such service; the proxy forwards to it as it is")
    if rows or output == "json":
        print_table(ENDPOINTS, rows, output)
    else:
        print("No endpoints found.", file=sys.stderr)
    return 0


@app.command
def profile(
    authority: str,
    /,
    *,
    client_namespace: ClientNamespace = "",
    output: Document = "yaml",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show the profile that proxies have of an authority.

    Parameters
    ----------
    authority
        Name and port of a service: web.shop.svc.cluster.local:80.
    client_namespace
        Answer as for clients of this namespace: theirs may have a profile of its own.
    """
    with connected(cluster) as client:
        messages = ask(client, cluster, "destination", f"/v1/destinations/{authority}", ns=client_namespace)
    _print_document([message for message in messages if isinstance(message, Profile)], output)
    return 0


@app.command
def policy(
    resource: str,
    port: int,
    /,
    *,
    client_namespace: ClientNamespace = "",
    output: Document = "yaml",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show the policy of a port: of a pod or workload who may call it, of a service how clients treat it.

    Parameters
    ----------
    resource
        po/web-1, deploy/web or svc/web.
    port
        The pod's or the service's.
    client_namespace
        For services: answer as for clients of this namespace.
    """
    with connected(cluster) as client:
        (one,) = resources([resource], namespace_of(cluster, client))
        if one.kind == "Service":
            from mesh.commands.control_plane import values_of

            name = f"{one.name}.{one.namespace}.svc.{values_of(client, cluster).trust_domain}:{port}"
            path, params = f"/v1/outbound/{name}", {"ns": client_namespace}
        else:
            metadata = pods_of(client, one)[0]["metadata"]
            path, params = f"/v1/inbound/{metadata['namespace']}/{metadata['name']}/{port}", {}
        messages = ask(client, cluster, "policy", path, **params)
    _print_document(messages, output)
    return 0


def endpoint_row(authority: str, endpoint: Endpoint) -> tuple[object, ...]:
    """Values of `ENDPOINTS`. The port is the app's; that of a meshed pod's proxy is nobody's business but its own."""
    ip, _, port = endpoint.address.rpartition(":")
    service = authority.partition(":")[0].split(".svc.")[0]
    return (
        endpoint.namespace,
        ip.strip("[]"),
        str(endpoint.port or port),
        endpoint.pod,
        service,
        endpoint.identity,
        endpoint.weight,
        endpoint.opaque,
    )


def _print_metrics(client: object, places: Sequence[tuple[str, str, int, str]]) -> int:
    from lightkube import Client

    assert isinstance(client, Client)
    failed = 0
    for number, (namespace, pod, port, suffix) in enumerate(places, start=1):
        print(f"#\n# POD {pod}{suffix} ({number} of {len(places)})\n#")
        try:
            sys.stdout.write(proxy_get(client, namespace, "pods", f"{pod}:{port}", "/metrics").decode())
        except ProxyFailed as error:
            print(f"# ERROR {error}")
            failed = 1
    return failed


def _print_document(messages: Sequence[WatchMessage], output: str) -> None:
    for number, message in enumerate(messages):
        if output == "json":
            print(msgspec.json.format(msgspec.json.encode(message)).decode())
        else:
            print(("---\n" if number else "") + yaml.safe_dump(msgspec.to_builtins(message), sort_keys=False), end="")
