"""Service, its HTTPRoutes and GRPCRoutes → `OutboundPolicy`.

    Service ── annotations ─────────► breaker, load bias, queue; retries and timeouts of routes without their own
            ── appProtocol, opaque ──► protocol                                                      protocols.py
    routes  ── matches × hostnames ─► one route of the message for each, the most specific first       matches.py
            ── filters, backendRefs ─► what is done with its requests, and where they go               filters.py

Precedence is the Gateway API's: hostname, path, method, headers, query parameters; then the older route, the first by
name, the first rule and match. Where a GRPCRoute names the Service its HTTPRoutes take no part, and a request that
nothing matches is answered 404, both as in Linkerd. A Service without routes has one of its own, named `http`, that
matches everything.

Where a route and the service both set retries or timeouts, the route's win as a whole group. Failure accrual belongs to
the balancer of the service, and so to the Service; where it stands on a route too, the route's is taken, and the first
route's by name where several have it.

A backend that cannot be used (no such Service, no port) takes its share of the requests and they are answered 500. A
filter or match that cannot be used leaves its whole route out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar

import msgspec

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.messages import (
    BackendSpec,
    FailureAccrualSpec,
    FiltersSpec,
    HttpRouteSpec,
    OutboundPolicy,
    RetrySpec,
    TimeoutSpec,
)
from mesh.api.resources import (
    BackendRef,
    GRPCRoute,
    GRPCRouteMatch,
    HTTPRoute,
    Metadata,
    MirrorTarget,
    RouteMatch,
    RouteTimeouts,
    Service,
)
from mesh.control.translate.annotations import (
    InvalidAnnotation,
    parse_failure_accrual,
    parse_load_bias,
    parse_retry,
    parse_timeouts,
)
from mesh.control.translate.authorizations import GROUP
from mesh.control.translate.filters import AuthorityOf, filters_spec
from mesh.control.translate.matches import (
    Conditions,
    checked_hostnames,
    grpc_conditions,
    host_order,
    http_conditions,
)
from mesh.control.translate.problems import Complain, FieldPath, Unusable, annotation, ignore_problems
from mesh.control.translate.protocols import protocol_of

DEFAULT_ROUTE = "http"
MAX_WEIGHT = 1_000_000
NO_TIMEOUTS = RouteTimeouts()

AnyRoute = HTTPRoute | GRPCRoute
ComplainOfRoute = Callable[[AnyRoute, FieldPath, str], None]
T = TypeVar("T")


def outbound_policy_message(
    authority: str,
    service: Service | None,
    http_routes: Iterable[HTTPRoute],
    version: int,
    published_at: float,
    complain: Complain = ignore_problems,
    complain_route: ComplainOfRoute | None = None,
    *,
    grpc_routes: Iterable[GRPCRoute] = (),
    services: Collection[tuple[str, str]] | None = None,
) -> OutboundPolicy:
    """How proxies treat an authority. The routes are those that name the service as parent, in any order.

    `services`: namespace and name of each that exists; None: not known, and every backend is taken to exist.
    `complain` hears of the Service, `complain_route` of the routes.
    """
    if service is None:
        return OutboundPolicy(version=version, published_at=published_at, authority=authority, exists=False)
    own_annotations = service.metadata.annotations
    retries = _retries(own_annotations, complain)
    timeouts = _group(parse_timeouts, own_annotations, TimeoutSpec(), complain)
    accrual = _group(parse_failure_accrual, own_annotations, None, complain)
    routes: list[AnyRoute] = [*grpc_routes] or [*http_routes]
    translation = _Routes(authority, retries, timeouts, services, complain_route or (lambda *_: None))
    for route in sorted(routes, key=lambda r: (r.metadata.namespace, r.metadata.name)):
        translation.add(route)
    default = HttpRouteSpec(name=DEFAULT_ROUTE, retry=retries["both"], timeouts=timeouts)
    return OutboundPolicy(
        version=version,
        published_at=published_at,
        authority=authority,
        exists=True,
        routes=translation.in_order() if routes else (default,),
        failure_accrual=translation.accrual or accrual,
        load_bias=_group(parse_load_bias, own_annotations, None, complain),
        protocol="http2" if routes and isinstance(routes[0], GRPCRoute) else protocol_of(service, authority, complain),
    )


class _Routes:
    """The routes of one parent, as far as they were read."""

    def __init__(
        self,
        authority: str,
        service_retries: Mapping[str, RetrySpec | None],
        service_timeouts: TimeoutSpec,
        services: Collection[tuple[str, str]] | None,
        complain: ComplainOfRoute,
    ) -> None:
        self._authority = authority
        self._domain = authority.partition(".svc.")[2].rpartition(":")[0] or "cluster.local"
        self._service_retries = service_retries
        self._service_timeouts = service_timeouts
        self._services = services
        self._complain = complain
        self._specs: list[tuple[tuple[object, ...], HttpRouteSpec]] = []
        self.accrual: FailureAccrualSpec | None = None

    def in_order(self) -> tuple[HttpRouteSpec, ...]:
        return tuple(spec for _, spec in sorted(self._specs, key=lambda entry: entry[0]))

    def add(self, route: AnyRoute) -> None:
        """A route that cannot be used is left out whole, as in Linkerd."""
        try:
            specs = list(self._http(route) if isinstance(route, HTTPRoute) else self._grpc(route))
            accrual = _route_group(parse_failure_accrual, route)
        except Unusable as error:
            self._complain(route, error.path, str(error))
            return
        self._specs += specs
        self.accrual = self.accrual or accrual

    def _http(self, route: HTTPRoute) -> Iterator[tuple[tuple[object, ...], HttpRouteSpec]]:
        retry = _route_group(lambda a: parse_retry(a, "http"), route) or self._service_retries["http"]
        own_timeouts = _route_group(parse_timeouts, route)
        hostnames = checked_hostnames(route.spec.hostnames, ("spec", "hostnames"))
        for rule_index, rule in enumerate(route.spec.rules):
            place: FieldPath = ("spec", "rules", rule_index)
            timeouts = self._timeouts(rule.timeouts, own_timeouts, (*place, "timeouts"))
            for match_index, match in enumerate(rule.matches or (RouteMatch(),)):
                conditions = http_conditions(match, (*place, "matches", match_index))
                prefix = _prefix(conditions)
                filters = filters_spec(rule.filters, (*place, "filters"), prefix, self._authority_of(route))
                backends = self._backends(route, rule.backend_refs, prefix, (*place, "backendRefs"))
                yield from _expanded(
                    route, "http", hostnames, conditions, filters, backends, retry, timeouts, (rule_index, match_index)
                )

    def _grpc(self, route: GRPCRoute) -> Iterator[tuple[tuple[object, ...], HttpRouteSpec]]:
        retry = _route_group(lambda a: parse_retry(a, "grpc"), route) or self._service_retries["grpc"]
        timeouts = self._timeouts(NO_TIMEOUTS, _route_group(parse_timeouts, route), ())
        hostnames = checked_hostnames(route.spec.hostnames, ("spec", "hostnames"))
        for rule_index, rule in enumerate(route.spec.rules):
            place: FieldPath = ("spec", "rules", rule_index)
            filters = filters_spec(rule.filters, (*place, "filters"), None, self._authority_of(route))
            backends = self._backends(route, rule.backend_refs, None, (*place, "backendRefs"))
            for match_index, match in enumerate(rule.matches or (GRPCRouteMatch(),)):
                conditions = grpc_conditions(match, (*place, "matches", match_index))
                yield from _expanded(
                    route, "grpc", hostnames, conditions, filters, backends, retry, timeouts, (rule_index, match_index)
                )

    # ---- parts of a rule

    def _timeouts(self, rule: RouteTimeouts, own: TimeoutSpec, place: FieldPath) -> TimeoutSpec:
        """The annotation's request timeout goes before the rule's; `backendRequest` limits each try's response."""
        timeouts = TimeoutSpec(
            request_seconds=own.request_seconds or _duration(rule.request, (*place, "request")),
            response_seconds=own.response_seconds or _duration(rule.backend_request, (*place, "backendRequest")),
            idle_seconds=own.idle_seconds,
        )
        return self._service_timeouts if timeouts == TimeoutSpec() else timeouts

    def _backends(
        self, route: AnyRoute, refs: tuple[BackendRef, ...], prefix: str | None, place: FieldPath
    ) -> tuple[BackendSpec, ...]:
        authority_of = self._authority_of(route)
        backends: list[BackendSpec] = []
        for index, ref in enumerate(refs):
            where = (*place, index)
            if not 0 <= ref.weight <= MAX_WEIGHT:
                raise Unusable((*where, "weight"), f"{ref.weight} is not a weight (0..{MAX_WEIGHT})")
            try:
                filters = filters_spec(ref.filters, (*where, "filters"), prefix, authority_of)
                backends.append(BackendSpec(authority=authority_of(ref, where), weight=ref.weight, filters=filters))
            except Unusable as error:
                self._complain(route, error.path, str(error))
                backends.append(BackendSpec(weight=ref.weight))
        return tuple(backends)

    def _authority_of(self, route: AnyRoute) -> AuthorityOf:
        def authority(ref: BackendRef | MirrorTarget, place: FieldPath) -> str:
            if isinstance(ref, BackendRef) and ref.kind == "EgressNetwork" and ref.group == GROUP:
                if _has_parent(route, ref):
                    return self._authority
                raise Unusable((*place, "kind"), "an EgressNetwork can be the backend only of its own routes")
            if ref.kind != "Service" or ref.group not in ("", "core"):
                raise Unusable((*place, "kind"), f"a backend must be a Service, not {ref.group or 'core'}/{ref.kind}")
            if ref.port is None:
                raise Unusable((*place, "port"), f"the port of Service {ref.name} is missing")
            if not 1 <= ref.port <= 65_535:
                raise Unusable((*place, "port"), f"{ref.port} is not a port (1..65535)")
            namespace = ref.namespace or route.metadata.namespace
            if self._services is not None and (namespace, ref.name) not in self._services:
                raise Unusable((*place, "name"), f"no Service {namespace}/{ref.name}")
            return f"{ref.name}.{namespace}.svc.{self._domain}:{ref.port}"

        return authority


