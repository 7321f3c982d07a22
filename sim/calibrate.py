"""From a baseline window to what the model needs, with what the window leaves uncertain.

    self time per route     the app's own histogram: censored lognormal fit of the declared family; where the buckets
                            contradict it, the histogram itself (monotone on the probit scale). Nothing counted: the
                            declared distribution
    overhead per hop        what client latencies show beyond the modelled self times: the twin plays the baseline with
                            next to none, and the difference is fitted (sim.overhead), rare stalls included
    arrival rate            a Gamma posterior of the count
    unexplained failures    a Beta posterior of bad requests that no declared failure rate explains
    discrepancy             how much the baseline's own blocks differ beyond sampling: machines drift

`Calibration.draw` gives one `Parameters` for each replication, so that what is not known widens the forecast.
Policy is not here: it is read, not fitted. Rejected: a sampler over all parameters at once (minutes, for posteriors
that these moments give in a second) and fitting per-service overheads (the client's latencies cannot tell services
on one path apart).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from scenarios.model import Application, AppRoute, Scenario, SloSpec
from sim.distributions import Distribution, Exponential, LogNormal, WithStalls, declared
from sim.fit import fit_route
from sim.model.draws import Streams
from sim.model.record import Record
from sim.model.system import WARM_UP_SECONDS, System
from sim.observation import ClientSample, Observation
from sim.overhead import StepEvidence, correction, fit_overhead
from sim.parameters import DELAYS, Delays, Parameters, RouteKey
from sim.setup import Setup, read_setup

FIT_SEED = 20_260
FIT_REQUESTS = 2_500
"""Requests that a trial baseline plays at most: enough for a p95, and a fifth of a second."""
FEWEST_SAMPLES = 20
"""A step with fewer answers takes no part in the fit."""
START_OVERHEAD = LogNormal(0.003, 0.35)
DEFAULT_DRIFT = 0.08
LATENCY_FLOOR = {"p50": 0.03, "p95": 0.06, "p99": 0.12}
"""Sigma of the log that no window of seconds can exclude: the machine's own noise between two windows."""


@dataclass(frozen=True, slots=True)
class RouteFit:
    """Self time of a route and how well it is known."""

    distribution: Distribution
    count: int
    """Observations behind it; 0: only declared."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The posterior, in the few numbers that it takes."""

    routes: dict[RouteKey, RouteFit]
    overhead: WithStalls
    client_overhead: LogNormal
    drift: float
    """Sigma of the log of the overhead between windows."""
    arrivals: int
    seconds: float
    declared_rate: float
    bad: int
    """Requests that failed at the client in the baseline, and all of them."""
    total: int
    expected_bad: float
    """Of these, what the declared failure rates explain."""
    residual: dict[str, float] = field(default_factory=dict)
    """Discrepancy: sigma of the log of p50, p95, p99, of one window of the same length."""
    notes: tuple[str, ...] = ()
    """For the reader: what could not be estimated and what was taken instead."""
    delays: Delays = field(default_factory=Delays)
    """What the world takes for a fault's coming and going, typically."""

    def draw(self, streams: Streams) -> Parameters:
        """One set of parameters that the baseline does not contradict."""
        generator = streams.generator("parameters")
        overhead = self.overhead.scaled(float(np.exp(self.drift * generator.standard_normal())))
        stalls = float(np.exp(0.4 * generator.standard_normal()))
        return Parameters(
            times={key: _perturbed(fit, generator) for key, fit in self.routes.items()},
            overhead=replace(overhead, share=overhead.share * stalls),
            client_overhead=self.client_overhead,
            rate=_rate(self, generator),
            failure_share=_failure_share(self, generator),
            handshake=LogNormal(2.0 * max(overhead.body.median, 0.001), 0.4),
            discovery=LogNormal(4.0 * max(overhead.body.median, 0.001), 0.4),
            delays=_delays(generator, self.delays),
        )

    def best(self) -> Parameters:
        """The centre of the posterior."""
        return Parameters(
            times={key: fit.distribution for key, fit in self.routes.items()},
            overhead=self.overhead,
            client_overhead=self.client_overhead,
            rate=self.arrivals / self.seconds if self.arrivals else self.declared_rate,
            failure_share=0.0,
        )

    def summary(self) -> dict[str, float | str | None]:
        """For the reader of a forecast."""
        found: dict[str, float | str | None] = {
            "arrivals_per_second": round(self.arrivals / self.seconds, 3) if self.seconds else self.declared_rate,
            "overhead_per_hop_median_seconds": round(self.overhead.body.median, 6),
            "overhead_per_hop_sigma": round(self.overhead.body.sigma, 3),
            "stall_share_per_hop": round(self.overhead.share, 5),
            "stall_mean_seconds": round(self.overhead.stall_mean, 4),
            "overhead_drift_sigma": round(self.drift, 3),
            "requests": float(self.total),
            "bad_requests": float(self.bad),
        }
        for (service, route), fit in self.routes.items():
            found[f"self_time_mean_seconds {service} {route}"] = round(fit.distribution.mean, 6)
        for quantity, sigma in self.residual.items():
            found[f"discrepancy_sigma {quantity}"] = round(sigma, 4)
        for number, note in enumerate(self.notes):
            found[f"note {number + 1}"] = note
        return found


