"""What "nothing changes" predicts: the baseline's own values, which every forecast is measured against."""

from __future__ import annotations

import math

import numpy as np

from scenarios.model import Application
from sim.calibration.calibrate import failures
from sim.model.arrivals import Schedule
from sim.model.setup import Setup
from sim.observation import Observation
from sim.replication.course import nothing_changes, planned
from sim.replication.mesh_figures import HANDSHAKES, MESH, THROUGHPUT
from sim.replication.quantities import Key, Requests, slo_quantities, windows


def naive(setup: Setup, observation: Observation, schedule: Schedule | None = None) -> dict[Key, float]:
    """(quantity, subject, window) → the value over the baseline; of a count, at the baseline's rate.

    Throughput follows the arrivals where they are known: who comes when is no more the fault's doing than the twin's
    finding, and both forecasts are told it.
    """
    found: dict[tuple[str, str], float] = {}
    failed = failures(observation.requests, setup.slos)
    requests = Requests(
        np.asarray([s.route for s in observation.requests], dtype=np.str_),
        np.asarray([s.intended_at for s in observation.requests], dtype=np.float64),
        np.asarray([math.nan if s.latency is None else s.latency for s in observation.requests], dtype=np.float64),
        ~np.asarray(failed, dtype=np.bool_),
    )
    for slo in setup.slos:
        chosen = requests.select(slo.route, -math.inf, math.inf)
        for quantity, value in slo_quantities(chosen, slo, setup.load.timeout).items():
            found[quantity, slo.name] = value
        plan = planned(setup.faults)
        if plan is not None:
            found.update(((q, slo.name), value) for (q, _), value in nothing_changes(slo, plan, setup.end).items())
    for service, value in observation.attempts.items():
        found["attempts_per_request", service] = value
    found.update(((figure, MESH), value) for figure, value in observation.mesh.items())
    seconds = observation.ended_at - observation.started_at
    said = {
        (quantity, subject, window): value * (end - start) / seconds if quantity == HANDSHAKES else value
        for (quantity, subject), value in found.items()
        for window, (start, end) in windows(setup).items()
    }
    if schedule is not None and (THROUGHPUT, MESH) in found:
        for window, share in _load_shares(setup, observation, schedule).items():
            said[THROUGHPUT, MESH, window] *= share
    return said


def _load_shares(setup: Setup, observation: Observation, schedule: Schedule) -> dict[str, float]:
    """Window → requests to services a second that its arrivals ask for, over those that the baseline's asked for, each
    with all that it calls; none where the baseline had none."""
    asks = _asks(setup.app)
    routes = {
        journey.name: [f"{step.method} {step.service} {step.path}" for step in journey.steps]
        for journey in setup.app.journeys
    }
    past = sum(asks.get(sample.route, 0) for sample in observation.requests)
    if not past:
        return {}
    rate = past / (observation.ended_at - observation.started_at)
    asked = np.asarray([sum(asks.get(route, 0) for route in routes[name]) for name in schedule.journeys])
    at = np.asarray(schedule.at, dtype=np.float64)
    return {
        window: float(asked[(start <= at) & (at < end)].sum()) / (end - start) / rate
        for window, (start, end) in windows(setup).items()
        if end > start
    }


def _asks(app: Application) -> dict[str, int]:
    """`POST storefront /checkout` → requests to services of the mesh that one such makes where all goes well."""
    found: dict[tuple[str, str, str], int] = {}
    routes = {(s.name, r.method, r.path): (s.meshed, r) for s in app.services for r in s.routes}

    def asks(key: tuple[str, str, str]) -> int:
        if key not in found:
            meshed, route = routes[key]
            calls = (call for group in route.calls for call in group)
            found[key] = int(meshed) + sum(asks((call.service, call.method, call.path)) for call in calls)
        return found[key]

    return {f"{method} {name} {path}": asks((name, method, path)) for name, method, path in routes}