def _has_parent(route: AnyRoute, ref: BackendRef) -> bool:
    """Whether a parent of the route is what `ref` names."""
    own = route.metadata.namespace
    wanted = (ref.kind, ref.namespace or own, ref.name)
    return any((parent.kind, parent.namespace or own, parent.name) == wanted for parent in route.spec.parent_refs)


def _expanded(
    route: AnyRoute,
    kind: str,
    hostnames: tuple[str, ...],
    conditions: Conditions,
    filters: FiltersSpec | None,
    backends: tuple[BackendSpec, ...],
    retry: RetrySpec | None,
    timeouts: TimeoutSpec,
    place: tuple[int, int],
) -> Iterator[tuple[tuple[object, ...], HttpRouteSpec]]:
    """One match for each hostname, with its rank."""
    meta = route.metadata
    for hostname in hostnames:
        spec = HttpRouteSpec(
            name=meta.name,
            namespace=meta.namespace,
            kind=kind,
            hostname=hostname,
            methods=conditions.methods,
            path_exact=conditions.path_exact,
            path_prefixes=conditions.path_prefixes,
            path_regexes=conditions.path_regexes,
            headers=conditions.headers,
            query_params=conditions.query_params,
            filters=filters,
            backends=backends,
            retry=retry,
            timeouts=timeouts,
        )
        yield (*host_order(hostname), *conditions.order, *_age(meta), meta.namespace, meta.name, *place), spec


