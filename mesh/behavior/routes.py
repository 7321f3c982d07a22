"""Which rules apply to a request: ServiceProfile routes where a profile exists, else the outbound policy's routes.

The two retry models differ on purpose, as they do in Linkerd:

    ServiceProfile   any number of retries, at once, while the budget pays; only for responses, never after a timeout
    annotations      at most `limit` retries with backoff, no budget; also after fail-fast and response timeouts

A profile switches off everything the outbound policy says about retries, timeouts and failure accrual.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mesh.api.messages import HttpRouteSpec, OutboundPolicy, Profile, ProfileRoute, RetrySpec
from mesh.behavior.backoff import Backoff
from mesh.behavior.budget import RetryBudget
from mesh.behavior.outcome import Cause, is_failure

RETRYABLE_CAUSES = frozenset({Cause.FAILFAST, Cause.RESPONSE_TIMEOUT})
"""Causes that annotation retries act on whatever the configured statuses; load-shed never is."""


class BudgetRetry:
    """ServiceProfile retries: unlimited tries, paid from the budget that all routes of the profile share."""

    __slots__ = ("_budget", "_retryable")

    def __init__(self, budget: RetryBudget, retryable: bool) -> None:
        self._budget = budget
        self._retryable = retryable

    def delay(
        self, now: float, attempt: int, failed: bool, status: int, cause: Cause | None, rng: Random
    ) -> float | None:
        if cause is not None:
            return None
        if not failed or not self._retryable:
            self._budget.deposit(now)
            return None
        return 0.0 if self._budget.withdraw(now) else None

    def wanted(self, failed: bool, status: int, cause: Cause | None) -> bool:
        """Whether such an end of a try calls for a retry, budget or no budget."""
        return cause is None and failed and self._retryable


class LimitRetry:
    """Annotation retries: a limit for each request, backoff between tries, no budget."""

    __slots__ = ("_spec",)

    def __init__(self, spec: RetrySpec) -> None:
        self._spec = spec

    def delay(
        self, now: float, attempt: int, failed: bool, status: int, cause: Cause | None, rng: Random
    ) -> float | None:
        if attempt > self._spec.limit or not self.wanted(failed, status, cause):
            return None
        backoff = Backoff(self._spec.backoff_min_seconds, self._spec.backoff_max_seconds, self._spec.backoff_jitter)
        backoff.steps = attempt - 1
        return backoff.next(rng)

    def wanted(self, failed: bool, status: int, cause: Cause | None) -> bool:
        """Whether such an end of a try calls for a retry, limit or no limit."""
        if cause is not None:
            return cause in RETRYABLE_CAUSES
        return any(low <= status <= high for low, high in self._spec.statuses)


RetryRule = BudgetRetry | LimitRetry


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

    def failed(self, status: int) -> bool:
        """Whether a response with `status` counts as a failure."""
        for low, high, failure in self.classes:
            if low <= status <= high:
                return failure
        return is_failure(status)


@dataclass(frozen=True, slots=True)
class _Matcher:
    methods: frozenset[str]
    path: Callable[[str], bool] | None
    route: Route


class Router:
    """Routes of one destination, in order; the first that matches applies."""

    def __init__(self, matchers: list[_Matcher], fallback: Route, from_profile: bool) -> None:
        self._matchers = matchers
        self.fallback = fallback
        self.from_profile = from_profile

    def match(self, method: str, path: str) -> Route:
        """The route for a request; `path` may carry a query, which takes no part."""
        query = path.find("?")
        if query >= 0:
            path = path[:query]
        for matcher in self._matchers:
            if matcher.methods and method not in matcher.methods:
                continue
            if matcher.path is None or matcher.path(path):
                return matcher.route
        return self.fallback


def build_router(profile: Profile, policy: OutboundPolicy, now: float) -> Router:
    """The router for what the control plane said of a destination."""
    if profile.exists:
        return _from_profile(profile, now)
    return _from_policy(policy)


def _from_profile(profile: Profile, now: float) -> Router:
    budget = RetryBudget(profile.retry_budget, now) if profile.retry_budget is not None else None
    matchers = [
        _Matcher(frozenset(r.methods), _any_regex(r.path_regexes), _profile_route(r, budget)) for r in profile.routes
    ]
    fallback = Route("default", retry=BudgetRetry(budget, False) if budget is not None else None)
    return Router(matchers, fallback, from_profile=True)


def _profile_route(route: ProfileRoute, budget: RetryBudget | None) -> Route:
    return Route(
        route.name,
        retry=BudgetRetry(budget, route.is_retryable) if budget is not None else None,
        request_timeout=route.timeout_seconds,
        classes=tuple((c.min, c.max, c.is_failure) for c in route.response_classes),
    )


def _any_regex(patterns: tuple[str, ...]) -> Callable[[str], bool] | None:
    if not patterns:
        return None
    compiled = re.compile("|".join(f"(?:{p})" for p in patterns))
    return lambda path: compiled.fullmatch(path) is not None


def _from_policy(policy: OutboundPolicy) -> Router:
    matchers = [_Matcher(frozenset(r.methods), _any_path(r), _policy_route(r)) for r in policy.routes]
    return Router(matchers, Route("default"), from_profile=False)


def _any_path(route: HttpRouteSpec) -> Callable[[str], bool] | None:
    exact = frozenset(route.path_exact)
    prefixes = tuple(p.rstrip("/") for p in route.path_prefixes)
    regex = _any_regex(route.path_regexes)
    if not (exact or prefixes or regex):
        return None

    def matches(path: str) -> bool:
        if path in exact or (regex is not None and regex(path)):
            return True
        return any(path == p or path.startswith(p + "/") or not p for p in prefixes)

    return matches


def _policy_route(route: HttpRouteSpec) -> Route:
    return Route(
        route.name,
        retry=LimitRetry(route.retry) if route.retry is not None else None,
        retry_limit=route.retry.limit if route.retry is not None else None,
        try_timeout=route.retry.timeout_seconds if route.retry is not None else None,
        response_timeout=route.timeouts.response_seconds,
        request_timeout=route.timeouts.request_seconds,
    )
