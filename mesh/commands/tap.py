"""`gameday mesh tap RESOURCE`: requests as they pass, one line for each beginning, answer and end."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

from cyclopts import Parameter

from mesh.commands.cluster import DEFAULTS, ClusterOptions
from mesh.commands.errors import CommandFailed
from mesh.commands.ranges import within
from mesh.commands.tables import Output
from mesh.commands.viz_api import AllNamespaces, VizApi, named, target, viz

Event = dict[str, Any]
_KINDS = {"requestInit": "req", "responseInit": "rsp", "responseEnd": "end"}


def tap(
    *resource: str,
    to: str | None = None,
    to_namespace: str | None = None,
    method: str = "",
    path: str = "",
    authority: str = "",
    max_rps: Annotated[float, Parameter(validator=within(0.1, 1_000_000))] = 100.0,
    all_namespaces: AllNamespaces = False,
    output: Output = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show requests live, as the proxies of a resource see them. Ctrl-C ends it.

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
        Requests a second of all pods together that are shown; each pod shows at least one.
    all_namespaces
        All namespaces.
    output
        wide: with the resources at both ends; json: one object a line, request headers included.
    """
    with viz(cluster) as api:
        parameters = tap_parameters(api, resource, all_namespaces, to, to_namespace)
        parameters |= {"method": method, "path": path, "authority": authority, "max-rps": f"{max_rps:g}"}
        if output == "json":
            parameters["headers"] = "true"
        shown = failed = 0
        try:
            with api.stream("tap", **parameters) as events:
                for event in events:
                    if event["event"] == "note":
                        failed += _told(event)
                        continue
                    shown += 1
                    print(json.dumps(event) if output == "json" else line(event, output == "wide"), flush=True)
        except KeyboardInterrupt:
            return 0
        except BrokenPipeError:  # `… | head` has what it wanted
            sys.stderr.close()
            return 0
    if failed and not shown:
        raise CommandFailed("tap: no proxy could be tapped; the notes above say why")
    return 0


def tap_parameters(
    api: VizApi, resource: tuple[str, ...], all_namespaces: bool, to: str | None, to_namespace: str | None
) -> dict[str, str]:
    """What `tap` and `top` ask viz for. Raises CommandFailed."""
    wanted = named(api, resource)
    if len(wanted) != 1:
        raise CommandFailed("name one resource at a time; ns/NAME is all of a namespace")
    namespace = "" if all_namespaces else wanted[0].namespace
    return {"resource": str(wanted[0]), "namespace": namespace, **target(api, "to", to, to_namespace)}


def line(event: Event, wide: bool = False) -> str:
    """An event as Linkerd writes it."""
    source, destination = event.get("source") or {}, event.get("destination") or {}
    direction = "in " if event.get("proxyDirection") == "inbound" else "out"
    known = event.get("tls")
    tls = "-" if known is None else "true" if known else "no_tls"  # not known before there is an endpoint
    head = (
        f"{_KINDS.get(event['event'], event['event'])} id={event.get('pod', '?')}:{event.get('id', '?')} "
        f"proxy={direction} src={_address(source)} dst={_address(destination)} tls={tls}"
    )
    parts = [head, *_said(event)]
    if wide:
        parts += [f"src_{key}={value}" for key, value in _who(source)]
        parts += [f"dst_{key}={value}" for key, value in _who(destination)]
        if event.get("route"):
            parts.append(f"rt_route={event['route']}")
    return " ".join(parts)


def _said(event: Event) -> list[str]:
    match event["event"]:
        case "requestInit":
            fields = (("method", "method"), ("authority", "authority"), ("path", "path"))
            return [f":{name}={harmless(event.get(key, ''))}" for name, key in fields]
        case "responseInit":
            return [f":status={event.get('httpStatus', 0)}", f"latency={event.get('sinceRequestInitUs', 0)}µs"]
        case _:
            said = [
                f"duration={event.get('sinceResponseInitUs', event.get('sinceRequestInitUs', 0))}µs",
                f"response-length={event.get('responseBytes', 0)}B",
            ]
            if event.get("grpcStatus") is not None:
                said.insert(0, f"grpc-status={event['grpcStatus']}")
            if event.get("error"):
                said.append(f"error={harmless(event['error'])}")
            return said


def _who(end: Event) -> list[tuple[str, str]]:
    kind = str(end.get("kind", "")).lower()
    names = [("ns", end.get("namespace")), ("pod", end.get("pod")), ("identity", end.get("identity"))]
    if kind and kind != "pod":
        names.insert(1, (kind, end.get("workload")))
    return [(name, str(value)) for name, value in names if value]


def _address(end: Event) -> str:
    host = str(end.get("ip", "?"))
    return f"[{host}]:{end.get('port', 0)}" if ":" in host else f"{host}:{end.get('port', 0)}"


def harmless(value: object) -> str:
    """On one line, and harmless to a terminal: what clients send is not ours to trust."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))


def _told(note: Event) -> int:
    """Prints a note unless it is the good one; whether it was a failure."""
    if note["text"] == "tapping":
        return 0
    where = f"{note['namespace']}/{note['pod']}: " if note.get("pod") else ""
    print(f"note: {where}{harmless(note['text'])}", file=sys.stderr, flush=True)
    return 1
