"""What a finished run says about forecasts: its sealed forecast (or one made anew), beside what was measured.

Everything is computed from the run's store with the code of today: measured values, scores, request counts. Only the
forecast is as old as the run. `--reforecast` makes that one anew too, from the stored baseline; such evidence is marked
`sealed=False`, since who made it could have known the outcome.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from gameday import ledger
from gameday.accuracy.suite import config_of
from gameday.arrivals import known_arrivals
from gameday.rundir import STORE
from mesh.control.registry.manifests import InvalidManifest
from reports.measure import measure_run
from reports.observe import observation
from reports.pace import Pace, pace
from reports.run import Run
from reports.store import Request, RunStore
from scenarios.model import Scenario, SloSpec
from sim.cores import count_cores
from sim.forecast.discrepancy import Learned, family_of, load, read_statement
from sim.forecast.predict import make_forecast
from sim.replication.quantities import PERCENTILES
from sim.results import Forecast, Prediction
from sim.scoring.closed_form import Formula, formulas
from sim.scoring.coverage import apart as standard_errors
from sim.scoring.score import Detail, detail

Key = tuple[str, str, str]
REPLICATIONS = 80
"""Of a forecast made anew: a number and not a time, so that a busy machine gives the same forecast, only later."""
PATIENCE_SECONDS = 120.0


class NoEvidence(Exception):
    """The run has nothing to score. The text says what is missing."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One scored run."""

    name: str
    config: str
    """SHA-256 of its configuration."""
    seed: int
    family: str
    """What the page groups it by."""
    kinds: str
    """Kinds of its faults (`sim.forecast.discrepancy.family_of`)."""
    part: str
    control: bool
    load: str
    sealed: bool
    rows: tuple[Detail, ...]
    limits: tuple[str, ...]
    discrepancy: str
    compute_seconds: float
    replications: int
    others: float | None = None
    """Cores that other programs used meanwhile (`runner.Ended`)."""
    cores: int | None = None
    """That the run had; None: its store does not say."""
    system: str = ""
    """Operating system and Python that it ran on."""
    paces: Mapping[str, Pace] = field(default_factory=dict)
    """How fast the machine was, by window; empty where nobody counted."""
    moved_rows: tuple[Detail, ...] = ()
    """Those that the fault moved (`acceptance.mark_moved`)."""

    def at_pace(self, row: Detail) -> float | None:
        """A latency's median as it reads at the pace that the machine had; None where either is not known."""
        found = self.paces.get(row.window)
        return None if found is None else row.at_pace(found.ratio)


def read_details(
    store: RunStore, forecast: Forecast, measured: Mapping[Key, float] | None = None
) -> tuple[Scenario, tuple[Detail, ...]]:
    """The scenario of a judged run and its scored predictions. Percentiles of a route count once, however many SLOs it
    has.

    Raises:
        NoEvidence
    """
    run = Run(store)
    scenario = run.scenario
    if scenario is None or "all" not in run.windows:
        raise NoEvidence("it was never injected")
    values = measured if measured is not None else measure_run(run, scenario, run.windows)
    slos = {slo.name: slo for slo in scenario.slos}
    during: dict[tuple[str, str], Sequence[Request]] = {}
    before: dict[str, Sequence[Request]] = {}
    closed = _formulas(scenario)
    routes: set[tuple[str | None, str, str]] = set()
    sigmas = read_statement(discrepancy_of(forecast))
    rows = []
    for prediction in forecast.predictions:
        key = (prediction.quantity, prediction.subject, prediction.window)
        value = values.get(key)
        if value is None or not math.isfinite(value) or not prediction.ensemble:
            continue
        place = (prediction.subject, prediction.window)
        slo = slos.get(prediction.subject)
        if slo is not None and prediction.quantity in PERCENTILES:
            of_route = (slo.route, prediction.quantity, prediction.window)
            if of_route in routes:
                continue
            routes.add(of_route)
        if slo is not None and place not in during and prediction.window in run.windows:
            during[place] = run.requests(run.windows[prediction.window], slo.route)
            if slo.name not in before and "baseline" in run.windows:
                before[slo.name] = run.requests(run.windows["baseline"], slo.route)
        requests, healthy = during.get(place), before.get(prediction.subject)
        apart = foretold = None
        if slo is not None and requests is not None and healthy is not None:
            apart = counted_apart(prediction, slo, requests, healthy, scenario.load.timeout)
            foretold = foretold_apart(prediction, slo, len(requests), healthy, scenario.load.timeout)
        formula = closed.get(key)
        rows.append(
            detail(
                prediction,
                value,
                requests=len(requests) if requests is not None else None,
                closed=formula.value if formula else None,
                discrepancy=sigmas.get((prediction.quantity, prediction.window)),
                apart=apart,
                foretold=foretold,
            )
        )
    return scenario, tuple(rows)


def _formulas(scenario: Scenario) -> Mapping[Key, Formula]:
    """None of a run whose mesh manifests are gone: its policies are unknown."""
    try:
        return formulas(scenario)
    except InvalidManifest:
        return {}


def counted_apart(
    prediction: Prediction, slo: SloSpec, during: Sequence[Request], before: Sequence[Request], timeout: float
) -> float | None:
    """Standard errors between a window and the baseline: of their shares of bad requests; of a percentile, of their
    shares beyond what it was in the baseline (a quantile test). None for what is no count of requests."""
    if prediction.quantity in ("success_rate", "budget_spent"):
        bad = [sum(not request.good(slo.threshold, timeout) for request in some) for some in (during, before)]
        return standard_errors(bad[0], len(during), bad[1], len(before))
    if prediction.quantity in PERCENTILES and prediction.naive is not None:
        latencies = [[r.latency for r in some if r.latency is not None] for some in (during, before)]
        beyond = [sum(latency > prediction.naive for latency in some) for some in latencies]
        return standard_errors(beyond[0], len(latencies[0]), beyond[1], len(latencies[1]))
    return None


