"""What could have been different: a catalogue of policy changes, each a function from one setup to another.

A change applies where the fault of the scenario makes it worth asking (`families`), and only if it differs from
what is in place. Changes speak of a service where they are about one: for a fault at an app that is the faulted
service.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec

from mesh.api.durations import format_duration
from mesh.api.messages import (
    FailureAccrualSpec,
    HttpRouteSpec,
    OutboundPolicy,
    Profile,
    ProfileRoute,
    RetryBudgetSpec,
    RetrySpec,
)
from scenarios.model import AppService
from sim.setup import Rules, Setup

RETRIED = ((500, 599),)
LONGER_IDLE_SECONDS = 60.0
LEAF_FACTOR = 3.0
MIN_REFRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Change:
    """One thing done differently. `text` is for people."""

    text: str
    setup: Setup


def catalogue(setup: Setup) -> list[Change]:
    """All changes worth asking of this setup's faults, the likeliest first."""
    found: list[Change] = []
    services = {service.name: service for service in setup.app.services}
    if len(setup.faults) > 1:
        found.extend(_one_fault_less(setup))
    for fault in setup.faults:
        service = services.get(str(fault.targets.get("service", "")))
        if service is not None and fault.kind in ("app-degrade", "pod-kill"):
            found.extend(_at_service(setup, service))
        if fault.kind in ("cert-expiry", "control-plane-down"):
            found.extend(_at_control_plane(setup, str(fault.targets.get("component", "all")), fault.kind))
    unique: dict[str, Change] = {}
    for change in found:
        if change.setup != setup:
            unique.setdefault(change.text, change)
    return list(unique.values())


def _one_fault_less(setup: Setup) -> Iterator[Change]:
    """Where several things went wrong: what each of them cost."""
    for fault in setup.faults:
        others = tuple(other for other in setup.faults if other is not fault)
        yield Change(f"without the fault {fault.name}", replace(setup, faults=others))


# ---- at a service ----------------------------------------------------------------------------------------------------


