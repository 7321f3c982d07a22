"""What a window told, and what it could not: each parameter's interval beside the one before it.

`narrowed` is 1 - (posterior spread / prior spread), both sigmas of the log. Below `BARELY` a window told nothing of
that parameter; it then keeps the prior's width in every forecast, and the reader is told so by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sim.calibration.families import distribution_of
from sim.calibration.outcome import UNTOLD_RATE_SIGMA, Calibration
from sim.calibration.overhead import PRIOR_SPREAD
from sim.calibration.starts import PRIOR_SIGMA as STARTS_PRIOR
from sim.calibration.workers import PRIOR_SIGMA as WORKERS_PRIOR
from sim.model.arrivals import PRIOR_SIGMA as DISPERSION_PRIOR
from sim.model.distributions import Distribution
from sim.model.draws import Streams
from sim.model.parameters import Parameters, kind_of

BARELY = 0.3
DRAWS = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """One parameter."""

    parameter: str
    estimate: float
    low: float
    """The middle 90 % of the posterior."""
    high: float
    unit: str
    """s, /s, share, or none."""
    narrowed: float
    """0 (as wide as before the window) to 1 (exactly known)."""
    told_by: str | None
    """None: not told by this window."""
    note: str = ""

    @property
    def told(self) -> bool:
        return self.told_by is not None


def findings(calibration: Calibration) -> tuple[Finding, ...]:
    """Every parameter, in the order of a reader's interest. Deterministic."""
    drawn = [replace(calibration, drift=0.0).draw(Streams(0, replication)) for replication in range(DRAWS)]
    generator = np.random.Generator(np.random.SFC64(7))
    found: list[Finding] = []
    for (service, route), fit in calibration.routes.items():
        times = [parameters.times[service, route] for parameters in drawn]
        before = [distribution_of(fit.prior.family, point) for point in fit.prior.draws(generator, DRAWS)]
        told_by = calibration.told_by.get((service, route), "the app's own histogram") if fit.count else None
        told_by = f"{told_by}, {fit.count} requests" if told_by else None
        note = fit.shape if fit.count else "not called: declared"
        found.append(_found(f"self time {service} {route}", _means(times), "s", _spread(_means(before)), told_by, note))
        if fit.count and fit.count < 1_000:
            found.append(_tail(f"tail of {service} {route}", times, fit.count))
    overheads = [parameters.overhead for parameters in drawn]
    found.append(_found("overhead of a hop", _means(overheads), "s", PRIOR_SPREAD[0], calibration.overhead_told_by))
    if calibration.cpu is None:
        found.append(_untold("CPU of a hop", "nobody counted it, and processes do not slow each other down"))
    else:
        hops = [parameters.cpu.hop_seconds for parameters in drawn if parameters.cpu is not None]
        found.append(_found("CPU of a hop", hops, "s", PRIOR_SPREAD[0], "CPU time of the processes"))
    rates = [parameters.rate for parameters in drawn]
    arrived = f"{calibration.arrivals} arrivals" if calibration.arrivals else None
    found.append(_found("arrival rate", rates, "/s", UNTOLD_RATE_SIGMA, arrived))
    found.append(_bursts(calibration, [parameters.dispersion for parameters in drawn]))
    for service, workers in calibration.workers.items():
        most = workers.at_least
        note = f"served {most:.0f} at once without slowing down" if most >= 2 else "hardly ever two at once"
        note = "" if workers.told else note
        by = "latency over load" if workers.told else None
        values = [float(parameters.workers[service]) for parameters in drawn]
        found.append(_found(f"workers of {service}", values, "", WORKERS_PRIOR, by, note))
    found.append(_failures(calibration, [parameters.failure_share for parameters in drawn]))
    if calibration.bad == 0:
        found.append(_untold("retries", "no request failed: whether a second try helps is read from the fault alone"))
    found += _never_seen(drawn)
    found += _starts(drawn, calibration)
    for quantity, sigma in calibration.residual.items():
        told = "halves of the window" if sigma < 0.3 else None
        found.append(Finding(f"noise floor of {quantity}", sigma, sigma, sigma, "", 0.0 if not told else 1.0, told))
    return tuple(found)


def summary_of(calibration: Calibration) -> dict[str, float | str | None]:
    """For forecast.json and the report: estimates, intervals, and what was not told, by name."""
    best = calibration.overhead
    found: dict[str, float | str | None] = {
        "arrivals_per_second": round(calibration.arrivals / calibration.seconds, 3)
        if calibration.seconds
        else calibration.declared_rate,
        "overhead_per_hop_median_seconds": round(best.body.median, 6),
        "overhead_per_hop_sigma": round(best.body.sigma, 3),
        "stall_share_per_hop": round(best.share, 5),
        "stall_mean_seconds": round(best.stall_mean, 4),
        "machine_drift_sigma": round(calibration.drift, 3),
        "requests": float(calibration.total),
        "bad_requests": float(calibration.bad),
    }
    if calibration.cpu is not None:
        found.update(calibration.cpu.summary())
    for (service, route), fit in calibration.routes.items():
        found[f"self_time_mean_seconds {service} {route}"] = round(fit.distribution.mean, 6)
    for quantity, sigma in calibration.residual.items():
        found[f"discrepancy_sigma {quantity}"] = round(sigma, 4)
    table = findings(calibration)
    for row in table:
        if row.unit or row.parameter.startswith("workers"):
            found[f"90 % of {row.parameter}"] = f"{row.low:.4g} to {row.high:.4g}{row.unit and ' ' + row.unit}"
    untold = [row.parameter for row in table if not row.told]
    found["not told by this window"] = "; ".join(untold) or None
    for number, note in enumerate(calibration.notes):
        found[f"note {number + 1}"] = note
    return found


