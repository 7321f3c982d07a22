"""Which knobs a scenario's system has, and what each of them does to the configuration.

Knobs stand where a fault can be felt: at the services that faults hit, at services on the way to them whose callers
retry, and at the certificates where identity is hit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from mesh.api.durations import format_duration, parse_duration
from mesh.api.messages import RetryBudgetSpec
from mesh.api.resources import RetryBudget, ServiceProfile
from mesh.behavior.renewal import RENEW_AT_SHARE
from mesh.control.translate import annotations as names
from scenarios.load.application import MAX_PODS
from scenarios.model import AppService, IdentitySettings
from sim.knobs.configuration import (
    Configuration,
    annotated,
    budgeted,
    with_identity,
    with_profile,
    with_service,
)
from sim.knobs.knob import OFF, Knob, amplification, doublings, downwards, rounded, upwards
from sim.model.setup import Rules, Setup

MOST_RETRIES, MOST_REPLICAS, MOST_WORKERS, MOST_QUEUE = 8, 20, 10_000, 100_000
BREAKER_OFF_COUNTS_AS = 64.0
BUDGET_TTL = "10s"
FOREIGN = "the application has programs of its own, which are started where their file lies; change the file instead"
NO_FIELD = "no scenario field says it; proxies take it from LINKERD2_PROXY_OUTBOUND_DISCOVERY_IDLE_TIMEOUT"


def knobs(configuration: Configuration) -> list[Knob]:
    """The knobs worth turning for this scenario's faults; none without faults."""
    setup = configuration.setup()
    found: list[Knob] = []
    if any(_hits_identity(fault.kind, str(fault.targets.get("component", ""))) for fault in setup.faults):
        found.extend(_of_certificates(configuration))
    for service in _places(configuration, setup):
        found.extend(_of_service(configuration, setup, service))
    if any(fault.kind in ("cert-expiry", "control-plane-down") for fault in setup.faults):
        found.append(_discovery(configuration))
    return found


def _hits_identity(kind: str, component: str) -> bool:
    return kind == "cert-expiry" or (
        kind == "control-plane-down" and bool({"all", "identity"} & {*component.split("+")})
    )


def _places(configuration: Configuration, setup: Setup) -> list[AppService]:
    """Services that a fault hits, then those above them whose callers retry."""
    hit = {str(fault.targets["service"]) for fault in setup.faults if "service" in fault.targets}
    above = set(hit)
    for _ in setup.app.services:
        above |= {
            service.name
            for service in setup.app.services
            if any(call.service in above for route in service.routes for group in route.calls for call in group)
        }
    services = configuration.scenario.app.services
    retried = [s for s in services if s.name in above - hit and _retries(setup.rules[s.authority])]
    return [s for s in services if s.name in hit] + retried


def _retries(rules: Rules) -> bool:
    return any(r.is_retryable for r in rules.profile.routes) or retry_limit(rules) > 0


def retry_limit(rules: Rules) -> int:
    """The highest retry limit of an authority's routes; 0 where nothing is retried by limit."""
    if rules.profile.exists:
        return 0
    return max((route.retry.limit for route in rules.policy.routes if route.retry is not None), default=0)


# ---- at a service ----------------------------------------------------------------------------------------------------


def _of_service(configuration: Configuration, setup: Setup, service: AppService) -> Iterator[Knob]:
    rules = setup.rules[service.authority]
    if rules.profile.exists:
        if configuration.profile(service) is not None:
            yield from _of_budget(service, rules.profile.retry_budget or RetryBudgetSpec())
            yield _profile_timeout(setup, service, rules)
    else:
        yield _limit(service, retry_limit(rules))
        yield _budget_instead(service, retry_limit(rules))
        yield from _timeouts(setup, service, rules)
        yield _breaker(service, rules)
    yield from _of_pods(configuration, service)
    if service.work == "wait" and not service.cancels and _gives_up(rules):
        yield _cancelling(configuration, service)


def _limit(service: AppService, today: int) -> Knob:
    def turn(configuration: Configuration, value: float) -> Configuration:
        changes: dict[str, str | None] = {}
        if value > 0:
            own = configuration.scenario.service_annotations.get(service.name, {})
            changes = {names.RETRY_LIMIT: f"{value:.0f}", names.RETRY_HTTP: own.get(names.RETRY_HTTP, "5xx")}
        else:
            changes = dict.fromkeys((names.RETRY_HTTP, names.RETRY_GRPC, names.RETRY_LIMIT, names.RETRY_TIMEOUT))
        return annotated(configuration, service, changes)

    def say(value: float) -> str:
        if value == 0:
            return f"no retries at {service.name}"
        return (
            f"retry limit {today} → {value:.0f} at {service.name}" if today else _plural(value, "retry", service.name)
        )

    return Knob(
        "retry limit", service.name, float(today),
        (_whole(today - 1, -1, -1), _whole(today + 1, MOST_RETRIES + 1, 1)),
        True, amplification, turn, say, adds=today == 0, group="retries",
    )  # fmt: skip


