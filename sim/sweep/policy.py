"""Changes of compiled policy, for what is played many times over and never written down (`sim.sweep.policy_axis`).

Counterfactuals change what a user wrote instead (`sim.knobs.configuration`), so that they can be run for real.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from mesh.api.messages import HttpRouteSpec, OutboundPolicy, Profile, ProfileRoute, RetryBudgetSpec, RetrySpec
from scenarios.model import AppService
from sim.model.setup import Setup

RETRIED = ((500, 599),)


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
