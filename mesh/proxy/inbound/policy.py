"""Who may call this workload: the decision about every inbound request and connection.

    watch ─► apply ─► _Compiled (authorizations, routes)          once for each change, `generation` + 1
    connection's first request ─► _Permit on its session          once for each connection and generation
    request ─► permit ─► route, where there are any ─► counter, refusal ─► rate limit

Identity and address belong to the connection, so whether it is authorized is worked out once; a request costs one
comparison of generations and one addition, or, with routes, the search for its route before that. A new policy holds
from the next request on, also on open connections. Opaque connections have no next request: whoever owns them asks
again when `on_change` tells (`check(session, None, now)`), and ends those that are refused.

Until the policy service answers, and while it is away, the default from our own environment or the last answer applies,
as in Linkerd. The same policy told again (a watch that was opened anew) changes nothing, and rate limits that stay as
they are keep their buckets.

Order is linkerd2-proxy's: route (404), authorization (403), rate limit (429). A port whose protocol is HTTP/1,
HTTP/2 or gRPC lets no connection of another kind in, and one that is opaque or TLS no request.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable

import msgspec

from mesh.api.messages import InboundPolicy, InboundRoute, WatchMessage
from mesh.behavior.authz import (
    CLUSTER_NETWORKS,
    Authorization,
    default_inbound_policy,
    first_that_allows,
    parse_address,
)
from mesh.behavior.inbound_routes import InboundRouter
from mesh.behavior.ratelimit import RateLimiter
from mesh.proxy.metrics import Counter, Family, Registry
from mesh.proxy.series import EndpointSeries
from mesh.proxy.session import Session
from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.message import RequestHead

DEFAULT_ROUTE = InboundRoute(name="default")
HTTP_PROTOCOLS = ("detect", "http1", "http2", "grpc")
TCP_PROTOCOLS = ("detect", "opaque", "tls")

log = logging.getLogger("proxy")


class Verdict:
    """What was decided for one connection, for one of its routes or for its bytes."""

    __slots__ = ("counter", "labels", "refused", "said", "series")

    def __init__(self, counter: Counter, refused: Refused | None, said: str, labels: dict[str, str]) -> None:
        self.counter = counter
        self.refused = refused
        self.said = said
        """What to log each time; empty where nothing is to be said (allowed, and not by audit)."""
        self.labels = labels
        """`srv_*`, `route_*`, `authz_*`: by what it was decided."""
        self.series: EndpointSeries | None = None
        """The metrics of the requests that it lets in, from the first of them on."""


class _Route:
    """A route with all authorizations that hold for it: its own first, then the port's."""

    __slots__ = ("authorizations", "labels")

    def __init__(self, route: InboundRoute, port: list[Authorization]) -> None:
        self.authorizations = [*(Authorization(spec) for spec in route.authorizations), *port]
        self.labels = {"route_group": route.group, "route_kind": route.kind, "route_name": route.name}


class _Compiled:
    """One state of the policy."""

    __slots__ = ("authorizations", "http", "labels", "message", "only", "router", "tcp")

    def __init__(self, message: InboundPolicy) -> None:
        """Raises ValueError where the message names what is no network, `re.error` where what is no expression."""
        self.message = message
        self.authorizations = [Authorization(spec) for spec in message.authorizations]
        self.http = message.protocol in HTTP_PROTOCOLS
        self.tcp = message.protocol in TCP_PROTOCOLS
        self.labels = {
            "srv_group": message.server_group,
            "srv_kind": message.server_kind,
            "srv_name": message.server_name,
        }
        routes = [(route, _Route(route, self.authorizations)) for route in message.routes]
        self.only = _Route(DEFAULT_ROUTE, self.authorizations) if self.http and not routes else None
        """The one route where nothing needs to be matched."""
        self.router: InboundRouter[_Route] = InboundRouter(routes if self.http else [])


