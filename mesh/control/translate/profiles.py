"""ServiceProfile → `Profile`.

A condition may nest `all`, `any` and `not`; the message knows only methods and path expressions. So a condition is
rewritten as alternatives (disjunctive normal form), each of them a route of the same name:

    all: [A, B]   methods intersect, paths join by look-ahead: (?=A\\Z)B
    any: [A, B]   two routes, in order
    not: A        the other methods; the path that A does not match: (?!A\\Z).*

First match wins, so routes of one name in a row behave as the one route that was written. All routes share one
budget, Linkerd's default (0.2, 10 per second, 10 s) where the profile has none: its destination controller fills it
in, so a proxy never sees a profile without a budget.
"""

from __future__ import annotations

import re
from itertools import product

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.messages import Profile, ProfileRoute, ResponseClass, RetryBudgetSpec
from mesh.api.resources import PathOrMethod, RetryBudget, ServiceProfile, ServiceProfileRoute
from mesh.control.translate.problems import Complain, FieldPath, ignore_problems

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
MAX_ALTERNATIVES = 64
"""More than a route by hand ever has; stops conditions whose product explodes."""
MIN_TTL_SECONDS, MAX_TTL_SECONDS = 1.0, 60.0
"""Bounds of tower's budget window."""
MAX_TIMEOUT_SECONDS = 86_400.0

_Alternative = tuple[frozenset[str] | None, tuple[str, ...]]
"""Methods (None: any) and path expressions that must all match."""


class _Unusable(Exception):
    def __init__(self, path: FieldPath, message: str) -> None:
        super().__init__(message)
        self.path = path


def profile_message(
    authority: str,
    service_profile: ServiceProfile | None,
    version: int,
    published_at: float,
    complain: Complain = ignore_problems,
) -> Profile:
    """What a proxy is told of an authority's profile. A route whose condition cannot be used is left out."""
    if service_profile is None:
        return Profile(version=version, published_at=published_at, authority=authority, exists=False)
    spec = service_profile.spec
    routes: list[ProfileRoute] = []
    for index, route in enumerate(spec.routes):
        routes.extend(_routes(route, ("spec", "routes", index), complain))
    return Profile(
        version=version,
        published_at=published_at,
        authority=authority,
        exists=True,
        routes=tuple(routes),
        retry_budget=_budget(spec.retry_budget, complain),
    )


def _routes(route: ServiceProfileRoute, path: FieldPath, complain: Complain) -> list[ProfileRoute]:
    try:
        alternatives = _alternatives(route.condition, (*path, "condition"))
    except _Unusable as error:
        complain(error.path, str(error))
        return []
    timeout = _duration(route.timeout, (*path, "timeout"), complain)
    if timeout is not None and timeout > MAX_TIMEOUT_SECONDS:
        complain((*path, "timeout"), "a route's timeout must be at most 24h")
    classes: list[ResponseClass] = []
    for index, response_class in enumerate(route.response_classes):
        status = response_class.condition.status
        if not 100 <= status.min <= status.max <= 599:
            complain(
                (*path, "responseClasses", index, "condition", "status"),
                f"{status.min}..{status.max} is not a range of statuses within 100..599",
            )
            continue
        classes.append(ResponseClass(min=status.min, max=status.max, is_failure=response_class.is_failure))
    return [
        ProfileRoute(
            name=route.name,
            methods=tuple(sorted(methods)) if methods is not None else (),
            path_regexes=(_conjunction(regexes),) if regexes else (),
            is_retryable=route.is_retryable,
            timeout_seconds=timeout or None,
            response_classes=tuple(classes),
        )
        for methods, regexes in alternatives
    ]


