"""Which rules apply to a request: ServiceProfile routes where a profile exists, else the outbound policy's routes.

The two retry models differ on purpose, as they do in Linkerd:

    ServiceProfile   any number of retries, at once, while the budget pays; only for responses, never after a timeout
    annotations      at most `limit` retries with backoff, no budget; also after fail-fast, response timeouts and
                     streams that the peer refused

A profile switches off everything the outbound policy says about retries, timeouts and failure accrual.

The control plane sends policy routes in the order of the Gateway API's precedence, so the first that matches is the
right one. A parent without HTTPRoutes or GRPCRoutes has one route without conditions, and then matching is a single
attribute (`Router.only`), so that routing costs nothing where nobody asked for it.

Matching, retry rules and weights are one file: a route is all of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from urllib.parse import parse_qsl

from mesh.api.messages import (
    BackendSpec,
    DstOverride,
    HttpRouteSpec,
    OutboundPolicy,
    Profile,
    ProfileRoute,
    RetrySpec,
    ValueMatch,
)
from mesh.behavior.backoff import Backoff
from mesh.behavior.budget import RetryBudget
from mesh.behavior.filters import Filters, Headers, compile_filters
from mesh.behavior.outcome import Cause, is_failure
from mesh.behavior.regexes import compile_whole

RETRYABLE_CAUSES = frozenset({Cause.FAILFAST, Cause.RESPONSE_TIMEOUT, Cause.REFUSED})
"""Causes that annotation retries act on whatever the configured statuses; load-shed never is."""


class BudgetRetry:
    """ServiceProfile retries: unlimited tries, paid from the budget that all routes of the profile share."""

    __slots__ = ("_budget", "_retryable")

    def __init__(self, budget: RetryBudget, retryable: bool) -> None:
        self._budget = budget
        self._retryable = retryable

    def delay(
        self,
        now: float,
        attempt: int,
        failed: bool,
        status: int,
        cause: Cause | None,
        rng: Random,
        grpc_status: int | None = None,
    ) -> float | None:
        if cause is not None:
            return None
        if not failed or not self._retryable:
            self._budget.deposit(now)
            return None
        return 0.0 if self._budget.withdraw(now) else None

    def wanted(self, failed: bool, status: int, cause: Cause | None, grpc_status: int | None = None) -> bool:
        """Whether such an end of a try calls for a retry, budget or no budget."""
        return cause is None and failed and self._retryable

    @property
    def reads_trailers(self) -> bool:
        """Whether a gRPC status in a response's trailers can call for a retry."""
        return self._retryable


class LimitRetry:
    """Annotation retries: a limit for each request, backoff between tries, no budget."""

    __slots__ = ("_lowest", "_spec")

    def __init__(self, spec: RetrySpec) -> None:
        self._spec = spec
        self._lowest = min((low for low, _ in spec.statuses), default=1000)
        """Below it no status is retried, which is what nearly every answer comes to."""

    def delay(
        self,
        now: float,
        attempt: int,
        failed: bool,
        status: int,
        cause: Cause | None,
        rng: Random,
        grpc_status: int | None = None,
    ) -> float | None:
        if attempt > self._spec.limit or not self.wanted(failed, status, cause, grpc_status):
            return None
        backoff = Backoff(self._spec.backoff_min_seconds, self._spec.backoff_max_seconds, self._spec.backoff_jitter)
        backoff.steps = attempt - 1
        return backoff.next(rng)

    def wanted(self, failed: bool, status: int, cause: Cause | None, grpc_status: int | None = None) -> bool:
        """Whether such an end of a try calls for a retry, limit or no limit."""
        if cause is not None:
            return cause in RETRYABLE_CAUSES
        if status < self._lowest and not grpc_status:
            return False
        if grpc_status is not None and grpc_status in self._spec.grpc_codes:
            return True
        return any(low <= status <= high for low, high in self._spec.statuses)

    @property
    def reads_trailers(self) -> bool:
        """Whether a gRPC status in a response's trailers can call for a retry."""
        return bool(self._spec.grpc_codes)


RetryRule = BudgetRetry | LimitRetry

_NO_HEADERS: Headers = []

NO_BACKEND = ""
"""What a route picks where its share of requests has no usable backend: answered `Cause.NO_BACKEND`."""


@dataclass(frozen=True, slots=True)
class WeightedBackend:
    """Where a share of a route's requests goes."""

    authority: str | None
    """None: the destination itself; NO_BACKEND: nowhere."""
    weight: int
    filters: Filters | None = None


_ITSELF = WeightedBackend(None, 1)
_NOWHERE = WeightedBackend(NO_BACKEND, 1)