class _Permit:
    """What one connection may do under one state of the policy."""

    __slots__ = ("admitted", "limited", "only", "routes")

    def __init__(self, only: Verdict | None, admitted: bool) -> None:
        self.only = only
        self.admitted = admitted
        """As a connection of opaque bytes."""
        self.routes: dict[_Route | None, Verdict] = {}
        self.limited: dict[str, Counter] = {}
        """By the limit that was exceeded."""


class PortPolicy:
    """The inbound policy of the one port that this proxy serves."""

    def __init__(
        self,
        default_policy: str,
        registry: Registry | None = None,
        *,
        cluster_networks: Iterable[str] = CLUSTER_NETWORKS,
        identity_enabled: bool = True,
    ) -> None:
        """`default_policy`: its name; holds until the first message."""
        metrics = registry if registry is not None else Registry()
        self._identity_enabled = identity_enabled
        self._compiled = _Compiled(default_inbound_policy(default_policy, tuple(cluster_networks)))
        self._limiter: RateLimiter | None = None
        self.generation = 0
        """Grows with each change; a decision of an older generation is void."""
        self._listeners: list[Callable[[], None]] = []
        http, tcp = "inbound_http_authz", "inbound_tcp_authz"
        self._allowed = metrics.counters(f"{http}_allow_total", "Inbound requests that were authorized.")
        self._denied = metrics.counters(f"{http}_deny_total", "Inbound requests that no authorization let in.")
        self._no_route = metrics.counters("inbound_http_route_not_found_total", "Inbound requests of no route.")
        self._limited = metrics.counters("inbound_http_local_ratelimit_total", "Inbound requests over a rate limit.")
        self._tcp_allowed = metrics.counters(f"{tcp}_allow_total", "Inbound connections that were authorized.")
        self._tcp_denied = metrics.counters(f"{tcp}_deny_total", "Inbound connections that no authorization let in.")
        self._tcp_ended = metrics.counters(f"{tcp}_terminate_total", "Open connections ended by a change of policy.")

    @property
    def protocol(self) -> str:
        """`detect`, `http1`, `http2`, `grpc`, `opaque` or `tls`."""
        return self._compiled.message.protocol

    @property
    def detect_timeout(self) -> float:
        """Seconds that detection may take."""
        return self._compiled.message.detect_timeout_seconds

    @property
    def message(self) -> InboundPolicy:
        """The policy in force, as it was told."""
        return self._compiled.message

    def on_change(self, callback: Callable[[], None]) -> None:
        """`callback` is called after each change, when `check` already decides by the new policy."""
        self._listeners.append(callback)

    def apply(self, message: WatchMessage) -> None:
        """Takes in a message of the inbound watch. One that cannot be used leaves the policy as it is."""
        if not isinstance(message, InboundPolicy) or _same(message, self._compiled.message):
            return
        try:
            compiled = _Compiled(message)
            limiter = self._limiter_for(message)
        except (ValueError, re.error) as error:
            log.error("inbound policy refused; the last one stays: %s", error)
            return
        self._compiled, self._limiter = compiled, limiter
        self.generation += 1
        for callback in self._listeners:
            callback()

    def check(self, session: Session, head: RequestHead | None, now: float) -> Refused | None:
        """Whether a request may pass, or (`head` None) a connection of opaque bytes; None: yes. Counts the decision.

        For a connection that was let in before, it is the check after a change, and only a refusal is counted.
        """
        if head is None:
            return self._check_connection(session)
        permit: _Permit = session.permit if session.permit_generation == self.generation else self._admit(session)
        verdict = permit.only
        if verdict is None:
            compiled = self._compiled
            route = compiled.router.find(head.method, head.path, head.authority, head.headers)
            verdict = permit.routes.get(route)
            if verdict is None:
                verdict = permit.routes[route] = self._decide(session, route)
        session.verdict = verdict
        verdict.counter.value += 1
        if verdict.said:
            log.info("%s", verdict.said)
        if verdict.refused is not None:
            return verdict.refused
        limiter = self._limiter
        if limiter is None:
            return None
        exceeded = limiter.refuses(session.peer_identity, now)
        if exceeded is None:
            return None
        self._count_limited(session, limiter, exceeded)
        return Refused.RATE_LIMITED

    # ---- inside

    def _admit(self, session: Session) -> _Permit:
        """The session's permit for this generation. That its bytes were once let in stays known."""
        only = self._compiled.only
        before: _Permit | None = session.permit
        permit = _Permit(
            self._decide(session, only) if only is not None else None, before is not None and before.admitted
        )
        session.permit = permit
        session.permit_generation = self.generation
        return permit

    def _decide(self, session: Session, route: _Route | None) -> Verdict:
        if route is None:
            counter = self._series(self._no_route, session, {})
            return Verdict(counter, Refused.NO_ROUTE, "", {})
        return self._judge(session, route.authorizations, route.labels, self._allowed, self._denied, "request")

    def _judge(
        self,
        session: Session,
        authorizations: list[Authorization],
        labels: dict[str, str],
        allowed: Family,
        denied: Family,
        what: str,
    ) -> Verdict:
        granted = first_that_allows(authorizations, parse_address(session.peer_ip), session.tls, session.peer_identity)
        client = f"{session.peer_identity or 'un-meshed client'} at {session.peer or 'unknown address'}"
        server = f"{self._compiled.message.server_kind} {self._compiled.message.server_name}"
        if granted is None:
            said = f"{what} denied by {server}: {client}"
            return Verdict(self._series(denied, session, labels), Refused.FORBIDDEN, said, {})
        spec = granted.spec
        names = {"authz_group": spec.group, "authz_kind": spec.kind, "authz_name": spec.name}
        said = f"{what} allowed by audit, {server}: {client}" if granted.audit else ""
        served = {**self._server(session), **labels, **names}
        return Verdict(self._series(allowed, session, labels | names), None, said, served)

    def _check_connection(self, session: Session) -> Refused | None:
        before: _Permit | None = session.permit
        if before is not None and before.admitted and session.permit_generation == self.generation:
            return None
        permit = self._admit(session)
        compiled = self._compiled
        authorizations = compiled.authorizations if compiled.tcp else []
        denied = self._tcp_ended if permit.admitted else self._tcp_denied
        verdict = self._judge(session, authorizations, {}, self._tcp_allowed, denied, "connection")
        if verdict.refused is not None or not permit.admitted:
            verdict.counter.value += 1
        if verdict.said:
            log.info("%s", verdict.said)
        permit.admitted = verdict.refused is None
        return verdict.refused

    def _limiter_for(self, message: InboundPolicy) -> RateLimiter | None:
        spec = message.rate_limit
        if spec is None:
            return None
        known = self._limiter
        return known if known is not None and known.spec == spec else RateLimiter(spec)

    def _count_limited(self, session: Session, limiter: RateLimiter, exceeded: str) -> None:
        labels = {
            "ratelimit_group": "policy.linkerd.io",
            "ratelimit_kind": "HTTPLocalRateLimitPolicy",
            "ratelimit_name": limiter.spec.name,
            "ratelimit_scope": exceeded,
        }
        permit: _Permit = session.permit
        counter = permit.limited.get(exceeded)
        if counter is None:
            counter = permit.limited[exceeded] = self._series(self._limited, session, labels)
        counter.value += 1

    def _server(self, session: Session) -> dict[str, str]:
        return {**self._compiled.labels, "srv_port": session.local.rpartition(":")[2]}

    def _series(self, family: Family, session: Session, labels: dict[str, str]) -> Counter:
        tls = "true" if session.tls else "no_identity" if self._identity_enabled else "disabled"
        return family.counter(
            {
                **self._server(session),
                **labels,
                "target_addr": session.local,
                "tls": tls,
                "client_id": session.peer_identity or "",
            }
        )


def _same(left: InboundPolicy, right: InboundPolicy) -> bool:
    """Whether two messages say the same, whenever they were said."""
    return msgspec.structs.replace(left, version=right.version, published_at=right.published_at) == right