def _at_service(setup: Setup, service: AppService) -> Iterator[Change]:
    rules = setup.rules[service.authority]
    limit = retry_limit(rules)
    name = service.name
    if rules.profile.exists:
        budget = rules.profile.retry_budget
        if budget is not None and budget.retry_ratio > 0.1:
            yield Change(
                f"retry budget {budget.retry_ratio:.0%} → 10 % at {name}",
                with_profile(
                    setup, service, _budget_of(rules.profile, msgspec.structs.replace(budget, retry_ratio=0.1))
                ),
            )
        yield Change(f"no retries at {name}", with_profile(setup, service, unretried(rules.profile)))
    else:
        if limit is not None:
            for fewer in range(min(limit, 2)):
                yield Change(f"retry limit {limit} → {fewer} at {name}", with_limit(setup, service, fewer))
            yield Change(
                f"retry budget of 20 % in place of the limit of {limit} at {name}",
                with_profile(setup, service, budgeted(service)),
            )
        else:
            yield Change(f"one retry at {name}", with_limit(setup, service, 1))
            yield Change(f"retry budget of 20 % at {name}", with_profile(setup, service, budgeted(service)))
        if rules.policy.failure_accrual is None:
            yield Change(
                f"circuit breaker on at {name}",
                with_policy(
                    setup, service, msgspec.structs.replace(rules.policy, failure_accrual=FailureAccrualSpec())
                ),
            )
        yield from _timeouts(setup, service, rules.policy)
    yield Change(
        f"{service.replicas + 1} replicas of {name} instead of {service.replicas}",
        with_service(setup, replace(service, replicas=service.replicas + 1)),
    )
    if service.queue > 2:
        smaller = max(1, service.queue // 4)
        yield Change(
            f"queue of {name} {service.queue} → {smaller}", with_service(setup, replace(service, queue=smaller))
        )
    yield Change(
        f"twice the workers in {name}: {service.workers} → {2 * service.workers}",
        with_service(setup, replace(service, workers=2 * service.workers)),
    )


def _timeouts(setup: Setup, service: AppService, policy: OutboundPolicy) -> Iterator[Change]:
    """A limit to each try at ten times the slowest route's usual time."""
    slowest = max((route.service_time.median_seconds for route in service.routes), default=0.0)
    seconds = max(0.1, round(10.0 * slowest, 2))
    routes = tuple(
        msgspec.structs.replace(r, timeouts=msgspec.structs.replace(r.timeouts, response_seconds=seconds))
        for r in policy.routes
    )
    changed = msgspec.structs.replace(policy, routes=routes)
    yield Change(
        f"a try at {service.name} waits {format_duration(seconds)} at most", with_policy(setup, service, changed)
    )


def retry_limit(rules: Rules) -> int | None:
    """The highest retry limit of an authority's routes; None where nothing is retried by limit."""
    if rules.profile.exists:
        return None
    limits = [route.retry.limit for route in rules.policy.routes if route.retry is not None]
    return max(limits, default=0) or None


def with_limit(setup: Setup, service: AppService, limit: int) -> Setup:
    """Every route of the service retries that often, 0 for never."""

    def limited(route: HttpRouteSpec) -> HttpRouteSpec:
        if limit == 0:
            return msgspec.structs.replace(route, retry=None)
        retry = route.retry or RetrySpec(statuses=RETRIED)
        return msgspec.structs.replace(route, retry=msgspec.structs.replace(retry, limit=limit))

    policy = setup.rules[service.authority].policy
    return with_policy(
        setup, service, msgspec.structs.replace(policy, routes=tuple(limited(route) for route in policy.routes))
    )


def budgeted(service: AppService) -> Profile:
    """A ServiceProfile that retries every route on Linkerd's default ratio, with a reserve of one a second."""
    return Profile(
        version=1,
        published_at=0.0,
        authority=service.authority,
        exists=True,
        routes=(ProfileRoute(name="all", is_retryable=True),),
        retry_budget=RetryBudgetSpec(retry_ratio=0.2, min_retries_per_second=1),
    )


def _budget_of(profile: Profile, budget: RetryBudgetSpec) -> Profile:
    return msgspec.structs.replace(profile, retry_budget=budget)


def unretried(profile: Profile) -> Profile:
    """The profile without retries."""
    routes = tuple(msgspec.structs.replace(route, is_retryable=False) for route in profile.routes)
    return msgspec.structs.replace(profile, routes=routes)


# ---- at the control plane --------------------------------------------------------------------------------------------


def _at_control_plane(setup: Setup, component: str, kind: str) -> Iterator[Change]:
    identity = setup.identity
    if kind == "cert-expiry" or component in ("identity", "all"):
        longer = identity.leaf_lifetime * LEAF_FACTOR
        yield Change(
            f"leaf lifetime {format_duration(identity.leaf_lifetime)} → {format_duration(longer)}",
            replace(setup, identity=replace(identity, leaf_lifetime=longer)),
        )
        if identity.min_refresh > MIN_REFRESH_SECONDS:
            yield Change(
                f"minimum refresh {format_duration(identity.min_refresh)} → {format_duration(MIN_REFRESH_SECONDS)}",
                replace(setup, identity=replace(identity, min_refresh=MIN_REFRESH_SECONDS)),
            )
    yield Change(
        f"destinations, and the connections to them, are kept {format_duration(LONGER_IDLE_SECONDS)} idle,"
        f" not {format_duration(setup.discovery_idle_seconds)}",
        replace(setup, discovery_idle_seconds=LONGER_IDLE_SECONDS),
    )


# ---- pieces ----------------------------------------------------------------------------------------------------------


def with_policy(setup: Setup, service: AppService, policy: OutboundPolicy) -> Setup:
    """The service's callers follow `policy`."""
    rules = setup.rules[service.authority]
    return replace(setup, rules={**setup.rules, service.authority: replace(rules, policy=policy)})


def with_profile(setup: Setup, service: AppService, profile: Profile) -> Setup:
    """The service's callers follow `profile`, which goes before its policy."""
    rules = setup.rules[service.authority]
    return replace(setup, rules={**setup.rules, service.authority: replace(rules, profile=profile)})


def with_service(setup: Setup, service: AppService) -> Setup:
    """A fault that hits every replica of the service hits the added ones too."""
    before = setup.app.service(service.name).replicas
    faults = tuple(
        replace(fault, targets={**fault.targets, "replicas": service.replicas})
        if fault.targets.get("service") == service.name and fault.targets.get("replicas") == before
        else fault
        for fault in setup.faults
    )
    setup = replace(setup, faults=faults)
    services = tuple(service if s.name == service.name else s for s in setup.app.services)
    return replace(setup, app=replace(setup.app, services=services))
