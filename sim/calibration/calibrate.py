"""From a baseline window to what the model needs, with what the window leaves uncertain.

    self time per route     the app's own histogram, else its proxies', else its clients' latencies (`proxied`);
                            families, mixtures and posterior: `fit`. Nothing counted: the declared distribution, as
                            wide as before
    overhead per hop        what client latencies show beyond the modelled self times: the twin plays the baseline with
                            next to none, and the difference is fitted (`overhead`), rare stalls included, together
                            with how much of a hop's CPU lies in a request's way; of an application without single
                            requests, the difference between its proxies
    arrivals                a Gamma posterior of the rate, index of dispersion (`sim.model.arrivals`)
    workers                 of programs that are not ours: the knee of latency over load (`workers`)
    unexplained failures    none at all, or a Beta posterior of bad requests that no declared failure rate explains
    noise floor             how much the baseline's own blocks differ beyond sampling, and how much machines drift
                            after it (`noise`)

Nothing of the fault is known here. Policy is not here either: it is read, not fitted. Rejected: a sampler over all
parameters at once (minutes, for a posterior that these parts give in a second) and fitting per-service overheads (the
client's latencies cannot tell services on one path apart).
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from scenarios.model import Application, AppService, Scenario, SloSpec
from sim.calibration.cpu import fit_cpu
from sim.calibration.fit import RouteFit, fit_route
from sim.calibration.noise import (
    FEWEST_SAMPLES,
    LATENCY_FLOOR,
    MACHINE_DRIFT,
    UNTOLD,
    Values,
    holes_of,
    latencies_by_route,
    residual_of,
    residual_of_counters,
)
from sim.calibration.outcome import Calibration
from sim.calibration.overhead import (
    PRIOR_CENTRE,
    PRIOR_SPREAD,
    StepEvidence,
    correction,
    fit_overhead,
    overhead_at,
    overhead_loss,
)
from sim.calibration.posterior import sample
from sim.calibration.proxied import TYPICAL, TYPICAL_SPREAD, Told, from_clients, hops_of, overhead_of_hop, self_times
from sim.calibration.starts import restart_work
from sim.calibration.workers import WorkersFit, workers_from_load, workers_from_requests
from sim.model.arrivals import Dispersion, dispersion
from sim.model.distributions import LogNormal, WithStalls
from sim.model.draws import Streams
from sim.model.parameters import DELAYS, Delays, RouteKey
from sim.model.record import Record
from sim.model.setup import Setup, read_setup
from sim.model.system import WARM_UP_SECONDS, System
from sim.observation import ClientSample, Observation

__all__ = ["Calibration", "RouteFit", "calibrate", "failures", "hops_of"]

FIT_SEED = 20_260
FEWEST_PLAYED = 5
FIT_REQUESTS = 2_500
"""Requests that a trial baseline plays at most: enough for a p95, and a fifth of a second."""
OVERHEAD_PROPOSALS = 120
OVERHEAD_DRAWS = 60
AHEAD = (1.0, 0.75, 0.6, 0.45, 0.3, 0.2)
"""Shares of the CPU time of a hop that may lie in the way of a request. The rest is spent when it has gone on, and what
it took on its way is then overhead, which differs from hop to hop, as CPU costs in the model do not."""
UNTOLD_DRIFT = 0.3
UNSEEN_SHARE = 0.35
"""Sigma of the log: the way from an app to its own proxy is in no proxy's latency."""


def calibrate(observation: Observation, scenario: Scenario) -> Calibration:
    """What `observation` says of the scenario's application. Nothing of the fault is known here."""
    setup = read_setup(scenario, observation.load_pods, observation.world)
    notes: list[str] = []
    routes, told_by = _routes(scenario.app, observation, notes)
    arrivals, per_second = _arrivals(scenario, observation)
    bad = sum(failures(observation.requests, scenario.slos))
    total = len(observation.requests)
    if not total and observation.answers is not None:
        bad, total = observation.answers
    delays = DELAYS.get(observation.world, Delays())
    start = Calibration(
        routes=routes,
        overhead=overhead_at(PRIOR_CENTRE),
        client_overhead=LogNormal(0.0005, 0.3),
        drift=UNTOLD_DRIFT,
        arrivals=arrivals,
        seconds=max(1e-3, observation.ended_at - observation.started_at),
        declared_rate=scenario.load.rate,
        bad=bad,
        total=total,
        expected_bad=0.0,
        residual=dict.fromkeys(LATENCY_FLOOR, UNTOLD),
        delays=delays,
        starts=restart_work(observation.starts) if delays.app_work else {},
        overhead_points=_prior_points(PRIOR_CENTRE, PRIOR_SPREAD),
        dispersion=per_second,
        workers=_workers(scenario.app, observation),
        ours=not observation.external,
        told_by=told_by,
        bytes_sent=observation.bytes_sent,
        cpu=fit_cpu(observation.cpu),
    )
    if observation.external:
        fitted = _from_proxies(start, observation, notes)
    elif observation.requests:
        fitted = _fit_overhead(start, setup, observation, notes)
    else:
        notes.append("no request in the baseline: declared values throughout")
        fitted = start
    return replace(_doubted(fitted, observation, notes), notes=tuple(notes))