def _whole(first: int, end: int, step: int) -> tuple[float, ...]:
    return tuple(float(value) for value in range(first, end, step))


def _plural(value: float, what: str, place: str) -> str:
    return f"one {what} at {place}" if value == 1 else f"{value:.0f} retries at {place}"


def _budget_instead(service: AppService, today: int) -> Knob:
    def turn(configuration: Configuration, value: float) -> Configuration:
        return budgeted(
            configuration, service, RetryBudget(retry_ratio=value, min_retries_per_second=1, ttl=BUDGET_TTL)
        )

    def say(value: float) -> str:
        instead = f" in place of the limit of {today}" if today else ""
        return f"retry budget of {value * 100:.3g} %{instead} at {service.name}"

    # From what a limit allows downwards: the largest budget that holds is the smallest change.
    ladder = tuple(v for v in (2.0, 1.0, 0.5, 0.2, 0.1, 0.05) if v < today or not today)
    return Knob(
        "retry budget", service.name, float(today), (ladder if today else tuple(reversed(ladder)),),
        False, amplification, turn, say, adds=True, group="retries",
    )  # fmt: skip


def _of_budget(service: AppService, budget: RetryBudgetSpec) -> Iterator[Knob]:
    ratio, reserve = budget.retry_ratio, float(budget.min_retries_per_second)

    def written(configuration: Configuration, ratio: float, reserve: float) -> Configuration:
        spec = RetryBudget(
            retry_ratio=ratio, min_retries_per_second=int(reserve), ttl=format_duration(budget.ttl_seconds)
        )
        return with_profile(configuration, service, lambda profile: _respecified(profile, retry_budget=spec))

    yield Knob(
        "retry budget", service.name, ratio,
        (downwards(ratio, (2.0, 4.0, 10.0), 0.01), upwards(max(ratio, 0.05), (2.0, 4.0, 8.0), 1000.0)),
        False, amplification, lambda c, v: written(c, v, _budget_now(c, service, budget)[1]),
        lambda v: f"retry budget {ratio * 100:.3g} → {v * 100:.3g} % at {service.name}",
    )  # fmt: skip
    yield Knob(
        "retry reserve", service.name, reserve,
        (tuple(float(int(v)) for v in (reserve / 2, reserve / 4, 0.0) if int(v) < reserve),
         tuple(reserve + v for v in (1.0, 4.0, 9.0, 24.0))),
        True, lambda v: math.log2(1.0 + v), lambda c, v: written(c, _budget_now(c, service, budget)[0], v),
        lambda v: f"retry reserve {reserve:.0f} → {v:.0f} a second for each caller of {service.name}",
    )  # fmt: skip


def _budget_now(configuration: Configuration, service: AppService, default: RetryBudgetSpec) -> tuple[float, float]:
    """(ratio, reserve) as the configuration has them: another knob may have been turned before."""
    profile = configuration.profile(service)
    written = profile.spec.retry_budget if profile is not None else None
    if written is None:
        return default.retry_ratio, float(default.min_retries_per_second)
    return written.retry_ratio, float(written.min_retries_per_second)


def _respecified(profile: ServiceProfile, **changes: Any) -> ServiceProfile:
    return msgspec.structs.replace(profile, spec=msgspec.structs.replace(profile.spec, **changes))


def _timeouts(setup: Setup, service: AppService, rules: Rules) -> Iterator[Knob]:
    routes = rules.policy.routes
    request = min((r.timeouts.request_seconds for r in routes if r.timeouts.request_seconds is not None), default=OFF)
    retries = [r.retry for r in routes if r.retry is not None]
    # A retried try has a limit of its own; without retries the response timeout is what bounds a try.
    each = min((r.timeout_seconds for r in retries if r.timeout_seconds is not None), default=OFF)
    response = min(
        (r.timeouts.response_seconds for r in routes if r.timeouts.response_seconds is not None), default=OFF
    )
    yield _timeout(setup, service, "request timeout", names.TIMEOUT_REQUEST, request, "a request to {} may take")
    if retries:
        yield _timeout(
            setup, service, "try timeout", names.RETRY_TIMEOUT, each, "a try at {} that can be repeated waits"
        )
    yield _timeout(setup, service, "response timeout", names.TIMEOUT_RESPONSE, response, "any try at {} waits")