def _age(metadata: Metadata) -> tuple[int, float]:
    """Older first, those without a time of creation last."""
    created = metadata.creation_timestamp
    return (0, created.timestamp()) if created is not None else (1, 0.0)


def _prefix(conditions: Conditions) -> str | None:
    if conditions.path_prefixes:
        return conditions.path_prefixes[0]
    return None if conditions.path_exact or conditions.path_regexes else "/"


def _duration(text: str | None, place: FieldPath) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text) or None
    except InvalidDuration as error:
        raise Unusable(place, str(error)) from None


def _group(
    parse: Callable[[Mapping[str, str]], T], annotations: Mapping[str, str], fallback: T, complain: Complain
) -> T:
    try:
        return parse(annotations)
    except InvalidAnnotation as error:
        complain(annotation(error.name), str(error))
        return fallback


def _retries(annotations: Mapping[str, str], complain: Complain) -> dict[str, RetrySpec | None]:
    """A Service's retries for each kind of route that has none of its own. A wrong `http` spoils not `grpc`, nor the
    other way about; what both share spoils both and is told once."""
    said: set[str] = set()

    def once(path: FieldPath, message: str) -> None:
        if message not in said:
            said.add(message)
            complain(path, message)

    http = _group(lambda a: parse_retry(a, "http"), annotations, None, once)
    grpc = _group(lambda a: parse_retry(a, "grpc"), annotations, None, once)
    both = msgspec.structs.replace(http, grpc_codes=grpc.grpc_codes) if http is not None and grpc is not None else None
    return {"http": http, "grpc": grpc, "both": both or http or grpc}


def _route_group(parse: Callable[[Mapping[str, str]], T], route: AnyRoute) -> T:
    try:
        return parse(route.metadata.annotations)
    except InvalidAnnotation as error:
        raise Unusable(annotation(error.name), str(error)) from None
