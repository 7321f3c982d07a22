"""A calibration as a file: what `gameday calibrate -o json` writes and `gameday forecast --calibration` reads.

Everything that a forecast draws from (`posterior`), the table for people, and a sample of the requests for the forecast
that nothing changes. Stable: `schema` names the version, and a file of another is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from gameday.errors import BadInput
from scenarios.model import Scenario
from sim.calibration.calibrate import failures
from sim.calibration.cpu import CpuFit
from sim.calibration.families import Prior
from sim.calibration.fit import RouteFit, fit_route
from sim.calibration.identifiability import findings
from sim.calibration.outcome import Calibration
from sim.calibration.workers import WorkersFit
from sim.model.arrivals import Dispersion
from sim.model.distributions import Distribution, Exponential, LogNormal, Mixture, Tabled, WithStalls
from sim.model.parameters import Delays
from sim.observation import ClientSample, Observation

SCHEMA = "gameday.dev/calibration/v2"
"""v1 had a drift of the overhead alone."""
MOST_REQUESTS = 10_000
_KINDS: dict[str, type[Any]] = {
    "lognormal": LogNormal,
    "exponential": Exponential,
    "mixture": Mixture,
    "tabled": Tabled,
    "with stalls": WithStalls,
}


class Row(msgspec.Struct, frozen=True):
    """One line of the table for people."""

    parameter: str
    estimate: float | None
    low: float | None
    high: float | None
    unit: str
    narrowed: float
    told_by: str | None
    note: str


class Route(msgspec.Struct, frozen=True):
    """Self time of one route."""

    service: str
    route: str
    told_by: str | None
    count: int
    distribution: dict[str, Any]
    prior: Prior
    points: tuple[tuple[float, ...], ...]
    bins: tuple[tuple[float, float, float], ...] = ()
    bins_scale: float = 1.0
    widen: float = 0.0


class Posterior(msgspec.Struct, frozen=True):
    """What a forecast draws from; fields as in `sim.calibration.outcome.Calibration`."""

    routes: tuple[Route, ...]
    overhead: dict[str, Any]
    overhead_points: tuple[tuple[float, ...], ...]
    overhead_told_by: str | None
    client_overhead: dict[str, Any]
    drift: float
    arrivals: int
    seconds: float
    bad: int
    total: int
    expected_bad: float
    residual: dict[str, float]
    delays: Delays
    dispersion: Dispersion
    workers: dict[str, WorkersFit]
    ours: bool
    bytes_sent: dict[str, tuple[float, float]] = msgspec.field(default_factory=dict)
    cpu: CpuFit | None = None
    starts: dict[str, float] = msgspec.field(default_factory=dict)


class CalibrationFile(msgspec.Struct, frozen=True):
    """The whole file."""

    schema: str
    app: str
    source: str
    started_at: float
    ended_at: float
    world: str
    table: tuple[Row, ...]
    notes: tuple[str, ...]
    posterior: Posterior
    routes: tuple[str, ...] = ()
    requests: tuple[tuple[int, float, float | None, bool], ...] = ()
    """(index into `routes`, sent at, latency, answered without an error); evenly thinned where there were more."""


def to_file(calibration: Calibration, scenario: Scenario, source: str, observation: Observation) -> CalibrationFile:
    """What to write. `scenario`: the one that the observation was calibrated for."""
    failed = failures(observation.requests, scenario.slos)
    named = sorted({sample.route for sample in observation.requests})
    index = {route: number for number, route in enumerate(named)}
    step = -(-len(observation.requests) // MOST_REQUESTS) or 1
    return CalibrationFile(
        schema=SCHEMA,
        app=scenario.app.name,
        source=source,
        started_at=observation.started_at,
        ended_at=observation.ended_at,
        world=observation.world,
        table=tuple(
            Row(
                row.parameter,
                _number(row.estimate),
                _number(row.low),
                _number(row.high),
                row.unit,
                row.narrowed,
                row.told_by,
                row.note,
            )
            for row in findings(calibration)
        ),
        notes=calibration.notes,
        posterior=Posterior(
            routes=tuple(
                Route(
                    service,
                    route,
                    calibration.told_by.get((service, route)),
                    fit.count,
                    _encoded(fit.distribution),
                    fit.prior,
                    fit.points,
                    fit.bins,
                    fit.bins_scale,
                    fit.widen,
                )
                for (service, route), fit in calibration.routes.items()
            ),
            overhead=_encoded(calibration.overhead),
            client_overhead=_encoded(calibration.client_overhead),
            **{
                name: getattr(calibration, name)
                for name in Posterior.__struct_fields__
                if name not in ("routes", "overhead", "client_overhead")
            },
        ),
        routes=tuple(named),
        requests=tuple(
            (index[s.route], s.intended_at, s.latency, not bad)
            for s, bad in list(zip(observation.requests, failed, strict=True))[::step]
        ),
    )


def read_file(path: Path) -> CalibrationFile:
    """What `to_file` made.

    Raises:
        BadInput: not readable, or no calibration file of this version.
    """
    try:
        body = path.read_bytes()
    except OSError as error:
        raise BadInput(f"--calibration {path}: cannot be read: {error.strerror}") from None
    try:
        file = msgspec.json.decode(body, type=CalibrationFile)
        for route in file.posterior.routes:
            _decoded(route.distribution)
    except (msgspec.DecodeError, TypeError, KeyError, ValueError) as error:
        raise BadInput(f"--calibration {path}: not a file that `gameday calibrate -o json` writes: {error}") from None
    if file.schema != SCHEMA:
        raise BadInput(f"--calibration {path}: schema {file.schema}, and this Gameday reads {SCHEMA}: calibrate again")
    return file


def calibration_for(file: CalibrationFile, scenario: Scenario, path: Path) -> tuple[Calibration, Observation]:
    """The posterior for the scenario's application under the scenario's load, and the window it is from.

    Routes that the file does not have keep their declared times, as wide as those of an application that is not ours.

    Raises:
        BadInput: the file knows no route of the scenario's application.
    """
    found: dict[tuple[str, str], RouteFit] = {}
    stored = {(route.service, route.route): route for route in file.posterior.routes}
    notes = list(file.notes)
    known = 0
    for service in scenario.app.services:
        for route in service.routes:
            one = stored.get((service.name, route.name))
            if one is None:
                found[service.name, route.name] = fit_route(
                    None, route.service_time, trusted=False, name=f"{service.name} {route.name}"
                )
                notes.append(f"{service.name} {route.name}: not in the calibration, its declared time is used")
            else:
                known += 1
                found[service.name, route.name] = RouteFit(
                    _decoded(one.distribution), one.count, one.prior, one.points, one.bins, one.bins_scale, one.widen
                )
    if not known:
        raise BadInput(
            f"--calibration {path}: of {file.app}, and has no route of {scenario.app.name}, the app of {scenario.name}"
        )
    names = {service.name for service in scenario.app.services}
    posterior = file.posterior
    plain = {
        f.name: getattr(posterior, f.name)
        for f in fields(Calibration)
        if f.name in Posterior.__struct_fields__ and f.name not in ("routes", "overhead", "client_overhead", "workers")
    }
    overhead, client = _decoded(posterior.overhead), _decoded(posterior.client_overhead)
    assert isinstance(overhead, WithStalls)
    assert isinstance(client, LogNormal)
    calibration = Calibration(
        routes=found,
        overhead=overhead,
        client_overhead=client,
        declared_rate=scenario.load.rate,
        workers={name: fit for name, fit in posterior.workers.items() if name in names},
        told_by={(r.service, r.route): r.told_by for r in posterior.routes if r.told_by},
        notes=tuple(notes),
        **plain,
    )
    return calibration.under(scenario.load), _observation(file, scenario)


def _observation(file: CalibrationFile, scenario: Scenario) -> Observation:
    thresholds: dict[str, float] = {}
    for slo in scenario.slos:
        if slo.route is not None and slo.threshold is not None:
            thresholds[slo.route] = min(slo.threshold, thresholds.get(slo.route, scenario.load.timeout))
    samples: list[ClientSample] = []
    for number, at, latency, good in file.requests:
        if not 0 <= number < len(file.routes):
            continue
        route = file.routes[number]
        in_time = latency is not None and latency <= thresholds.get(route, scenario.load.timeout)
        samples.append(ClientSample(route, at, latency, good and in_time))
    return Observation(
        file.started_at, file.ended_at, tuple(samples), {}, {}, (), world=file.world, external=not file.posterior.ours
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _encoded(distribution: Distribution) -> dict[str, Any]:
    kind = next(name for name, type_ in _KINDS.items() if isinstance(distribution, type_))
    encoded: dict[str, Any] = {"kind": kind}
    for field in fields(distribution):
        value = getattr(distribution, field.name)
        encoded[field.name] = _encoded(value) if isinstance(value, LogNormal) else value
    return encoded


def _decoded(encoded: Mapping[str, Any]) -> Distribution:
    """Raises KeyError, TypeError or ValueError for what is no distribution."""
    kind = _KINDS[encoded["kind"]]
    values = {name: value for name, value in encoded.items() if name != "kind"}
    for name, value in values.items():
        if isinstance(value, dict):
            values[name] = _decoded(value)
        elif isinstance(value, list):
            values[name] = tuple(float(item) for item in value)
        else:
            values[name] = float(value)
    found: Distribution = kind(**values)
    return found
