"""Who may call a workload and who does: its inbound policies joined with what its proxies counted. Pure.

    policy of each port ──► (route, Server, authorization), with or without traffic
    two scrapes ──────────► gains ──► rates by the same three; refusals by route and Server

The proxies count success and latency by port, not by authorization: a row has them where it is the only one of its port
that let anything in meanwhile, and says nothing elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mesh.api.messages import InboundPolicy
from mesh.viz.exposition import Exposition, parse_labels, read
from mesh.viz.history import increase
from mesh.viz.tally import histogram_quantile

ALLOWED, DENIED = "inbound_http_authz_allow_total", "inbound_http_authz_deny_total"
RESPONSES, LATENCY = "response_total", "response_latency_ms"
Key = tuple[str, str, str]
"""Route, Server, authorization (empty: nobody was let in)."""


@dataclass(slots=True)
class Traffic:
    """What one row saw in the window."""

    allowed: float = 0.0
    denied: float = 0.0
    ports: set[str] = field(default_factory=set)
    """Of the app, where this row let something in."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Rates are a second's; None: not known."""

    route: str
    server: str
    authorization: str | None
    unauthorized: float | None = None
    success: float | None = None
    rps: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None


def scraped(text: str) -> Exposition:
    """The families that this reads. Raises Truncated."""
    return read(text, {ALLOWED, DENIED, RESPONSES}, {LATENCY})


def rows(
    policies: Iterable[InboundPolicy], scrapes: Iterable[tuple[Exposition, Exposition]], seconds: float
) -> list[Row]:
    """The table.

    Args:
        policies: of each port of each pod.
        scrapes: of each pod, before and after.
        seconds: between the two; 0: there was no window, and nothing is known of traffic.
    """
    found: dict[Key, Traffic] = {key: Traffic() for policy in policies for key in _keys(policy)}
    answers: dict[str, _Answers] = defaultdict(_Answers)
    if seconds > 0:
        for before, after in scrapes:
            _count(found, before, after)
            _count_answers(answers, before, after)
    users = defaultdict(set)
    for key, traffic in found.items():
        if len(answers) == 1:  # a proxy of one port: it may be dialled at another one than its app's
            traffic.ports = set(answers) if traffic.ports else set()
        for port in traffic.ports:
            users[port].add(key)
    return [
        _row(key, found[key], [answers[port] for port in found[key].ports], users, seconds)
        for key in sorted(found, key=lambda key: (key[1], key[0], key[2] == "", key[2]))
    ]


@dataclass(slots=True)
class _Answers:
    good: float = 0.0
    bad: float = 0.0
    bounds: tuple[float, ...] = ()
    counts: list[float] = field(default_factory=list)
    """Observations by bucket."""


def _keys(policy: InboundPolicy) -> Iterable[Key]:
    server = _server(policy.server_kind, policy.server_name)
    routes = [(route.name, route.authorizations) for route in policy.routes] or [("default", ())]
    for name, own in routes:
        for spec in (*own, *policy.authorizations):
            yield name, server, f"{spec.kind.lower()}/{spec.name}"


def _server(kind: str, name: str) -> str:
    return f"default:{name}" if kind == "default" else name


def _count(found: dict[Key, Traffic], before: Exposition, after: Exposition) -> None:
    for (family, text), value in after.values.items():
        if family not in (ALLOWED, DENIED):
            continue
        gained = increase(before.values.get((family, text)), value)
        if gained <= 0:
            continue
        labels = parse_labels(text)
        route, server = labels.get("route_name") or "default", _server(labels["srv_kind"], labels["srv_name"])
        if family == DENIED:
            found.setdefault((route, server, ""), Traffic()).denied += gained
            continue
        name = f"{labels.get('authz_kind', '').lower()}/{labels.get('authz_name', '')}"
        traffic = found.setdefault((route, server, name), Traffic())
        traffic.allowed += gained
        traffic.ports.add(_port(labels))


def _count_answers(answers: dict[str, _Answers], before: Exposition, after: Exposition) -> None:
    for (family, text), value in after.values.items():
        if family != RESPONSES or 'direction="inbound"' not in text:
            continue
        labels = parse_labels(text)
        gained = increase(before.values.get((family, text)), value)
        if labels.get("classification") == "success":
            answers[_port(labels)].good += gained
        else:
            answers[_port(labels)].bad += gained
    for key, buckets in after.histograms.items():
        if 'direction="inbound"' not in key[1]:
            continue
        earlier = before.histograms.get(key)
        counts = [
            increase(earlier.counts[index] if earlier is not None else None, count)
            for index, count in enumerate(buckets.counts)
        ]
        single = [max(0.0, count - below) for count, below in zip(counts, [0.0, *counts], strict=False)]
        answer = answers[_port(parse_labels(key[1]))]
        if not answer.counts:
            answer.bounds, answer.counts = buckets.bounds, [0.0] * len(single)
        answer.counts = [one + other for one, other in zip(answer.counts, single, strict=True)]


def _port(labels: Mapping[str, str]) -> str:
    return labels.get("target_addr", "").rpartition(":")[2]


def _row(key: Key, traffic: Traffic, answers: list[_Answers], users: Mapping[str, set[Key]], seconds: float) -> Row:
    route, server, authorization = key
    if seconds <= 0:
        return Row(route, server, authorization or None)
    rates = traffic.denied / seconds, traffic.allowed / seconds
    alone = len(answers) == 1 and all(users[port] == {key} for port in traffic.ports)
    if not alone:
        return Row(route, server, authorization or None, rates[0], None, rates[1])
    (answer,) = answers
    total = answer.good + answer.bad
    quantiles = [histogram_quantile(q, answer.bounds, answer.counts) for q in (0.5, 0.95, 0.99)]
    success = answer.good / total if total > 0 else None
    return Row(route, server, authorization or None, rates[0], success, rates[1], *quantiles)