def _timeout(setup: Setup, service: AppService, name: str, annotation: str, today: float, phrase: str) -> Knob:
    client = setup.load.timeout
    here = min(today, client)
    floor = max(0.02, 3.0 * max((route.service_time.median_seconds for route in service.routes), default=0.0))
    down = tuple(_exact(v) for v in downwards(here, (2.0, 4.0, 8.0, 16.0, 32.0), floor))
    up = tuple(_exact(v) for v in upwards(here, (2.0, 4.0), client)) if today < client else ()

    def turn(configuration: Configuration, value: float) -> Configuration:
        text = format_duration(value) if math.isfinite(value) else None
        return annotated(configuration, service, {annotation: text})

    before = f"not {format_duration(today)}" if math.isfinite(today) else "not without limit"
    ladders = (down, (*up, OFF)) if math.isfinite(today) else (down,)
    return Knob(
        name, service.name, today, ladders, False, lambda v: doublings(min(v, client)), turn,
        lambda v: f"{phrase.format(service.name)} "
        + (f"{format_duration(v)} at most, {before}" if math.isfinite(v) else f"without limit, {before}"),
        adds=math.isinf(today),
    )  # fmt: skip


def _profile_timeout(setup: Setup, service: AppService, rules: Rules) -> Knob:
    today = min((r.timeout_seconds for r in rules.profile.routes if r.timeout_seconds is not None), default=OFF)

    def turn(configuration: Configuration, value: float) -> Configuration:
        def timed(profile: ServiceProfile) -> ServiceProfile:
            text = format_duration(value) if math.isfinite(value) else None
            routes = tuple(msgspec.structs.replace(route, timeout=text) for route in profile.spec.routes)
            return _respecified(profile, routes=routes)

        return with_profile(configuration, service, timed)

    plain = _timeout(setup, service, "request timeout", names.TIMEOUT_REQUEST, today, "a request to {} may take")
    return replace(plain, turn=turn)


def _breaker(service: AppService, rules: Rules) -> Knob:
    accrual = rules.policy.failure_accrual
    today = float(accrual.max_failures) if accrual is not None and accrual.max_failures else OFF

    def turn(configuration: Configuration, value: float) -> Configuration:
        changes: dict[str, str | None] = {names.ACCRUAL: "consecutive", names.ACCRUAL_MAX_FAILURES: f"{value:.0f}"}
        if math.isinf(value):
            changes = {name: None for name in names.KNOWN if name.startswith(names.ACCRUAL)}
        return annotated(configuration, service, changes)

    def say(value: float) -> str:
        if math.isinf(value):
            return f"no circuit breaker at {service.name}"
        if math.isinf(today):
            return f"circuit breaker at {service.name}, after {value:.0f} failures in a row"
        return f"circuit breaker at {service.name} after {value:.0f} failures in a row, not {today:.0f}"

    steps = (20.0, 7.0, 3.0) if math.isinf(today) else ()
    ladders = (steps,) if steps else (downwards(today, (2.0,), 1.0), (*upwards(today, (3.0,), 1000.0), OFF))
    return Knob(
        "circuit breaker", service.name, today, ladders, True,
        lambda v: doublings(min(v, BREAKER_OFF_COUNTS_AS)), turn, say, adds=math.isinf(today),
    )  # fmt: skip


def _of_pods(configuration: Configuration, service: AppService) -> Iterator[Knob]:
    foreign = _foreign(configuration)
    others = sum(s.replicas for s in configuration.scenario.app.services) - service.replicas
    most = min(MOST_REPLICAS, MAX_PODS - others, service.replicas + 6)

    def whole(name: str, ladders: tuple[tuple[float, ...], ...], weight: float, text: str) -> Knob:
        today = float(getattr(service, name))

        def turn(configuration: Configuration, value: float) -> Configuration:
            now = configuration.scenario.app.service(service.name)
            changed: dict[str, Any] = {name: int(value)}
            return with_service(configuration, replace(now, **changed))

        return Knob(
            name,
            service.name,
            today,
            ladders,
            True,
            (lambda v: math.log2(1.0 + v)) if name == "queue" else doublings,
            turn,
            lambda v: text.format(place=service.name, today=f"{today:.0f}", value=f"{v:.0f}"),
            weight=weight,
            unverifiable=foreign,
        )

    replicas = tuple(float(v) for v in range(service.replicas + 1, most + 1))
    yield whole("replicas", (replicas,), 2.0, "{value} replicas of {place} instead of {today}")
    if service.command is not None:
        return  # how many workers and places a program has is its own affair
    workers = upwards(float(service.workers), (1.5, 2.0, 4.0), MOST_WORKERS)
    yield whole("workers", (tuple(map(_ceil, workers)),), 1.5, "workers in {place} {today} → {value}")
    queue = float(service.queue)
    down = tuple(dict.fromkeys(float(int(v)) for v in (queue / 2, queue / 4, queue / 16, 0.0) if int(v) < queue))
    up = tuple(dict.fromkeys(_ceil(v) for v in (max(queue, 1.0) * 2, max(queue, 1.0) * 8) if v <= MOST_QUEUE))
    yield whole("queue", (down, up), 1.5, "queue of {place} {today} → {value}")