def _doubted(found: Calibration, observation: Observation, notes: list[str]) -> Calibration:
    """Wider where the window's own clock is in doubt."""
    hole = holes_of(observation)
    if not hole:
        return found
    notes.append(
        f"nothing was recorded for {hole:.0f} s of the window: the clock jumped, or recording stopped; the rate is of"
        " the rest, and what may have happened meanwhile widens the noise floor"
    )
    return replace(
        found,
        seconds=max(1e-3, found.seconds - hole),
        drift=max(found.drift, UNTOLD_DRIFT),
        residual={quantity: max(sigma, UNTOLD) for quantity, sigma in found.residual.items()},
        dispersion=Dispersion(poisson=found.ours),
    )


def failures(samples: tuple[ClientSample, ...], slos: tuple[SloSpec, ...]) -> list[bool]:
    """Whether each sample failed, as opposed to having been slow. `good` is judged by the tightest threshold of the
    route, so a bad sample within that threshold was answered with an error, and one beyond it tells nothing more."""
    tightest: dict[str, float] = {}
    for slo in slos:
        if slo.route is not None and slo.threshold is not None:
            tightest[slo.route] = min(slo.threshold, tightest.get(slo.route, math.inf))
    return [
        sample.latency is None or (not sample.good and sample.latency <= tightest.get(sample.route, math.inf))
        for sample in samples
    ]


# ---- self times ------------------------------------------------------------------------------------------------------


def _routes(
    app: Application, observation: Observation, notes: list[str]
) -> tuple[dict[RouteKey, RouteFit], dict[RouteKey, str]]:
    told, lacking = _told(app, observation)
    notes += lacking
    found: dict[RouteKey, RouteFit] = {}
    for service in app.services:
        trusted = _is_ours(service, observation)
        for route in service.routes:
            key = (service.name, route.name)
            seen = told.get(key)
            if seen is None:
                named = f"{service.name} {route.name}"
                if not any(note.startswith(named) for note in notes):
                    notes.append(f"{named}: not called in the baseline, its declared time is used")
            found[key] = fit_route(
                seen.times if seen is not None else None,
                route.service_time,
                trusted=trusted,
                name=f"{service.name} {route.name}",
                widen=seen.widen if seen is not None else 0.0,
            )
    return found, {key: seen.by for key, seen in told.items()}


def _told(app: Application, observation: Observation) -> tuple[dict[RouteKey, Told], list[str]]:
    """The best source of each route's self time."""
    told, notes = self_times(app, observation.inbound, observation.outbound)
    if observation.proxy_latency and not observation.external:
        # Programs of the user's beside our workload count nothing; the proxies beside them do.
        foreign = {service.name for service in app.services if service.command is not None}
        seen, lacking = self_times(app, {(name, ""): times for name, times in observation.proxy_latency.items()}, {})
        told |= {key: one for key, one in seen.items() if key[0] in foreign}
        notes += [note for note in lacking if note.partition(" ")[0] in foreign]
    if observation.external and not observation.inbound:
        told, notes = from_clients(app, latencies_by_route(observation.requests))
    for key, times in observation.route_times.items():
        if times.count > 0:
            told[key] = Told(times, 0.0, "the app's own histogram")
    return told, notes


def _is_ours(service: AppService, observation: Observation) -> bool:
    """Whether it is the workload that comes with Gameday, which keeps what its file declares."""
    return not observation.external and service.command is None


# ---- arrivals --------------------------------------------------------------------------------------------------------