def _found(
    parameter: str, values: list[float], unit: str, prior_spread: float, told_by: str | None, note: str = ""
) -> Finding:
    low, middle, high = (float(q) for q in np.quantile(np.asarray(values), [0.05, 0.5, 0.95]))
    narrowed = min(1.0, max(0.0, 1.0 - _spread(values) / prior_spread)) if told_by else 0.0
    if told_by and narrowed < BARELY:
        note = "; ".join(part for part in (note, f"{told_by} narrow it by {narrowed:.0%} only") if part)
        told_by = None
    return Finding(parameter, middle, low, high, unit, round(narrowed, 3), told_by, note)


def _tail(parameter: str, times: list[Distribution], count: int) -> Finding:
    """The p99.9, which is a family's word where fewer than a thousand were seen."""
    generator = np.random.Generator(np.random.SFC64(11))
    values = [float(np.quantile(time.block(generator, 2_000), 0.999)) for time in times[:60]]
    low, middle, high = (float(q) for q in np.quantile(np.asarray(values), [0.05, 0.5, 0.95]))
    return Finding(parameter, middle, low, high, "s", 0.0, None, f"p99.9 of {count}: beyond what was seen")


def _bursts(calibration: Calibration, values: list[float]) -> Finding:
    seen = calibration.dispersion
    if calibration.ours:
        return Finding("index of dispersion", 1.0, 1.0, 1.0, "", 1.0, "the load generator: Poisson by construction")
    told = None if seen.seen is None else f"{seen.intervals} intervals, {seen.seen:.2f} seen"
    note = "" if told is None else "not told from Poisson" if seen.poisson else "bursts"
    row = _found("index of dispersion", values, "", DISPERSION_PRIOR, told, note)
    return row if told is not None else replace(row, note="too few intervals or arrivals")


def _failures(calibration: Calibration, values: list[float]) -> Finding:
    low, middle, high = (float(q) for q in np.quantile(np.asarray(values), [0.05, 0.5, 0.95]))
    told = f"{calibration.bad} of {calibration.total} failed" if calibration.total >= 30 else None
    narrowed = 1.0 - min(1.0, math.sqrt(50.0 / (50.0 + calibration.total)))
    return Finding("failures without a cause", middle, low, high, "share", round(narrowed, 3), told)


def _never_seen(drawn: list[Parameters]) -> list[Finding]:
    """What no healthy window shows: of the kind of world, and drawn as wide for every forecast."""
    delays = [parameters.delays for parameters in drawn]
    generator = np.random.Generator(np.random.SFC64(13))
    seconds = {
        "time to open a connection": [float(each.handshake.block(generator, 1)[0]) for each in drawn],
        "time to ask for a destination": [float(each.discovery.block(generator, 1)[0]) for each in drawn],
        "time to inject a fault": [each.injection + each.kill for each in delays],
        "time to hear of a pod's end": [each.endpoint_update for each in delays],
        "time to restart a pod": [each.pod_restart for each in delays],
        "time to start a control-plane component": [each.control_start for each in delays],
    }
    note = "no healthy window shows it: typical of this kind of world"
    return [_found(name, values, "s", 1.0, None, note) for name, values in seconds.items() if max(values) > 0.0]


def _starts(drawn: list[Parameters], calibration: Calibration) -> list[Finding]:
    """CPU until processes serve: of each kind, the one in the middle."""
    found: list[Finding] = []
    for kind, name in (("app", "an app"), ("proxy", "a proxy"), ("control", "a control-plane component")):
        seen = sorted((cpu, process) for process, cpu in calibration.starts.items() if kind_of(process) == kind)
        untold = "control/" if kind == "control" else f"/{kind}"
        process = seen[len(seen) // 2][1] if seen else untold
        values = [parameters.start_work(process) for parameters in drawn]
        told_by = f"the first start of {process}" if seen else None
        note = "" if seen else "nobody counted it when they started: typical of this kind of world"
        if max(values) > 0.0:
            found.append(_found(f"CPU to start {name}", values, "s", STARTS_PRIOR, told_by, note))
    return found


def _untold(parameter: str, note: str) -> Finding:
    return Finding(parameter, math.nan, math.nan, math.nan, "", 0.0, None, note)


def _means(times: list[Distribution]) -> list[float]:
    return [time.mean for time in times]


def _spread(values: list[float]) -> float:
    """Sigma of the log, from the middle 90 % so that one wild draw does not decide."""
    low, high = np.quantile(np.maximum(np.asarray(values), 1e-9), [0.05, 0.95])
    return float(math.log(high / low) / 3.29)