def _gives_up(rules: Rules) -> bool:
    """Whether a proxy ever gives a try at the service up before its client does."""
    if rules.profile.exists:
        return any(route.timeout_seconds is not None for route in rules.profile.routes)
    return any(
        route.timeouts.request_seconds is not None
        or route.timeouts.response_seconds is not None
        or (route.retry is not None and route.retry.timeout_seconds is not None)
        for route in rules.policy.routes
    )


def _cancelling(configuration: Configuration, service: AppService) -> Knob:
    def turn(configuration: Configuration, value: float) -> Configuration:
        now = configuration.scenario.app.service(service.name)
        return with_service(configuration, replace(now, cancels=bool(value)))

    return Knob(
        "cancelled work", service.name, 0.0, ((1.0,),), True, lambda value: value, turn,
        lambda _: f"{service.name} stops working for callers that have left",
        weight=1.5, adds=True, unverifiable=_foreign(configuration),
    )  # fmt: skip


def _foreign(configuration: Configuration) -> str | None:
    return FOREIGN if any(s.command is not None for s in configuration.scenario.app.services) else None


def _ceil(value: float) -> float:
    return float(math.ceil(value))


# ---- at the control plane --------------------------------------------------------------------------------------------


def _of_certificates(configuration: Configuration) -> Iterator[Knob]:
    identity = configuration.scenario.identity
    life = identity.leaf_lifetime

    def lived(configuration: Configuration, value: float) -> Configuration:
        return with_identity(configuration, replace(configuration.scenario.identity, leaf_lifetime=value))

    yield Knob(
        "leaf lifetime", "mesh", life, (tuple(map(_exact, upwards(life, (1.5, 2.0, 3.0, 5.0, 10.0), 365 * 86_400.0))),),
        False, doublings, lived, lambda v: f"leaf lifetime {format_duration(life)} → {format_duration(v)}",
    )  # fmt: skip
    period = renewal_period(identity)

    def renewed(configuration: Configuration, value: float) -> Configuration:
        now = configuration.scenario.identity
        return with_identity(configuration, replace(now, max_refresh=value, min_refresh=min(now.min_refresh, value)))

    # maxRefresh bounds the time between two renewals, and so sets the margin: what a leaf has left when one is due.
    yield Knob(
        "renewal", "mesh", _exact(rounded(period)), (tuple(map(_exact, downwards(period, (1.5, 2.0, 4.0), 0.5))),),
        False, doublings, renewed,
        lambda v: f"leaves are renewed every {format_duration(v)}, not {format_duration(rounded(period))}"
        f" (a margin of {format_duration(rounded(max(0.0, life - v)))})",
    )  # fmt: skip

    def retried(configuration: Configuration, value: float) -> Configuration:
        return with_identity(configuration, replace(configuration.scenario.identity, min_refresh=value))

    least = identity.min_refresh
    yield Knob(
        "minimum refresh", "mesh", least, (tuple(map(_exact, downwards(least, (2.0, 5.0, 10.0), 0.5))),),
        False, doublings, retried, lambda v: f"minimum refresh {format_duration(least)} → {format_duration(v)}",
    )  # fmt: skip


def renewal_period(identity: IdentitySettings) -> float:
    """Seconds between two renewals of a leaf while identity answers."""
    life = identity.leaf_lifetime + identity.clock_skew
    return min(max(life * RENEW_AT_SHARE, identity.min_refresh), identity.max_refresh)


def _discovery(configuration: Configuration) -> Knob:
    today = configuration.discovery_idle_seconds
    return Knob(
        "discovery idle time", "mesh", today, (tuple(map(_exact, upwards(today, (2.0, 4.0, 12.0), 3600.0))),), False,
        doublings, lambda c, v: replace(c, discovery_idle_seconds=v),
        lambda v: f"destinations, and the connections to them, are kept {format_duration(v)} idle, not"
        f" {format_duration(today)}",
        unverifiable=NO_FIELD,
    )  # fmt: skip


def _exact(seconds: float) -> float:
    """As it will be read back from its text."""
    return parse_duration(format_duration(seconds))