@dataclass(frozen=True, slots=True)
class Route:
    """What applies to one request."""

    name: str
    retry: RetryRule | None = None
    retry_limit: int | None = None
    """Retries after which the per-try timeout no longer applies; None: no such limit."""
    try_timeout: float | None = None
    response_timeout: float | None = None
    request_timeout: float | None = None
    classes: tuple[tuple[int, int, bool], ...] = ()
    namespace: str = ""
    kind: str = "http"
    idle_timeout: float | None = None
    filters: Filters | None = None
    backends: tuple[WeightedBackend, ...] = ()
    """Those with a weight; empty: the destination itself."""
    shares: tuple[int, ...] = ()
    """Running sums of the weights."""

    @property
    def is_grpc(self) -> bool:
        return self.kind == "grpc"

    @property
    def reads_trailers(self) -> bool:
        """Whether a response must be held until its gRPC status is known, because it may be retried."""
        return self.retry is not None and self.retry.reads_trailers

    def failed(self, status: int, grpc_status: int | None = None) -> bool:
        """Whether a response with `status` counts as a failure."""
        for low, high, failure in self.classes:
            if low <= status <= high:
                return failure
        return is_failure(status, grpc_status)

    def pick(self, rng: Random) -> WeightedBackend:
        """The backend for one try. A retry picks anew, as in linkerd2-proxy."""
        backends = self.backends
        if not backends:
            return _ITSELF
        if len(backends) == 1:
            return backends[0]
        shares = self.shares
        return backends[bisect_right(shares, int(rng.random() * shares[-1]))]

    def pick_backend(self, rng: Random) -> str | None:
        """The authority of `pick`: None for the destination itself, NO_BACKEND where there is none."""
        return self.pick(rng).authority


class _Value:
    """A header or query parameter that must be there with this value."""

    __slots__ = ("matches", "name")

    def __init__(self, spec: ValueMatch) -> None:
        self.name = spec.name
        self.matches = compile_whole(spec.value) if spec.regex else spec.value.__eq__


@dataclass(frozen=True, slots=True)
class _Matcher:
    route: Route
    methods: frozenset[str] = frozenset()
    path: Callable[[str], bool] | None = None
    host: Callable[[str], bool] | None = None
    headers: tuple[_Value, ...] = ()
    query: tuple[_Value, ...] = ()

    @property
    def unconditional(self) -> bool:
        return not (self.methods or self.path or self.host or self.headers or self.query)


class Router:
    """Routes of one destination, in order; the first that matches applies."""

    __slots__ = ("_matchers", "fallback", "from_profile", "only")

    def __init__(self, matchers: list[_Matcher], fallback: Route | None, from_profile: bool) -> None:
        """`fallback`: for what nothing matches; None: that is answered 404."""
        self._matchers = matchers
        self.fallback = fallback
        self.from_profile = from_profile
        self.only: Route | None = None
        """The route of every request, where no request can have another: `match` need not be asked."""
        if not matchers:
            self.only = fallback
        elif matchers[0].unconditional:
            self.only = matchers[0].route

    @property
    def routes(self) -> list[Route]:
        """All of them, the fallback included."""
        return [m.route for m in self._matchers] + ([self.fallback] if self.fallback is not None else [])

    def match(self, method: str, path: str, headers: Headers = _NO_HEADERS, authority: str = "") -> Route | None:
        """The route for a request, or None where the answer is 404.

        `path` may carry a query; `headers` have lower-case names; `authority`'s port takes no part.
        """
        if self.only is not None:
            return self.only
        path, _, query = path.partition("?")
        for matcher in self._matchers:
            if matcher.methods and method not in matcher.methods:
                continue
            if matcher.path is not None and not matcher.path(path):
                continue
            if matcher.host is not None and not matcher.host(_host(authority)):
                continue
            if matcher.headers and not _all_headers(matcher.headers, headers):
                continue
            if matcher.query and not _all_parameters(matcher.query, query):
                continue
            return matcher.route
        return self.fallback


def build_router(profile: Profile, policy: OutboundPolicy, now: float) -> Router:
    """The router for what the control plane said of a destination."""
    if profile.exists:
        return _from_profile(profile, now)
    return _from_policy(policy)


# ---- ServiceProfile


def _from_profile(profile: Profile, now: float) -> Router:
    budget = RetryBudget(profile.retry_budget, now) if profile.retry_budget is not None else None
    backends, shares = _overrides(profile.dst_overrides, profile.authority)
    matchers = [
        _Matcher(
            _profile_route(r, budget, backends, shares),
            methods=frozenset(r.methods),
            path=_profile_path(r),
        )
        for r in profile.routes
    ]
    retry = BudgetRetry(budget, False) if budget is not None else None
    return Router(matchers, Route("default", retry=retry, backends=backends, shares=shares), from_profile=True)


def _profile_route(
    route: ProfileRoute, budget: RetryBudget | None, backends: tuple[WeightedBackend, ...], shares: tuple[int, ...]
) -> Route:
    return Route(
        route.name,
        retry=BudgetRetry(budget, route.is_retryable) if budget is not None else None,
        request_timeout=route.timeout_seconds,
        classes=tuple((c.min, c.max, c.is_failure) for c in route.response_classes),
        backends=backends,
        shares=shares,
    )