def _arrivals(scenario: Scenario, observation: Observation) -> tuple[int, Dispersion]:
    """Journeys that began, and whether they came in bursts."""
    first_steps = {
        f"{j.steps[0].method} {j.steps[0].service} {j.steps[0].path}" for j in scenario.app.journeys if j.steps
    }
    times = [sample.intended_at for sample in observation.requests if sample.route in first_steps]
    if times or not observation.load_points:
        repeats = _later_steps(scenario, first_steps)
        count = max(0, round(len(times) / repeats)) if repeats else len(times)
        seconds = int(observation.ended_at - observation.started_at)
        by_second = np.zeros(max(seconds, 0))
        for at in times:
            index = int(at - observation.started_at)
            if 0 <= index < seconds:
                by_second[index] += 1
        return count, dispersion(by_second.tolist(), not observation.external)
    entries = {j.steps[0].service for j in scenario.app.journeys if j.steps}
    called = {call.service for s in scenario.app.services for r in s.routes for g in r.calls for call in g}
    counts: dict[str, list[float]] = defaultdict(list)
    for point in observation.load_points:
        if point.service in entries - called:
            counts[point.service].append(point.requests)
    length = min((len(column) for column in counts.values()), default=0)
    together = [sum(column[i] for column in counts.values()) for i in range(length)]
    return round(sum(sum(column) for column in counts.values())), dispersion(together, not observation.external)


def _later_steps(scenario: Scenario, first_steps: set[str]) -> float:
    """How many requests on first-step routes one journey makes on average (1 unless a later step repeats one)."""
    count = total = 0.0
    for journey in scenario.app.journeys:
        share = scenario.load.mix.get(journey.name, 0.0)
        total += share
        count += share * sum(f"{s.method} {s.service} {s.path}" in first_steps for s in journey.steps)
    return count / total if total else 1.0


# ---- workers ---------------------------------------------------------------------------------------------------------


def _workers(app: Application, observation: Observation) -> dict[str, WorkersFit]:
    found: dict[str, WorkersFit] = {}
    for service in app.services:
        if not _is_ours(service, observation):
            found[service.name] = _workers_of(service, observation)
    return found


def _workers_of(service: AppService, observation: Observation) -> WorkersFit:
    if observation.load_points:
        points = [p for p in observation.load_points if p.service == service.name and p.mean_latency and p.seconds > 0]
        return workers_from_load(
            service.workers,
            service.replicas,
            [p.requests / p.seconds for p in points],
            [p.mean_latency or 0.0 for p in points],
            [p.requests for p in points],
        )
    # Only of a service that clients reach themselves and that waits for no other: else the knee may be another's.
    leaves = {f"{r.method} {service.name} {r.path}" for r in service.routes if not r.calls}
    usual = {route: float(np.median(v)) for route, v in latencies_by_route(observation.requests).items() if len(v)}
    centre = float(np.median([usual[route] for route in leaves & usual.keys()])) if leaves & usual.keys() else 0.0
    chosen = [s for s in observation.requests if s.route in leaves and s.latency is not None and s.latency > 0]
    return workers_from_requests(
        service.workers,
        service.replicas,
        [s.intended_at for s in chosen],
        [(s.latency or 0.0) / usual[s.route] * centre for s in chosen],
    )


# ---- overhead --------------------------------------------------------------------------------------------------------


