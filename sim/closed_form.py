"""What a formula would have said, where one applies: the baseline that a careful engineer computes on paper.

    app fails a share p of its requests, r retries a request   tries a request  (1 - p^(r+1)) / (1 - p)
                                                               success          1 - p^(r+1)
    the same with a retry budget and no cap of tries           tries a request  see `tries_within_budget`

Each holds only while nothing else happens: the service fails by itself and does not overflow, no timeout cuts requests,
and failures are independent. Where the load that the formula itself predicts exceeds what the service can do, it is
not applied: a skill over a formula outside its domain would be cheap. Each carries the reason why it applies.

Not here: shares of expired certificates. Whether a request needs a handshake hangs on idle times of connections, which
is what the twin is for; the naive forecast is the only fair opponent there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scenarios.model import AppService, FaultSpec, Scenario

Key = tuple[str, str, str]
FULL = 0.95
"""A service that is busier than this is beyond the formulas."""


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula's value and why it may be asked."""

    value: float
    why: str


def tries(p: float, retries: int) -> float:
    """Mean number of tries of a request that is retried up to `retries` times, each failing with probability `p`."""
    return float(retries + 1) if p >= 1.0 else (1.0 - p ** (retries + 1)) / (1.0 - p)


def tries_within_budget(p: float, ratio: float, reserve: float) -> float:
    """Mean number of tries of a request under a retry budget: every failure is retried while there are tokens.

    `ratio`: tokens that a request which ends well leaves; `reserve`: tokens a request from the budget's own rate.
    Without a cap of tries a request fails only where the budget is spent. Tokens come from the share of requests that
    end well, so with x retries a request, x = min(p (1 + x), ratio * (1 - p) (1 + x) + reserve).
    """
    if p >= 1.0:
        return 1.0 + reserve
    wanted = p / (1.0 - p)
    kept = ratio * (1.0 - p)
    granted = (kept + reserve) / (1.0 - kept)
    return 1.0 + min(wanted, granted)


def formulas(scenario: Scenario) -> dict[Key, Formula]:
    """(quantity, subject, window) → what a formula says of the inject window; empty where none applies."""
    if len(scenario.faults) != 1 or scenario.faults[0].kind != "app-degrade":
        return {}
    fault = scenario.faults[0]
    return dict(_of_failing_app(scenario, fault))


def _of_failing_app(scenario: Scenario, fault: FaultSpec) -> Iterator[tuple[Key, Formula]]:
    service = scenario.app.service(str(fault.targets["service"]))
    p = float(fault.parameters.get("errorRate", 0.0))
    replicas = int(fault.targets.get("replicas", service.replicas))
    retries = _retries(scenario, service)
    if p <= 0.0 or fault.parameters.get("route") or fault.parameters.get("freeze") or retries is None:
        return
    if replicas < service.replicas:
        return  # the balancer prefers who is quick to fail, and the share that it sends there is not on paper
    share = min(1.0, fault.duration / scenario.phases.inject)
    offered = _offered(scenario, service)
    expected = tries(p, retries)
    if offered * expected > FULL * _capacity(service, float(fault.parameters.get("latencySeconds", 0.0))):
        return
    why = f"{service.name} fails {p:.0%} by itself, {retries} retries, and has room for {expected:.2f} tries a request"
    amplified = Formula(1.0 + share * (expected - 1.0), why)
    yield ("attempts_per_request", service.name, "inject"), amplified
    good = 1.0 - p ** (retries + 1)
    for slo in scenario.slos:
        if (
            slo.threshold is None
            and slo.service is not None
            and _calls(scenario, slo.service, slo.method, slo.path, service)
        ):
            yield ("success_rate", slo.name, "inject"), Formula(1.0 - share * (1.0 - good), why)


def _retries(scenario: Scenario, service: AppService) -> int | None:
    """Retries of each failed request; None where policy is more than annotations say."""
    if scenario.resources:
        return None
    annotations = scenario.service_annotations.get(service.name, {})
    if "timeout.linkerd.io/request" in annotations or "timeout.linkerd.io/response" in annotations:
        return None
    if annotations.get("retry.linkerd.io/http") is None:
        return 0
    return int(annotations.get("retry.linkerd.io/limit", 1))


def _offered(scenario: Scenario, service: AppService) -> float:
    """Requests a second that journeys mean to send to the service, directly or through others."""
    total = 0.0
    for journey in scenario.app.journeys:
        rate = scenario.load.rate * scenario.load.mix.get(journey.name, 0.0)
        total += rate * sum(_calls(scenario, s.service, s.method, s.path, service) for s in journey.steps)
    return total


def _calls(scenario: Scenario, name: str | None, method: str | None, path: str | None, target: AppService) -> int:
    """How many requests to `target` one request to a route makes."""
    if name == target.name:
        return 1
    if name is None or method is None or path is None:
        return 0
    route = scenario.app.service(name).route(method, path)
    if route is None:
        return 0
    return sum(_calls(scenario, c.service, c.method, c.path, target) for stage in route.calls for c in stage)


def _capacity(service: AppService, latency: float) -> float:
    """Requests a second at full use of its workers."""
    busy = max((route.service_time.median_seconds for route in service.routes), default=0.0) + latency
    return service.replicas * service.workers / busy if busy > 0 else float("inf")