def foretold_apart(
    prediction: Prediction, slo: SloSpec, requests: int, before: Sequence[Request], timeout: float
) -> float | None:
    """Standard errors between what the forecast's median comes to in a window of so many requests, and the baseline: of
    both shares of bad ones, or of both shares beyond the median of a percentile. None for what is no count."""
    if prediction.quantity == "success_rate":
        bad = sum(not request.good(slo.threshold, timeout) for request in before)
        return standard_errors((1.0 - prediction.median) * requests, requests, bad, len(before))
    if prediction.quantity in PERCENTILES:
        latencies = [request.latency for request in before if request.latency is not None]
        beyond = sum(latency > prediction.median for latency in latencies)
        return standard_errors((1.0 - PERCENTILES[prediction.quantity]) * requests, requests, beyond, len(latencies))
    return None


def sealed_forecast(store: RunStore) -> Forecast:
    """The forecast as it was sealed.

    Raises:
        NoEvidence: there is none, it is not the one whose hash was announced, or a fault came first.
    """
    document = store.document("forecast")
    if document is None:
        raise NoEvidence("it has no forecast")
    seals = [event for event in store.events() if event.kind == "seal"]
    if not seals or (seals[-1].data or {}).get("sha256") != hashlib.sha256(document[1]).hexdigest():
        raise NoEvidence("its forecast is not the one that was sealed")
    if any(event.kind == "inject" and event.at < seals[-1].at for event in store.events()):
        raise NoEvidence("a fault was injected before its forecast was sealed")
    return msgspec.json.decode(document[1], type=Forecast)


def reforecast(
    store: RunStore, replications: int = REPLICATIONS, learned: Learned | Literal["shipped"] | None = "shipped"
) -> Forecast:
    """What the twin of today says, from the baseline of then. A discrepancy that was learned from this very run is not
    applied to it.

    Raises:
        NoEvidence
    """
    sealed = sealed_forecast(store)
    run = Run(store)
    if run.scenario is None or "baseline" not in run.windows:
        raise NoEvidence("it has no baseline")
    start, end = run.windows["baseline"]
    terms = load() if learned == "shipped" else learned
    if terms is not None and terms.knows(config_of(run.scenario, sealed.world, sealed.seed)):
        terms = None
    try:
        return make_forecast(
            run.scenario,
            observation(store, run.scenario, start, end),
            world=sealed.world,
            seed=sealed.seed,
            planned_injection_at=sealed.planned_injection_at,
            time_budget_seconds=PATIENCE_SECONDS,
            most_replications=replications,
            learned=terms,
            schedule=known_arrivals(store, run.scenario, sealed.seed, (start, end), sealed.planned_injection_at),
        )
    except InvalidManifest as error:
        raise NoEvidence(f"its mesh manifests cannot be read any more: {error.problems[0]}") from None


def read_evidence(
    path: Path, *, name: str, family: str, seed: int, part: str, control: bool, load: str, anew: bool
) -> Evidence:
    """Of a finished run's folder.

    Raises:
        NoEvidence
    """
    if not (path / STORE).is_file():
        raise NoEvidence("it has no run store")
    with RunStore(path / STORE) as store:
        forecast = reforecast(store) if anew else sealed_forecast(store)
        scenario, rows = read_details(store, forecast)
        meta = store.meta()
        run = Run(store)
        paces = {window: found for window in {row.window for row in rows} if (found := pace(run, window)) is not None}
    if not forecast.replications:
        raise NoEvidence(f"it has no forecast: {forecast.limits[0]}")
    if not rows:
        raise NoEvidence("none of its predictions was measured")
    return Evidence(
        name=name,
        config=config_of(scenario, forecast.world, forecast.seed),
        seed=seed,
        family=family,
        kinds=family_of(scenario.faults),
        part=part,
        control=control,
        load=load,
        sealed=not anew,
        rows=rows,
        limits=forecast.limits,
        discrepancy=discrepancy_of(forecast),
        compute_seconds=forecast.compute_seconds,
        replications=forecast.replications,
        cores=int(meta["cores"]) if meta.get("cores") else None,
        system=_system(meta),
        paces=paces,
    )


def _system(meta: Mapping[str, Any]) -> str:
    versions = meta.get("versions") or {}
    return f"{versions['system']}, Python {versions['python']}" if {"system", "python"} <= set(versions) else ""


def discrepancy_of(forecast: Forecast) -> str:
    return str(forecast.calibration.get("discrepancy") or "")


def record_of(store: RunStore, forecast: Forecast, measured: Mapping[Key, float], at: float) -> ledger.Record:
    """The ledger's line of a run that was just judged.

    Raises:
        NoEvidence
    """
    scenario, rows = read_details(store, forecast, measured)
    meta = store.meta()
    sealed = store.document("forecast")
    return ledger.Record(
        run=str(meta.get("run_id", store.path.parent.name)),
        seal=hashlib.sha256(sealed[1]).hexdigest() if sealed is not None else "",
        at=at,
        machine=machine(),
        scenario=scenario.name,
        variant=scenario.variant,
        family=family_of(scenario.faults),
        world=forecast.world,
        seed=forecast.seed,
        rate=scenario.load.rate,
        app=scenario.app.name,
        config=config_of(scenario, forecast.world, forecast.seed)[:16],
        discrepancy=discrepancy_of(forecast),
        replications=forecast.replications,
        rows=rows,
    )


def machine() -> str:
    return f"{count_cores()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