def _prior_points(centre: tuple[float, ...], spread: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    generator = np.random.Generator(np.random.SFC64(FIT_SEED))
    # Stalls as rare and short as the prior's centre has them at most: a tail that nobody saw is the noise floor's part.
    points = np.asarray(centre) + np.asarray(spread) * generator.standard_normal((OVERHEAD_DRAWS, len(centre)))
    points[:, 2:] = np.minimum(points[:, 2:], np.asarray(centre)[2:])
    return tuple(tuple(point) for point in points.tolist())


def _from_proxies(start: Calibration, observation: Observation, notes: list[str]) -> Calibration:
    """Overhead and noise floor of an application that is not ours."""
    found = start
    hop = overhead_of_hop(observation.inbound, observation.outbound)
    if hop is None or hop[0] <= 0.0:
        what = "the proxies of both ends of a call" if hop is None else "a difference above zero between its proxies"
        notes.append(f"overhead of a hop: the window has not {what}; a typical one is assumed")
        spread = (TYPICAL_SPREAD, *PRIOR_SPREAD[1:])
        centre = (math.log(TYPICAL.median), math.log(TYPICAL.sigma), *PRIOR_CENTRE[2:])
        found = replace(found, overhead_points=_prior_points(centre, spread), overhead=overhead_at(centre))
    else:
        mean, error = hop
        centre = (math.log(mean) - TYPICAL.sigma**2 / 2, math.log(TYPICAL.sigma), *PRIOR_CENTRE[2:])
        spread = (math.hypot(min(1.0, error / mean), UNSEEN_SHARE), 0.5, *PRIOR_SPREAD[2:])
        found = replace(
            found,
            overhead=overhead_at(centre),
            overhead_points=_prior_points(centre, spread),
            overhead_told_by="latency at both ends' proxies",
        )
    latencies = {r: v for r, v in latencies_by_route(observation.requests).items() if len(v) >= FEWEST_SAMPLES}
    residual = residual_of_counters(observation.load_points)
    if latencies:
        residual = residual_of(observation, latencies, FIT_SEED)
    return replace(found, residual=residual)


def _step_hops(app: Application) -> dict[str, int]:
    found: dict[str, int] = {}
    for journey in app.journeys:
        for step in journey.steps:
            route = app.service(step.service).route(step.method, step.path)
            if route is not None:
                found[f"{step.method} {step.service} {step.path}"] = hops_of(app, step.service, route)
    return found


def _played(calibration: Calibration, setup: Setup, seconds: float, seed: int) -> Record:
    """The baseline as the twin plays it with these parameters: no faults, and only the window's requests."""
    quiet = replace(setup, faults=(), inject_seconds=seconds, recover_seconds=0.0)
    return System(quiet, calibration.best(), Streams(FIT_SEED, seed), start=-WARM_UP_SECONDS).run()


def _by_route(record: Record) -> Mapping[str, Values]:
    found: dict[str, list[float]] = defaultdict(list)
    for route, at, latency in zip(record.route, record.intended_at, record.latency, strict=True):
        if at >= 0 and latency is not None:
            found[route].append(latency)
    return {route: np.sort(np.asarray(values)) for route, values in found.items()}


def _fits(
    start: Calibration, setup: Setup, known: Mapping[str, Values], hops: Mapping[str, int], seconds: float
) -> Iterator[tuple[Calibration, Callable[[Values], float], Values]]:
    """The overhead that explains the measured latencies best, for each share of the CPU that may lie in a request's
    way: the calibration with that share, the loss of an overhead, and the point where it is least."""
    cpu = start.cpu
    shares = [replace(cpu, costs=replace(cpu.costs, ahead=ahead)) for ahead in AHEAD] if cpu is not None else [None]
    for share in shares:
        calibration = replace(start, cpu=share)
        bare = replace(calibration, overhead=WithStalls(LogNormal(1e-6, 0.0), 0.0, 0.0))
        played = _by_route(_played(bare, setup, seconds, 0))
        evidence = [
            StepEvidence(values, played[route], hops[route])
            for route, values in known.items()
            if len(played.get(route, ())) >= FEWEST_PLAYED
        ]
        if evidence:
            loss = overhead_loss(evidence, FIT_SEED)
            yield calibration, loss, fit_overhead(loss, evidence)


def _fit_overhead(start: Calibration, setup: Setup, observation: Observation, notes: list[str]) -> Calibration:
    measured = latencies_by_route(observation.requests)
    hops = _step_hops(setup.app)
    known = {route: values for route, values in measured.items() if route in hops and len(values) >= FEWEST_SAMPLES}
    if not known:
        notes.append("no step was answered often enough to fit the overhead of a hop; a typical one is assumed")
        return start
    seconds = min(max(start.seconds, 10.0), FIT_REQUESTS / max(setup.load.rate, 1e-6))
    fits = list(_fits(start, setup, known, hops, seconds))
    if not fits:
        notes.append("the twin answered too few requests of the baseline to fit the overhead of a hop")
        return start
    start, loss, mode = min(fits, key=lambda fit: fit[1](fit[2]))
    overhead = overhead_at(mode)
    record = _played(replace(start, overhead=overhead), setup, seconds, 1)
    median = max(1e-5, overhead.body.median + correction(known, _by_route(record), hops))
    points = sample(
        lambda points: np.asarray([-0.5 * loss(point) for point in points]),
        mode,
        np.asarray(PRIOR_SPREAD),
        np.random.Generator(np.random.SFC64(zlib.crc32(b"overhead"))),
        OVERHEAD_PROPOSALS,
        OVERHEAD_DRAWS,
    )
    points[:, 0] += math.log(median / overhead.body.median)
    overhead = replace(overhead, body=LogNormal(median, overhead.body.sigma))
    failed = sum(1 for status in record.status if not 0 < status < 500)
    return replace(
        start,
        overhead=overhead,
        overhead_points=tuple(tuple(point) for point in points.tolist()),
        overhead_told_by="clients' latencies beyond the self times",
        drift=MACHINE_DRIFT,
        residual=residual_of(observation, known, FIT_SEED),
        expected_bad=failed / max(1, len(record.status)) * start.total,
    )