def calibrate(observation: Observation, scenario: Scenario) -> Calibration:
    """What `observation` says of the scenario's application. Nothing of the fault is known here."""
    setup = read_setup(scenario, observation.load_pods, observation.world)
    seconds = max(1e-3, observation.ended_at - observation.started_at)
    notes: list[str] = []
    routes = _routes(scenario.app, observation, notes)
    first_steps = {
        f"{j.steps[0].method} {j.steps[0].service} {j.steps[0].path}" for j in scenario.app.journeys if j.steps
    }
    repeats = _later_steps(scenario, first_steps)
    arrivals = sum(1 for sample in observation.requests if sample.route in first_steps)
    arrivals = max(0, round(arrivals / repeats)) if repeats else arrivals
    bad = sum(failures(observation.requests, scenario.slos))
    start = Calibration(
        routes=routes,
        overhead=WithStalls(START_OVERHEAD, 0.0, 0.0),
        client_overhead=LogNormal(0.0005, 0.3),
        drift=DEFAULT_DRIFT,
        arrivals=arrivals,
        seconds=seconds,
        declared_rate=scenario.load.rate,
        bad=bad,
        total=len(observation.requests),
        expected_bad=0.0,
        residual=dict(LATENCY_FLOOR),
        delays=DELAYS.get(observation.world, Delays()),
    )
    if not observation.requests:
        notes.append("no request in the baseline: declared values throughout")
        return replace(start, drift=0.3, residual=dict.fromkeys(LATENCY_FLOOR, 0.3), notes=tuple(notes))
    fitted = _fit_overhead(start, setup, observation, notes)
    return replace(fitted, notes=tuple(notes))


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


def _routes(app: Application, observation: Observation, notes: list[str]) -> dict[RouteKey, RouteFit]:
    found: dict[RouteKey, RouteFit] = {}
    for service in app.services:
        for route in service.routes:
            times = observation.route_times.get((service.name, route.name))
            if times is not None and times.count > 0:
                found[service.name, route.name] = RouteFit(fit_route(times, route.service_time), times.count)
            else:
                notes.append(f"{service.name} {route.name}: not called in the baseline, its declared time is used")
                found[service.name, route.name] = RouteFit(declared(route.service_time), 0)
    return found


def _perturbed(fit: RouteFit, generator: np.random.Generator) -> Distribution:
    """Another draw of what `count` observations leave open."""
    effective = fit.count + 10.0  # a declared time is worth ten observations
    distribution = fit.distribution
    z = float(generator.standard_normal())
    match distribution:
        case LogNormal():
            sigma = distribution.sigma * math.sqrt(effective / float(generator.chisquare(effective)))
            return LogNormal(distribution.median * math.exp(z * sigma / math.sqrt(effective)), sigma)
        case Exponential():
            return distribution.scaled(effective / float(generator.gamma(effective)))
        case _:
            return distribution.scaled(math.exp(z * 0.7 / math.sqrt(effective)))


