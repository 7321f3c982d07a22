"""Queries of the API, read and answered. Pure: a fleet, a time and parameters in, a struct out.

Every answer says what it rests on: how long was observed, and which proxies could not be scraped in the window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.viz.certificates import certificates
from mesh.viz.config import WINDOW_SECONDS
from mesh.viz.edges import edges, topology
from mesh.viz.fleet import Fleet
from mesh.viz.inbound import stat_inbound
from mesh.viz.outbound import routes, stat_outbound
from mesh.viz.resources import Resource, UnknownResource, parse_resource
from mesh.viz.stat import stat
from mesh.viz.tap import DEFAULT_MAX_RPS, TapQuery

DEFAULT_WINDOW_SECONDS = 60.0
STALE_INTERVALS = 3
"""A proxy unheard of for so many scrape intervals is listed, whatever the window."""

Parameters = Mapping[str, str]


class BadQuery(ValueError):
    """The question makes no sense; the text is for the user."""


class NotFound(LookupError):
    """Nothing of that name is known; the text is for the user."""


class Missing(msgspec.Struct):
    """A proxy that could not be scraped."""

    namespace: str
    pod: str
    missed: int
    """Scrapes in the window."""
    reason: str
    """Empty where it answers again."""
    last_ok_seconds: float | None
    """Since the last good scrape; None: there was none."""


class Basis(msgspec.Struct):
    """What an answer rests on."""

    window_seconds: float
    observed_seconds: float
    """Of the window, since the first scrape of all; less right after a start."""
    proxies: int
    missing: list[Missing]
    cut: int
    """Series past the bounds of memory, since the start."""


class Answer(msgspec.Struct):
    """Rows of any kind, and their basis. `at`: Unix seconds."""

    at: float
    basis: Basis
    rows: list[Any] = msgspec.field(default_factory=list)
    nodes: list[Any] = msgspec.field(default_factory=list)
    links: list[Any] = msgspec.field(default_factory=list)


def answer(fleet: Fleet, question: str, parameters: Parameters, now: float, interval: float) -> Answer:
    """The answer to `/api/<question>`.

    Args:
        interval: seconds between two scrapes.

    Raises:
        BadQuery, NotFound
    """
    window = window_of(parameters, interval)
    since = now - window
    found = Answer(at=now, basis=basis(fleet, since, now, interval))
    if question == "topology":
        graph = topology(fleet, parameters.get("namespace", ""), since, now)
        found.nodes, found.links = list(graph.nodes), list(graph.links)
        return found
    resource = resource_of(parameters)
    _known(fleet, resource)
    to, by = other_resource(parameters, "to"), other_resource(parameters, "from")
    if to is not None and by is not None:
        raise BadQuery("give either to or from, not both")
    for other in (to, by):
        if other is not None:
            _known(fleet, other)
    rows: dict[str, Callable[[], list[Any]]] = {
        "stat": lambda: list(stat(fleet, resource, since, now, to, by)),
        "stat-inbound": lambda: list(stat_inbound(fleet, resource, since, now)),
        "stat-outbound": lambda: list(stat_outbound(fleet, resource, since, now, to)),
        "routes": lambda: list(routes(fleet, resource, since, now, to)),
        "edges": lambda: list(edges(fleet, resource, since, now)),
        "certificates": lambda: list(certificates(fleet, resource, now)),
    }
    if question in ("stat-inbound", "stat-outbound", "edges", "certificates") and not resource.of_pods:
        raise BadQuery(f"{question} is about pods and their workloads, not about {resource}")
    found.rows = rows[question]()
    return found


QUESTIONS = ("stat", "stat-inbound", "stat-outbound", "routes", "edges", "certificates", "topology")


def basis(fleet: Fleet, since: float, now: float, interval: float) -> Basis:
    """What is known, and what is not, of the window up to now."""
    missing = []
    proxies = 0
    cut = 0
    for member in fleet.running():
        if not member.pod.meshed:
            continue
        proxies += 1
        history = member.history
        cut += history.cut
        missed = history.missed_since(since)
        age = None if history.last_at is None else now - history.last_at
        if missed or (age is not None and age > STALE_INTERVALS * interval):
            pod = member.pod
            missing.append(Missing(pod.namespace, pod.name, missed, history.last_miss, age))
    begun = fleet.observing_since
    observed = min(now - since, now - begun) if begun is not None else 0.0
    missing.sort(key=lambda one: (one.namespace, one.pod))
    return Basis(now - since, observed, proxies, missing, cut)


def window_of(parameters: Parameters, interval: float) -> float:
    """Seconds of the `window` parameter. Raises BadQuery."""
    text = parameters.get("window", "")
    if not text:
        return DEFAULT_WINDOW_SECONDS
    try:
        seconds = parse_duration(text)
    except InvalidDuration as error:
        raise BadQuery(f"window: {error}") from None
    if not interval <= seconds <= WINDOW_SECONDS:
        raise BadQuery(f"window: from {interval:g}s, the time between two scrapes, to {WINDOW_SECONDS:g}s")
    return seconds


def resource_of(parameters: Parameters) -> Resource:
    """The resource asked about. Raises BadQuery."""
    return _resource(parameters.get("resource") or "workload", parameters.get("namespace", ""))


def other_resource(parameters: Parameters, name: str) -> Resource | None:
    """The resource of `to` or `from`, in its own namespace or the first one's. Raises BadQuery."""
    text = parameters.get(name, "")
    if not text:
        return None
    return _resource(text, parameters.get(f"{name}-namespace", parameters.get("namespace", "")))


def tap_query_of(parameters: Parameters) -> TapQuery:
    """Raises BadQuery."""
    resource = resource_of(parameters)
    if not resource.of_pods:
        raise BadQuery(f"tap is about pods and their workloads; for {resource}, tap its clients with to={resource}")
    direction = parameters.get("direction", "")
    if direction not in ("", "inbound", "outbound"):
        raise BadQuery("direction: inbound or outbound")
    return TapQuery(
        resource=resource,
        to=other_resource(parameters, "to"),
        method=parameters.get("method", ""),
        path=parameters.get("path", ""),
        authority=parameters.get("authority", ""),
        max_rps=_number(parameters, "max-rps", DEFAULT_MAX_RPS),
        limit=int(_number(parameters, "limit", 0)),
        headers=parameters.get("headers", "") in ("1", "true"),
        direction=direction,
    )


def _number(parameters: Parameters, name: str, default: float) -> float:
    text = parameters.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise BadQuery(f"{name}: {text!r} is not a number") from None
    if not 0 <= value <= 1e6:
        raise BadQuery(f"{name}: from 0 to 1000000")
    return value


def _resource(text: str, namespace: str) -> Resource:
    try:
        return parse_resource(text, namespace)
    except UnknownResource as error:
        raise BadQuery(str(error)) from None


def _known(fleet: Fleet, resource: Resource) -> None:
    if not resource.name or not resource.of_pods:
        return
    if not any(resource.holds(member.pod) for member in fleet.members.values()):
        where = f"namespace {resource.namespace}" if resource.namespace else "the cluster"
        raise NotFound(f"no pod of {resource} in {where}; see the name, and the namespace (-n)")
