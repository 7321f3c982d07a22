"""ServiceProfile → `Profile`.

A condition may nest `all`, `any` and `not`; the message knows only methods and path expressions that must or must not
match. So a condition is rewritten as alternatives (disjunctive normal form), each of them a route of the same name:

    all: [A, B]   methods intersect, the path must match both
    any: [A, B]   two routes, in order
    not: A        the other methods; a path that A does not match

First match wins, so routes of one name in a row behave as the one route that was written. All routes share one
budget, Linkerd's default (0.2, 10 per second, 10 s) where the profile has none: its destination controller fills it
in, so a proxy never sees a profile without a budget.

A TrafficSplit is a profile's `dstOverrides` written elsewhere, as linkerd-smi makes it: it replaces those of a profile
that exists, and without one it makes a profile of its own, which switches the outbound policy off.
"""

from __future__ import annotations

from itertools import product

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.messages import DstOverride, Profile, ProfileRoute, ResponseClass, RetryBudgetSpec
from mesh.api.resources import (
    DstOverrideRef,
    PathOrMethod,
    ResponseCondition,
    RetryBudget,
    ServiceProfile,
    ServiceProfileRoute,
    TrafficSplit,
)
from mesh.behavior.regexes import hazard
from mesh.control.translate.problems import Complain, FieldPath, Unusable, ignore_problems

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
MAX_ALTERNATIVES = 64
"""More than a route by hand ever has; stops conditions whose product explodes."""
MIN_TTL_SECONDS, MAX_TTL_SECONDS = 1.0, 60.0
"""Bounds of tower's budget window."""
MAX_TIMEOUT_SECONDS = 86_400.0

_Alternative = tuple[frozenset[str] | None, tuple[str, ...], tuple[str, ...]]
"""Methods (None: any), path expressions that must all match, and those none of which may."""


def profile_message(
    authority: str,
    service_profile: ServiceProfile | None,
    version: int,
    published_at: float,
    complain: Complain = ignore_problems,
    traffic_split: TrafficSplit | None = None,
    complain_split: Complain = ignore_problems,
) -> Profile:
    """What a proxy is told of an authority's profile. A route whose condition cannot be used is left out.

    `complain` hears of the profile, `complain_split` of the TrafficSplit.
    """
    split = _split(traffic_split, authority, complain_split) if traffic_split is not None else None
    if service_profile is None:
        if split is None:
            return Profile(version=version, published_at=published_at, authority=authority, exists=False)
        return Profile(
            version=version,
            published_at=published_at,
            authority=authority,
            exists=True,
            retry_budget=RetryBudgetSpec(),
            dst_overrides=split,
        )
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
        dst_overrides=split if split is not None else _overrides(spec.dst_overrides, authority, complain),
        opaque=_port(authority) in _opaque_ports(spec.opaque_ports, complain),
    )


def _routes(route: ServiceProfileRoute, path: FieldPath, complain: Complain) -> list[ProfileRoute]:
    try:
        alternatives = _alternatives(route.condition, (*path, "condition"))
    except Unusable as error:
        complain(error.path, str(error))
        return []
    timeout = _duration(route.timeout, (*path, "timeout"), complain)
    if timeout is not None and timeout > MAX_TIMEOUT_SECONDS:
        complain((*path, "timeout"), "a route's timeout must be at most 24h")
    classes: list[ResponseClass] = []
    for index, response_class in enumerate(route.response_classes):
        try:
            statuses = _statuses(response_class.condition, (*path, "responseClasses", index, "condition"))
        except Unusable as error:
            complain(error.path, str(error))
            continue
        classes += [
            ResponseClass(min=low, max=high, is_failure=response_class.is_failure) for low, high in _ranges(statuses)
        ]
    return [
        ProfileRoute(
            name=route.name,
            methods=tuple(sorted(methods)) if methods is not None else (),
            path_regexes=required[:1],
            also_paths=required[1:],
            not_paths=forbidden,
            is_retryable=route.is_retryable,
            timeout_seconds=timeout or None,
            response_classes=tuple(classes),
        )
        for methods, required, forbidden in alternatives
    ]


# ---- where requests go


def _split(split: TrafficSplit, authority: str, complain: Complain) -> tuple[DstOverride, ...]:
    """The split's backends, on the authority's port and in the split's namespace."""
    _, _, rest = authority.partition(".svc.")
    refs = (
        DstOverrideRef(authority=f"{backend.service}.{split.metadata.namespace}.svc.{rest}", weight=backend.weight)
        for backend in split.spec.backends
    )
    return _overrides(tuple(refs), authority, complain, ("spec", "backends"))