# ---- load ------------------------------------------------------------------------------------------------------------


def _later_steps(scenario: Scenario, first_steps: set[str]) -> float:
    """How many requests on first-step routes one journey makes on average (1 unless a later step repeats one)."""
    count = total = 0.0
    for journey in scenario.app.journeys:
        share = scenario.load.mix.get(journey.name, 0.0)
        total += share
        count += share * sum(f"{s.method} {s.service} {s.path}" in first_steps for s in journey.steps)
    return count / total if total else 1.0


def _rate(calibration: Calibration, generator: np.random.Generator) -> float:
    """Gamma posterior; the declared rate counts like 30 s of observation, for the driver follows it."""
    prior = 30.0
    shape = calibration.arrivals + calibration.declared_rate * prior
    return float(generator.gamma(max(shape, 1e-9))) / (calibration.seconds + prior)


def _failure_share(calibration: Calibration, generator: np.random.Generator) -> float:
    if calibration.total == 0:
        return 0.0
    unexplained = max(0.0, calibration.bad - calibration.expected_bad)
    if unexplained < 0.5:
        return 0.0
    return float(generator.beta(unexplained, max(1.0, calibration.total - unexplained)))


def _delays(generator: np.random.Generator, base: Delays) -> Delays:
    spread = generator.standard_normal(5)
    slow_kill = base.kill * math.exp(0.4 * generator.standard_normal()) if base.kill else 0.0

    def lognormal(value: float, sigma: float, z: float) -> float:
        return value * math.exp(sigma * z)

    return Delays(
        injection=lognormal(base.injection, 1.0, spread[0]),
        kill=slow_kill,
        reversion=lognormal(base.reversion, 1.0, spread[1]),
        control_start=lognormal(base.control_start, 0.6, spread[2]),
        pod_restart=lognormal(base.pod_restart, 0.35, spread[3]),
        endpoint_update=lognormal(base.endpoint_update, 0.5, spread[4]),
    )


# ---- overhead --------------------------------------------------------------------------------------------------------


def hops_of(app: Application, service: str, route: AppRoute) -> int:
    """Hops on the longest path of a request to `route`, the first one included."""
    hops = 1
    for group in route.calls:
        longest = 0
        for call in group:
            callee = app.service(call.service)
            called = callee.route(call.method, call.path)
            if called is not None:
                longest = max(longest, hops_of(app, call.service, called))
        hops += longest
    return hops


def _step_hops(app: Application) -> dict[str, int]:
    found: dict[str, int] = {}
    for journey in app.journeys:
        for step in journey.steps:
            route = app.service(step.service).route(step.method, step.path)
            if route is not None:
                found[f"{step.method} {step.service} {step.path}"] = hops_of(app, step.service, route)
    return found


