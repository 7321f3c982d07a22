"""Capacity on paper: at which load a service is full, and at which a retry storm can feed itself.

    capacity   C = replicas × workers / mean time that a request holds a worker
    full       λ v = C             v: requests to the service that a journey makes
    vulnerable λ v (1 + r) = C     where tries are given up after a timeout, the work goes on, and each is retried up to
                                   r times (Bronson et al., HotOS 2021)

The second line needs a queue that holds more work than a timeout: in a shorter one whatever is served is still wanted.
It needs retries that timeouts set off: those of a limit do, a ServiceProfile's request timeout ends the request.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.api.durations import format_duration
from scenarios.model import Application, AppService, LoadSpec
from sim.model.distributions import declared
from sim.model.parameters import Parameters
from sim.model.setup import Setup
from sim.sweep.policy_axis import faulted_service

TIMED_OUT = 504


@dataclass(frozen=True, slots=True)
class Line:
    """A boundary in journeys a second, or None and why there is none on paper."""

    load: float | None
    why: str


def visits(app: Application, load: LoadSpec, service: str) -> float:
    """Requests to a service that one journey means to make, on average over the mix."""
    total = 0.0
    for journey in app.journeys:
        share = load.mix.get(journey.name, 0.0)
        total += share * sum(_calls(app, step.service, step.method, step.path, service) for step in journey.steps)
    return total


def _calls(app: Application, name: str, method: str, path: str, target: str) -> int:
    here = 1 if name == target else 0
    route = app.service(name).route(method, path)
    if route is None:
        return here
    return here + sum(_calls(app, c.service, c.method, c.path, target) for stage in route.calls for c in stage)


def capacity(service: AppService, parameters: Parameters) -> float:
    """Requests a second of a service whose workers wait for nobody else; routes are taken as equally frequent."""
    means = [
        (parameters.times.get((service.name, route.name)) or declared(route.service_time)).mean
        for route in service.routes
    ]
    mean = sum(means) / len(means) if means else 0.0
    if mean <= 0.0:
        return float("inf")
    # Those that burn do it one at a time.
    return service.replicas * (1 if service.work == "cpu" else service.workers) / mean


def full_load(setup: Setup, parameters: Parameters) -> float:
    """Journeys a second at which the first service is full, calls to others left out."""
    found = float("inf")
    for service in setup.app.services:
        per_journey = visits(setup.app, setup.load, service.name)
        if per_journey > 0.0:
            found = min(found, capacity(service, parameters) / per_journey)
    return found


def boundary(setup: Setup, parameters: Parameters) -> Line:
    """Where λ(1+r) = C for the service that the faults hit."""
    service = faulted_service(setup)
    if service is None:
        return Line(None, "no formula: the faults hit no service")
    name = service.name
    if any(route.calls for route in service.routes):
        return Line(None, f"no formula: {name} holds its workers while it waits for others")
    per_journey = visits(setup.app, setup.load, name)
    if per_journey <= 0.0:
        return Line(None, f"no formula: no journey comes to {name}")
    rules = setup.rules[service.authority]
    if rules.profile.exists:
        return Line(None, f"no formula: a profile's timeout at {name} ends the request and is not retried")
    routes = rules.policy.routes
    retries = {r.retry.limit if r.retry is not None and _on_timeout(r.retry.statuses) else 0 for r in routes}
    limits = {_try_timeout(r.timeouts.response_seconds, r.retry.timeout_seconds if r.retry else None) for r in routes}
    if len(retries) != 1 or len(limits) != 1:
        return Line(None, f"no formula: routes of {name} have policies of their own")
    limit, timeout = retries.pop(), limits.pop()
    if timeout is None:
        return Line(None, f"no formula: a try at {name} has no timeout, so none is given up while it is queued")
    if service.cancels:
        return Line(None, f"no formula: {name} does no work for callers that have left")
    full = capacity(service, parameters)
    holds = service.replicas * service.queue / full
    if holds < timeout:
        held, waits = format_duration(round(holds, 3)), format_duration(timeout)
        return Line(None, f"no formula: queues of {name} hold {held} of work, less than the timeout of {waits}")
    load = full / per_journey / (1 + limit)
    what = "a storm can feed itself" if limit else "it is full"
    formula = f"load × {per_journey:.3g} × (1 + {limit}) = {full:.4g} requests/s at {name}"
    return Line(load, f"{what} from {load:.4g} journeys/s on: {formula}")


def _on_timeout(statuses: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= TIMED_OUT <= high for low, high in statuses)


def _try_timeout(response: float | None, each: float | None) -> float | None:
    both = [value for value in (response, each) if value is not None]
    return min(both, default=None)