def _budget(budget: RetryBudget | None, complain: Complain) -> RetryBudgetSpec:
    if budget is None:
        return RetryBudgetSpec()
    path: FieldPath = ("spec", "retryBudget")
    ttl = _duration(budget.ttl, (*path, "ttl"), complain)
    if ttl is not None and not MIN_TTL_SECONDS <= ttl <= MAX_TTL_SECONDS:
        complain((*path, "ttl"), f"the budget's ttl must be from 1s to 60s, not {budget.ttl}")
        ttl = min(max(ttl, MIN_TTL_SECONDS), MAX_TTL_SECONDS)
    ratio, minimum = budget.retry_ratio, budget.min_retries_per_second
    if not 0.0 <= ratio <= 1000.0:
        complain((*path, "retryRatio"), f"the retry ratio must be from 0.0 to 1000.0, not {ratio:g}")
        ratio = RetryBudgetSpec().retry_ratio
    if minimum < 0:
        complain((*path, "minRetriesPerSecond"), "must not be negative")
        minimum = 0
    return RetryBudgetSpec(
        retry_ratio=ratio,
        min_retries_per_second=minimum,
        ttl_seconds=ttl if ttl is not None else RetryBudgetSpec().ttl_seconds,
    )


def _duration(text: str | None, path: FieldPath, complain: Complain) -> float | None:
    if not text:
        return None
    try:
        return parse_duration(text)
    except InvalidDuration as error:
        complain(path, str(error))
        return None


# ---- conditions ------------------------------------------------------------------------------------------------------


def _alternatives(condition: PathOrMethod, path: FieldPath, negated: bool = False) -> list[_Alternative]:
    """The alternatives that together match what `condition` matches, or what it does not match (`negated`)."""
    parts: list[list[_Alternative]] = []
    if condition.all is not None:
        parts.append(_group(condition.all, (*path, "all"), negated, conjunction=not negated))
    if condition.any is not None:
        parts.append(_group(condition.any, (*path, "any"), negated, conjunction=negated))
    if condition.method is not None:
        parts.append([_method(condition.method, (*path, "method"), negated)])
    if condition.path_regex is not None:
        parts.append([_path(condition.path_regex, (*path, "pathRegex"), negated)])
    if condition.not_ is not None:
        parts.append(_alternatives(condition.not_, (*path, "not"), not negated))
    if not parts:
        raise _Unusable(path, "a condition needs a field: method, pathRegex, all, any or not")
    # Several fields in one condition must all hold; negated, one that fails is enough.
    return _union(parts, path) if negated else _intersection(parts, path)


def _group(
    members: tuple[PathOrMethod, ...], path: FieldPath, negated: bool, *, conjunction: bool
) -> list[_Alternative]:
    if not members:
        raise _Unusable(path, "must have a member")
    parts = [_alternatives(member, (*path, index), negated) for index, member in enumerate(members)]
    return _intersection(parts, path) if conjunction else _union(parts, path)


def _union(parts: list[list[_Alternative]], path: FieldPath) -> list[_Alternative]:
    return _bounded([alternative for part in parts for alternative in part], path)


def _intersection(parts: list[list[_Alternative]], path: FieldPath) -> list[_Alternative]:
    result = parts[0]
    for part in parts[1:]:
        met = (_meet(left, right) for left, right in product(result, part))
        result = _bounded([alternative for alternative in met if alternative is not None], path)
    return result


def _meet(left: _Alternative, right: _Alternative) -> _Alternative | None:
    methods = left[0] if right[0] is None else right[0] if left[0] is None else left[0] & right[0]
    if methods is not None and not methods:
        return None  # no method is both: this alternative matches nothing
    return methods, tuple(dict.fromkeys(left[1] + right[1]))


def _bounded(alternatives: list[_Alternative], path: FieldPath) -> list[_Alternative]:
    if len(alternatives) > MAX_ALTERNATIVES:
        raise _Unusable(path, f"the condition has more than {MAX_ALTERNATIVES} alternatives; split the route")
    return alternatives


def _method(text: str, path: FieldPath, negated: bool) -> _Alternative:
    method = text.upper()
    if method not in METHODS:
        raise _Unusable(path, f"{text!r} is not an HTTP method; use one of {', '.join(sorted(METHODS))}")
    return (METHODS - {method} if negated else frozenset({method})), ()


def _path(regex: str, path: FieldPath, negated: bool) -> _Alternative:
    try:
        re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        raise _Unusable(path, f"{regex!r} is not a regular expression: {error}") from None
    return None, ((f"(?!(?:{regex})\\Z).*" if negated else regex),)


def _conjunction(regexes: tuple[str, ...]) -> str:
    """One expression that matches a whole path when all of `regexes` do."""
    *others, last = regexes
    return "".join(f"(?=(?:{regex})\\Z)" for regex in others) + (f"(?:{last})" if others else last)
