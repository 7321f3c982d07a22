"""What a formula would have said, where one applies: the baseline that a careful engineer computes on paper.

    app fails a share p of its requests, r retries a request   tries a request  (1 - p^(r+1)) / (1 - p)
                                                               success          1 - p^(r+1)
    the same with a retry budget and no cap of tries           tries a request  T, see `tries_within_budget`
                                                               success          T (1 - p)
    a route sends a share p of tries to nobody, c calls        success          (1 - p^(r+1))^c
    all pods of a service restarted while identity is away     success          the share of the window before it,
                                                                                and after identity is back

Each holds only while nothing else happens: the service fails by itself and does not overflow, no timeout cuts requests,
and failures are independent. Where the load that the formula itself predicts exceeds what the service can do, it is
not applied: a skill over a formula outside its domain would be cheap. Each carries the reason why it applies.

A budget remembers its `ttl` of healthy requests, which are spent first: it is asked only of faults that last three
times as long. Not here: how many requests meet an expired certificate. Whether one needs a handshake hangs on idle
times of connections, which is what the twin is for; the naive forecast is the only fair opponent there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.api.messages import RetryBudgetSpec, TimeoutSpec
from scenarios.model import AppService, FaultSpec, Scenario, SloSpec
from sim.model.setup import read_setup

Key = tuple[str, str, str]
FULL = 0.95
"""A service that is busier than this is beyond the formulas."""
BUDGET_TTLS = 3.0
NOBODY = 500
"""What a proxy answers for a backend that does not exist."""


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
    kinds = [fault.kind for fault in scenario.faults]
    if kinds == ["app-degrade"]:
        return dict(_of_failing_app(scenario, scenario.faults[0]))
    if kinds == ["misroute"]:
        return dict(_of_misroute(scenario, scenario.faults[0]))
    away = [fault for fault in scenario.faults if _takes_identity(fault)]
    kills = [fault for fault in scenario.faults if fault.kind == "pod-kill"]
    if len(away) == len(kills) == 1 and len(kinds) == 2:
        return dict(_of_restart_without_identity(scenario, away[0], kills[0]))
    return {}


def _takes_identity(fault: FaultSpec) -> bool:
    return fault.kind == "cert-expiry" or (
        fault.kind == "control-plane-down" and fault.targets.get("component") in ("identity", "all")
    )


def _of_restart_without_identity(scenario: Scenario, away: FaultSpec, kill: FaultSpec) -> Iterator[tuple[Key, Formula]]:
    """What starts while identity is away gets no certificate, and serves nobody until it is back."""
    service = scenario.app.service(str(kill.targets["service"]))
    back = away.at + away.duration
    if not away.at <= kill.at < back or int(kill.targets.get("replicas", service.replicas)) < service.replicas:
        return
    lost = (min(back, scenario.phases.inject) - kill.at) / scenario.phases.inject
    why = f"{service.name} restarts {kill.at:g} s into the window and gets no certificate before {back:g} s"
    for slo in _plain_slos(scenario, service):
        yield ("success_rate", slo.name, "inject"), Formula(1.0 - lost, why)


def _of_misroute(scenario: Scenario, fault: FaultSpec) -> Iterator[tuple[Key, Formula]]:
    """What a route sends to nobody is answered 500 by the caller's proxy; a retry picks a backend anew."""
    if fault.parameters.get("mode", "route") != "route" or fault.parameters.get("to"):
        return  # another service's answers, or waits for an endpoint, are not on paper
    service = scenario.app.service(str(fault.targets["service"]))
    astray = float(fault.parameters.get("share", 1.0))
    expected = _tries(scenario, service, astray, NOBODY, _offered(scenario, service), fault.duration)
    if expected is None:
        return
    _, good, policy = expected
    share = min(1.0, fault.duration / scenario.phases.inject)
    why = f"a route sends {astray:.0%} of the tries for {service.name} to nobody, {policy}"
    for slo in _plain_slos(scenario, service):
        calls = _calls(scenario, slo.service, slo.method, slo.path, service)
        yield ("success_rate", slo.name, "inject"), Formula(1.0 - share * (1.0 - good**calls), why)


def _of_failing_app(scenario: Scenario, fault: FaultSpec) -> Iterator[tuple[Key, Formula]]:
    service = scenario.app.service(str(fault.targets["service"]))
    p = float(fault.parameters.get("errorRate", 0.0))
    if p <= 0.0 or fault.parameters.get("route") or fault.parameters.get("freeze"):
        return
    if int(fault.targets.get("replicas", service.replicas)) < service.replicas:
        return  # the balancer prefers who is quick to fail, and the share that it sends there is not on paper
    status = int(float(fault.parameters.get("status", 503)))
    offered = _offered(scenario, service)
    expected = _tries(scenario, service, p, status, offered, fault.duration)
    if expected is None:
        return
    if offered * expected[0] > FULL * _capacity(service, float(fault.parameters.get("latencySeconds", 0.0))):
        return
    number, good, policy = expected
    share = min(1.0, fault.duration / scenario.phases.inject)
    why = f"{service.name} fails {p:.0%} by itself, {policy}, and has room for {number:.2f} tries a request"
    yield ("attempts_per_request", service.name, "inject"), Formula(1.0 + share * (number - 1.0), why)
    for slo in _plain_slos(scenario, service):
        yield ("success_rate", slo.name, "inject"), Formula(1.0 - share * (1.0 - good), why)


def _tries(
    scenario: Scenario, service: AppService, p: float, status: int, offered: float, seconds: float
) -> tuple[float, float, str] | None:
    """(tries a request, share that ends well, the policy in words); None where policy is beyond the formulas."""
    rules = read_setup(scenario).rules[service.authority]
    if rules.profile.exists:
        budget, routes = rules.profile.retry_budget, rules.profile.routes
        if len(routes) != 1 or routes[0].timeout_seconds is not None or budget is None or not routes[0].is_retryable:
            return None
        return _within_budget(scenario, service, budget, p, offered, seconds)
    if len({(route.retry, route.timeouts) for route in rules.policy.routes}) > 1:
        return None
    if any(route.timeouts != TimeoutSpec() for route in rules.policy.routes):
        return None
    retry = rules.policy.routes[0].retry if rules.policy.routes else None
    retried = retry is not None and any(low <= status <= high for low, high in retry.statuses)
    limit = retry.limit if retry is not None and retried else 0
    return tries(p, limit), 1.0 - p ** (limit + 1), f"{limit} retries"


def _within_budget(
    scenario: Scenario, service: AppService, budget: RetryBudgetSpec, p: float, offered: float, seconds: float
) -> tuple[float, float, str] | None:
    if seconds < BUDGET_TTLS * budget.ttl_seconds or offered <= 0.0:
        return None
    clients = sum(
        caller.replicas
        for caller in scenario.app.services
        if any(call.service == service.name for route in caller.routes for stage in route.calls for call in stage)
    )
    reserve = budget.min_retries_per_second * clients / offered
    number = tries_within_budget(p, budget.retry_ratio, reserve)
    return number, number * (1.0 - p), f"a budget of {budget.retry_ratio:.0%}"


def _plain_slos(scenario: Scenario, service: AppService) -> Iterator[SloSpec]:
    """SLOs without a latency whose requests call the service."""
    for slo in scenario.slos:
        if slo.threshold is None and _calls(scenario, slo.service, slo.method, slo.path, service):
            yield slo


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