def latencies_by_route(samples: tuple[ClientSample, ...]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    found: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        if sample.latency is not None:
            found[sample.route].append(sample.latency)
    return {route: np.sort(np.asarray(values, dtype=np.float64)) for route, values in found.items()}


def _played(calibration: Calibration, setup: Setup, seconds: float, seed: int) -> Record:
    """The baseline as the twin plays it with these parameters: no faults, and only the window's requests."""
    quiet = replace(setup, faults=(), inject_seconds=seconds, recover_seconds=0.0)
    return System(quiet, calibration.best(), Streams(FIT_SEED, seed), start=-WARM_UP_SECONDS).run()


def _by_route(record: Record) -> Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    found: dict[str, list[float]] = defaultdict(list)
    for route, at, latency in zip(record.route, record.intended_at, record.latency, strict=True):
        if at >= 0 and latency is not None:
            found[route].append(latency)
    return {route: np.sort(np.asarray(values)) for route, values in found.items()}


def _fit_overhead(start: Calibration, setup: Setup, observation: Observation, notes: list[str]) -> Calibration:
    measured = latencies_by_route(observation.requests)
    hops = _step_hops(setup.app)
    usable = [route for route, values in measured.items() if route in hops and len(values) >= FEWEST_SAMPLES]
    if not usable:
        notes.append("no step was answered often enough to fit the overhead of a hop; a typical one is assumed")
        return replace(start, drift=0.3, residual=dict.fromkeys(LATENCY_FLOOR, 0.25))
    seconds = min(max(start.seconds, 10.0), FIT_REQUESTS / max(setup.load.rate, 1e-6))
    bare = replace(start, overhead=WithStalls(LogNormal(1e-6, 0.0), 0.0, 0.0))
    record = _played(bare, setup, seconds, 0)
    played = _by_route(record)
    evidence = [
        StepEvidence(measured[route], played[route], hops[route]) for route in usable if len(played.get(route, ())) >= 5
    ]
    if not evidence:
        notes.append("the twin answered too few requests of the baseline to fit the overhead of a hop")
        return replace(start, drift=0.3, residual=dict.fromkeys(LATENCY_FLOOR, 0.25))
    overhead = fit_overhead(evidence, FIT_SEED)
    fitted = _by_route(_played(replace(start, overhead=overhead), setup, seconds, 1))
    known = {route: measured[route] for route in usable}
    median = max(1e-5, overhead.body.median + correction(known, fitted, hops))
    overhead = replace(overhead, body=LogNormal(median, overhead.body.sigma))
    failed = sum(1 for status in record.status if not 0 < status < 500)
    return replace(
        start,
        overhead=overhead,
        drift=_drift(observation, usable, overhead.body, hops),
        residual=_residual(observation, usable, measured),
        expected_bad=failed / max(1, len(record.status)) * start.total,
    )


def _blocks(observation: Observation, count: int) -> list[tuple[ClientSample, ...]]:
    length = (observation.ended_at - observation.started_at) / count
    blocks: list[list[ClientSample]] = [[] for _ in range(count)]
    for sample in observation.requests:
        index = int((sample.intended_at - observation.started_at) / length) if length > 0 else 0
        blocks[min(max(index, 0), count - 1)].append(sample)
    return [tuple(block) for block in blocks]


def _drift(observation: Observation, usable: list[str], body: LogNormal, hops: Mapping[str, int]) -> float:
    """How much the overhead of a hop differs between thirds of the baseline, beyond what sampling explains."""
    variances: list[float] = []
    for route in usable:
        medians: list[float] = []
        noise: list[float] = []
        for block in _blocks(observation, 3):
            values = latencies_by_route(block).get(route)
            if values is None or len(values) < FEWEST_SAMPLES:
                continue
            low, mid, high = np.quantile(values, [0.25, 0.5, 0.75])
            medians.append(float(mid))
            noise.append((1.2533 * float(high - low) / 1.349) ** 2 / len(values))
        if len(medians) == 3:
            excess = float(np.var(medians, ddof=1)) - float(np.mean(noise))
            variances.append(max(0.0, excess) / (hops[route] * body.median) ** 2)
    sigma = math.sqrt(float(np.mean(variances))) if variances else DEFAULT_DRIFT
    return min(0.5, max(DEFAULT_DRIFT, sigma))


def _residual(
    observation: Observation,
    usable: list[str],
    measured: Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]],
) -> dict[str, float]:
    """Discrepancy of each percentile: the split halves' log ratio, beyond what resampling one window gives."""
    generator = np.random.Generator(np.random.SFC64(FIT_SEED))
    halves = [latencies_by_route(block) for block in _blocks(observation, 2)]
    found: dict[str, float] = {}
    for quantity, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        excess: list[float] = []
        for route in usable:
            first, second = halves[0].get(route), halves[1].get(route)
            if first is None or second is None or min(len(first), len(second)) * (1.0 - share) < 1.0:
                continue
            seen = math.log(float(np.quantile(first, share)) / float(np.quantile(second, share))) ** 2 / 2
            pooled = measured[route]
            logs = np.log(np.quantile(generator.choice(pooled, (30, max(1, len(pooled) // 2))), share, axis=1))
            excess.append(seen - float(np.var(logs)))
        sigma = math.sqrt(max(0.0, float(np.mean(excess)))) if excess else 0.0
        found[quantity] = min(0.5, max(LATENCY_FLOOR[quantity], sigma))
    return found