def _overrides(overrides: tuple[DstOverride, ...], own: str) -> tuple[tuple[WeightedBackend, ...], tuple[int, ...]]:
    return _backends(tuple(BackendSpec(authority=o.authority, weight=o.weight) for o in overrides), own)


# ---- outbound policy


def _from_policy(policy: OutboundPolicy) -> Router:
    matchers = [_matcher(spec, policy.authority) for spec in policy.routes]
    return Router(matchers, None if matchers else Route("default"), from_profile=False)


def _matcher(spec: HttpRouteSpec, own: str) -> _Matcher:
    return _Matcher(
        _policy_route(spec, own),
        methods=frozenset(spec.methods),
        path=_any_path(spec),
        host=_host_matcher(spec.hostname),
        headers=tuple(_Value(header) for header in spec.headers),
        query=tuple(_Value(parameter) for parameter in spec.query_params),
    )


def _policy_route(route: HttpRouteSpec, own: str) -> Route:
    backends, shares = _backends(route.backends, own)
    return Route(
        route.name,
        retry=LimitRetry(route.retry) if route.retry is not None else None,
        retry_limit=route.retry.limit if route.retry is not None else None,
        try_timeout=route.retry.timeout_seconds if route.retry is not None else None,
        response_timeout=route.timeouts.response_seconds,
        request_timeout=route.timeouts.request_seconds,
        idle_timeout=route.timeouts.idle_seconds,
        namespace=route.namespace,
        kind=route.kind,
        filters=compile_filters(route.filters),
        backends=backends,
        shares=shares,
    )


def _backends(specs: tuple[BackendSpec, ...], own: str) -> tuple[tuple[WeightedBackend, ...], tuple[int, ...]]:
    """Those with a weight, and the running sums of their weights."""
    weighed = tuple(
        WeightedBackend(None if spec.authority == own else spec.authority, spec.weight, compile_filters(spec.filters))
        for spec in specs
        if spec.weight > 0
    )
    if specs and not weighed:
        weighed = (_NOWHERE,)
    return weighed, tuple(accumulate(backend.weight for backend in weighed))


# ---- conditions


def _any_regex(patterns: tuple[str, ...]) -> Callable[[str], bool] | None:
    if not patterns:
        return None
    matchers = [compile_whole(pattern) for pattern in patterns]
    return matchers[0] if len(matchers) == 1 else lambda path: any(matches(path) for matches in matchers)


def _profile_path(route: ProfileRoute) -> Callable[[str], bool] | None:
    wanted = _any_regex(route.path_regexes)
    if not route.also_paths and not route.not_paths:
        return wanted
    required = [compile_whole(pattern) for pattern in route.also_paths] + ([wanted] if wanted is not None else [])
    unwanted = _any_regex(route.not_paths)

    def matches(path: str) -> bool:
        return all(one(path) for one in required) and not (unwanted is not None and unwanted(path))

    return matches


def _any_path(route: HttpRouteSpec) -> Callable[[str], bool] | None:
    """Whether a path matches any of the route's; None where all paths do."""
    exact = frozenset(route.path_exact)
    prefixes = tuple(p.rstrip("/") for p in route.path_prefixes)
    regex = _any_regex(route.path_regexes)
    if not (exact or prefixes or regex) or "" in prefixes:
        return None
    if not prefixes and regex is None:
        return exact.__contains__
    if not exact and not prefixes:
        return regex
    exact |= frozenset(prefixes)
    segments = tuple(p + "/" for p in prefixes)

    def matches(path: str) -> bool:
        return path in exact or path.startswith(segments) or (regex is not None and regex(path))

    return matches


def _host_matcher(hostname: str) -> Callable[[str], bool] | None:
    if not hostname:
        return None
    if not hostname.startswith("*."):
        return hostname.__eq__
    suffix = hostname[1:]
    # The wildcard stands for at least one label.
    return lambda host: host.endswith(suffix) and len(host) > len(suffix)


def _host(authority: str) -> str:
    """An authority's host in lower case, without port and final dot."""
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():
        host = authority
    return host.lower().rstrip(".")


def _all_headers(wanted: tuple[_Value, ...], headers: Headers) -> bool:
    """Whether each is there. Of a header given several times any value will do, as in linkerd2-proxy."""
    for value in wanted:
        name = value.name.encode("latin-1")
        if not any(found == name and value.matches(text.decode("latin-1")) for found, text in headers):
            return False
    return True


def _all_parameters(wanted: tuple[_Value, ...], query: str) -> bool:
    if len(query) > MAX_QUERY:
        return False
    # Octets as they came, percent-encoding undone as UTF-8: what is not UTF-8 can match no manifest.
    found = parse_qsl(query, keep_blank_values=True)
    return all(any(name == value.name and value.matches(text) for name, text in found) for value in wanted)


MAX_QUERY = 16_384
"""Characters of a query that are looked at; heads are bounded as well, this bounds the work."""