def _overrides(
    refs: tuple[DstOverrideRef, ...],
    authority: str,
    complain: Complain,
    place: FieldPath = ("spec", "dstOverrides"),
) -> tuple[DstOverride, ...]:
    """Authorities without a port get the port of the authority that they stand for."""
    found: list[DstOverride] = []
    for index, ref in enumerate(refs):
        weight = _thousandths(ref.weight)
        if weight is None:
            complain((*place, index, "weight"), f"{ref.weight!r} is not a weight such as 1, 0.5 or 500m")
            continue
        host, colon, port = ref.authority.rpartition(":")
        if not (colon and port.isdigit()):
            host, port = ref.authority, str(_port(authority))
        found.append(DstOverride(authority=f"{host.rstrip('.')}:{port}", weight=weight))
    return tuple(found)


def _thousandths(quantity: float | str) -> int | None:
    """A Kubernetes quantity in thousandths."""
    text = str(quantity)
    try:
        value = float(text.removesuffix("m")) * (1.0 if text.endswith("m") else 1000.0)
    except ValueError:
        return None
    return round(value) if 0.0 <= value <= 1e12 else None  # also refuses nan


def _port(authority: str) -> int:
    text = authority.rpartition(":")[2]
    return int(text) if text.isdigit() else 0


def _opaque_ports(ports: tuple[int | str, ...], complain: Complain) -> frozenset[int]:
    found: set[int] = set()
    for index, port in enumerate(ports):
        text = str(port)
        if text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535:
            found.add(int(text))
        else:
            complain(("spec", "opaquePorts", index), f"{port!r} is not a port (1..65535)")
    return frozenset(found)


# ---- response classes

_ALL_STATUSES = frozenset(range(100, 600))


def _statuses(condition: ResponseCondition, path: FieldPath) -> frozenset[int]:
    """The statuses that `condition` holds for. Raises Unusable."""
    parts: list[frozenset[int]] = []
    if condition.status is not None:
        low, high = condition.status.min, condition.status.max
        if not 100 <= low <= high <= 599:
            raise Unusable((*path, "status"), f"{low}..{high} is not a range of statuses within 100..599")
        parts.append(frozenset(range(low, high + 1)))
    for name, members in (("all", condition.all), ("any", condition.any)):
        if members is None:
            continue
        if not members:
            raise Unusable((*path, name), "must have a member")
        sets = [_statuses(member, (*path, name, index)) for index, member in enumerate(members)]
        parts.append(frozenset.intersection(*sets) if name == "all" else frozenset.union(*sets))
    if condition.not_ is not None:
        parts.append(_ALL_STATUSES - _statuses(condition.not_, (*path, "not")))
    if not parts:
        raise Unusable(path, "a condition needs a field: status, all, any or not")
    return frozenset.intersection(*parts)


def _ranges(statuses: frozenset[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for status in sorted(statuses):
        if found and found[-1][1] == status - 1:
            found[-1] = (found[-1][0], status)
        else:
            found.append((status, status))
    return found


# ---- budget


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
        raise Unusable(path, "a condition needs a field: method, pathRegex, all, any or not")
    # Several fields in one condition must all hold; negated, one that fails is enough.
    return _union(parts, path) if negated else _intersection(parts, path)


def _group(
    members: tuple[PathOrMethod, ...], path: FieldPath, negated: bool, *, conjunction: bool
) -> list[_Alternative]:
    if not members:
        raise Unusable(path, "must have a member")
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
    return methods, tuple(dict.fromkeys(left[1] + right[1])), tuple(dict.fromkeys(left[2] + right[2]))


def _bounded(alternatives: list[_Alternative], path: FieldPath) -> list[_Alternative]:
    if len(alternatives) > MAX_ALTERNATIVES:
        raise Unusable(path, f"the condition has more than {MAX_ALTERNATIVES} alternatives; split the route")
    return alternatives


def _method(text: str, path: FieldPath, negated: bool) -> _Alternative:
    method = text.upper()
    if method not in METHODS:
        raise Unusable(path, f"{text!r} is not an HTTP method; use one of {', '.join(sorted(METHODS))}")
    return (METHODS - {method} if negated else frozenset({method})), (), ()


def _path(regex: str, path: FieldPath, negated: bool) -> _Alternative:
    if (problem := hazard(regex)) is not None:
        raise Unusable(path, f"{regex!r} is not a regular expression that a proxy may run: {problem}")
    return (None, (), (regex,)) if negated else (None, (regex,), ())
