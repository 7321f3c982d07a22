"""Service annotations and HTTPRoutes → `OutboundPolicy`.

Each match of each rule becomes a route of the message, the most specific first (Gateway API order: exact paths, then
regular expressions, then prefixes by length; then those with a method; then by name). The service's own default
route, named `http` as in Linkerd, comes last and matches everything.

Where a route and the service both set retries or timeouts, the route's win as a whole group. Failure accrual belongs to
the balancer of the service, and so to the Service; where it stands on an HTTPRoute too, the route's is taken, and the
first route's by name where several have it.

Unlike Linkerd, a request that no HTTPRoute matches takes the default route and is not answered 404.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.messages import FailureAccrualSpec, HttpRouteSpec, OutboundPolicy, RetrySpec, TimeoutSpec
from mesh.api.resources import HTTPRoute, RouteMatch, RouteRule, Service
from mesh.control.translate.annotations import (
    InvalidAnnotation,
    parse_failure_accrual,
    parse_retry,
    parse_timeouts,
    suggestion,
)
from mesh.control.translate.problems import Complain, FieldPath, annotation, ignore_problems
from mesh.control.translate.profiles import METHODS

DEFAULT_ROUTE = "http"
PATH_TYPES = ("Exact", "RegularExpression", "PathPrefix")
"""Most specific first."""

T = TypeVar("T")


class _Unusable(Exception):
    def __init__(self, path: FieldPath, message: str) -> None:
        super().__init__(message)
        self.path = path


def outbound_policy_message(
    authority: str,
    service: Service | None,
    http_routes: Iterable[HTTPRoute],
    version: int,
    published_at: float,
    complain: Complain = ignore_problems,
    complain_route: Callable[[HTTPRoute, FieldPath, str], None] | None = None,
) -> OutboundPolicy:
    """How proxies treat an authority. `http_routes` are those that name the service as parent, in any order.

    `complain` hears of the Service, `complain_route` of the HTTPRoutes.
    """
    if service is None:
        return OutboundPolicy(version=version, published_at=published_at, authority=authority, exists=False)
    annotations = service.metadata.annotations
    retry = _group(parse_retry, annotations, None, complain)
    timeouts = _group(parse_timeouts, annotations, TimeoutSpec(), complain)
    accrual = _group(parse_failure_accrual, annotations, None, complain)
    specs: list[tuple[tuple[object, ...], HttpRouteSpec]] = []
    route_accrual: FailureAccrualSpec | None = None
    for route in sorted(http_routes, key=lambda r: (r.metadata.namespace, r.metadata.name)):
        try:
            specs.extend(_convert(route, retry, timeouts))
            if route_accrual is None:
                route_accrual = _route_group(parse_failure_accrual, route)
        except _Unusable as error:
            if complain_route is not None:
                complain_route(route, error.path, str(error))
    specs.sort(key=lambda entry: entry[0])
    default = HttpRouteSpec(name=DEFAULT_ROUTE, retry=retry, timeouts=timeouts)
    return OutboundPolicy(
        version=version,
        published_at=published_at,
        authority=authority,
        exists=True,
        routes=(*(spec for _, spec in specs), default),
        failure_accrual=route_accrual or accrual,
    )


def _convert(
    route: HTTPRoute, service_retry: RetrySpec | None, service_timeouts: TimeoutSpec
) -> list[tuple[tuple[object, ...], HttpRouteSpec]]:
    """The route's matches, each with its sort key. Raises _Unusable: the whole route is left out, as in Linkerd."""
    retry = _route_group(parse_retry, route) or service_retry
    own_timeouts = _route_group(parse_timeouts, route)
    converted: list[tuple[tuple[object, ...], HttpRouteSpec]] = []
    for rule_index, rule in enumerate(route.spec.rules):
        timeouts = _rule_timeouts(rule, own_timeouts, ("spec", "rules", rule_index, "timeouts"))
        if timeouts == TimeoutSpec():
            timeouts = service_timeouts
        for match_index, match in enumerate(rule.matches or (RouteMatch(),)):
            place: FieldPath = ("spec", "rules", rule_index, "matches", match_index)
            spec = _match(route.metadata.name, match, retry, timeouts, place)
            order = (*_specificity(match), route.metadata.namespace, route.metadata.name, rule_index, match_index)
            converted.append((order, spec))
    return converted


def _match(
    name: str, match: RouteMatch, retry: RetrySpec | None, timeouts: TimeoutSpec, place: FieldPath
) -> HttpRouteSpec:
    if match.method is not None and match.method not in METHODS:
        raise _Unusable(
            (*place, "method"), f"{match.method!r} is not an HTTP method" + suggestion(match.method.upper(), METHODS)
        )
    methods = (match.method,) if match.method is not None else ()
    exact: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    regexes: tuple[str, ...] = ()
    if match.path is not None:
        value = match.path.value
        match match.path.type:
            case "Exact":
                exact = (_absolute(value, place),)
            case "PathPrefix":
                prefixes = (_absolute(value, place),)
            case "RegularExpression":
                regexes = (_regex(value, place),)
            case other:
                raise _Unusable(
                    (*place, "path", "type"),
                    f"{other!r} is not one of {', '.join(PATH_TYPES)}" + suggestion(other, PATH_TYPES),
                )
    return HttpRouteSpec(
        name=name,
        methods=methods,
        path_exact=exact,
        path_prefixes=prefixes,
        path_regexes=regexes,
        retry=retry,
        timeouts=timeouts,
    )


def _specificity(match: RouteMatch) -> tuple[int, int, int]:
    if match.path is None:
        return len(PATH_TYPES), 0, 0 if match.method is not None else 1
    kind = PATH_TYPES.index(match.path.type)
    return kind, -len(match.path.value), 0 if match.method is not None else 1


def _absolute(path: str, place: FieldPath) -> str:
    if not path.startswith("/"):
        raise _Unusable((*place, "path", "value"), f"{path!r} is not an absolute path; begin it with /")
    return path


def _regex(pattern: str, place: FieldPath) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise _Unusable((*place, "path", "value"), f"{pattern!r} is not a regular expression: {error}") from None
    return pattern


def _rule_timeouts(rule: RouteRule, own: TimeoutSpec, place: FieldPath) -> TimeoutSpec:
    """The annotation's request timeout goes before the rule's; `backendRequest` limits each try's response."""
    request = own.request_seconds or _duration(rule.timeouts.request, (*place, "request"))
    response = own.response_seconds or _duration(rule.timeouts.backend_request, (*place, "backendRequest"))
    return TimeoutSpec(request_seconds=request, response_seconds=response, idle_seconds=own.idle_seconds)


def _duration(text: str | None, place: FieldPath) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text) or None
    except InvalidDuration as error:
        raise _Unusable(place, str(error)) from None


def _group(
    parse: Callable[[Mapping[str, str]], T], annotations: Mapping[str, str], fallback: T, complain: Complain
) -> T:
    try:
        return parse(annotations)
    except InvalidAnnotation as error:
        complain(annotation(error.name), str(error))
        return fallback


def _route_group(parse: Callable[[Mapping[str, str]], T], route: HTTPRoute) -> T:
    try:
        return parse(route.metadata.annotations)
    except InvalidAnnotation as error:
        raise _Unusable(annotation(error.name), str(error)) from None
