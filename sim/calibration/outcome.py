"""The posterior that a baseline window leaves, and draws from it.

`draw` gives one `Parameters` for each replication, so that what is not known widens the forecast. What the window did
not narrow is drawn as wide as before it (`sim.calibration.identifiability` lists it). Plain data throughout: it travels
to the workers of a forecast, and to a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from scenarios.model import LoadSpec
from sim.calibration.cpu import CpuFit
from sim.calibration.fit import RouteFit
from sim.calibration.overhead import overhead_at
from sim.calibration.starts import PRIOR_SIGMA as STARTS_PRIOR
from sim.calibration.starts import drawn_starts
from sim.calibration.workers import WorkersFit
from sim.model.arrivals import Dispersion
from sim.model.distributions import LogNormal, WithStalls
from sim.model.draws import Streams
from sim.model.parameters import Delays, Parameters, RouteKey

RATE_PRIOR_SECONDS = 30.0
"""The declared rate counts like this much observation, where the load generator is ours and follows it."""
FOREIGN_RATE_PRIOR_SECONDS = 1.0
DISCOVERY_HOPS = 17.0
"""What it takes to ask for a forgotten destination, in hops. In nine runs of the embedded world such a request took
22 ms (median of 14), one that need not ask 6 (of 191), a handshake 1.7, and a hop 0.83. Profile, policy and endpoints
are three streams through a control plane that has been asleep."""
SAME_LOAD = 0.1
UNTOLD_RATE_SIGMA = 1.0
"""Of the log, where no journey was seen to begin and the load is not ours."""
FLAWLESS = 0.9
"""How likely it is, before the window, that a system of ours fails no request without a modelled cause."""
FLAWLESS_FOREIGN = 0.5
"""The same of another's, and of one of ours that hardly anybody asked."""
FEW_REQUESTS = 30
"""In the whole window: with fewer a forecast says what it rests on."""
FLAWS_PRIOR_REQUESTS = 50.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """The posterior, in the few numbers that it takes."""

    routes: dict[RouteKey, RouteFit]
    overhead: WithStalls
    client_overhead: LogNormal
    drift: float
    """Sigma of the log of the machine's pace between windows: how long it takes for the same instructions."""
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
    starts: dict[str, float] = field(default_factory=dict)
    """As in `sim.model.parameters.Parameters`; empty where this run's processes were not seen to start."""
    overhead_points: tuple[tuple[float, ...], ...] = ()
    """Draws of the overhead's posterior (`sim.calibration.overhead.overhead_at`)."""
    overhead_told_by: str | None = None
    """What told the overhead; None: nothing, the points are the prior's."""
    dispersion: Dispersion = field(default_factory=Dispersion)
    workers: dict[str, WorkersFit] = field(default_factory=dict)
    """Of services that are not ours."""
    ours: bool = True
    """Load generator and application are ours and keep what their files declare."""
    told_by: dict[RouteKey, str] = field(default_factory=dict)
    """What told each route's self time."""
    bytes_sent: dict[str, tuple[float, float]] = field(default_factory=dict)
    """As in `sim.model.parameters.Parameters`; counted, so there is nothing to draw."""
    cpu: CpuFit | None = None
    """None: the window does not tell, and processes do not slow each other down."""

    def draw(self, streams: Streams) -> Parameters:
        """One set of parameters that the baseline does not contradict, on a machine that has drifted since."""
        return self.at_pace(math.exp(self.drift * streams.even_normal("machine")))._drawn(streams)

    def _drawn(self, streams: Streams) -> Parameters:
        generator = streams.generator("parameters")
        overhead = self.overhead
        if self.overhead_points:
            overhead = overhead_at(self.overhead_points[int(generator.integers(len(self.overhead_points)))])
        hop = max(overhead.body.median + (self.cpu.hop_seconds if self.cpu is not None else 0.0), 0.001)
        return Parameters(
            times={key: fit.draw(generator) for key, fit in self.routes.items()},
            overhead=overhead,
            client_overhead=self.client_overhead,
            rate=self._rate(generator),
            failure_share=self._failure_share(generator),
            handshake=LogNormal(2.0 * hop, 0.4),
            discovery=LogNormal(DISCOVERY_HOPS * hop, 0.4),
            delays=drawn_delays(generator, self.delays),
            workers={service: fit.draw(generator) for service, fit in self.workers.items()},
            dispersion=self.dispersion.draw(generator),
            bytes_sent=self.bytes_sent,
            cpu=self.cpu.draw(streams) if self.cpu is not None else None,
            starts=drawn_starts(generator, self.starts),
        )

    def best(self) -> Parameters:
        """The centre of the posterior."""
        return Parameters(
            times={key: fit.distribution for key, fit in self.routes.items()},
            overhead=self.overhead,
            client_overhead=self.client_overhead,
            rate=self.arrivals / self.seconds if self.arrivals else self.declared_rate,
            failure_share=0.0,
            delays=self.delays,
            starts=self.starts,
            workers={service: fit.centre for service, fit in self.workers.items()},
            dispersion=self.dispersion.centre,
            bytes_sent=self.bytes_sent,
            cpu=self.cpu.costs if self.cpu is not None else None,
        )

    def at_pace(self, ratio: float) -> Calibration:
        """The same system on a machine that takes `ratio` times as long for the same instructions: all CPU costs, and
        what a hop takes beside them. A stall is a wait for somebody who has the core, and whoever holds it for longer
        is met more often."""
        grown = math.log(ratio)
        return replace(
            self,
            cpu=self.cpu.at_pace(ratio) if self.cpu is not None else None,
            overhead=self.overhead.at_pace(ratio),
            overhead_points=tuple(
                (median + grown, sigma, share + grown, stall + grown)
                for median, sigma, share, stall in self.overhead_points
            ),
            client_overhead=self.client_overhead.scaled(ratio),
        )

    def under(self, load: LoadSpec) -> Calibration:
        """The same system under another load: its rate, known as well as the window's was, and a note that says so.
        A load that the window had already, to within `SAME_LOAD`, keeps the rate that was seen."""
        if self.arrivals <= 0 or load.rate <= 0:
            return replace(self, declared_rate=load.rate)
        seen = self.arrivals / self.seconds
        if abs(seen / load.rate - 1.0) <= SAME_LOAD:
            return replace(self, declared_rate=load.rate)
        note = f"calibrated at {seen:.3g} arrivals a second, and the load here is {load.rate:g}"
        return replace(self, declared_rate=load.rate, seconds=self.arrivals / load.rate, notes=(*self.notes, note))

    def _rate(self, generator: np.random.Generator) -> float:
        if not self.ours and self.arrivals <= 0:
            return self.declared_rate * math.exp(UNTOLD_RATE_SIGMA * float(generator.standard_normal()))
        prior = RATE_PRIOR_SECONDS if self.ours else FOREIGN_RATE_PRIOR_SECONDS
        shape = self.arrivals + self.declared_rate * prior
        # Bursts leave less to learn from the same count.
        spread = max(1.0, self.dispersion.centre)
        return float(generator.gamma(max(shape / spread, 1e-9))) * spread / (self.seconds + prior)

    def _failure_share(self, generator: np.random.Generator) -> float:
        """Of requests that fail without a modelled cause: exactly none, or a Beta posterior of the share."""
        unexplained = max(0.0, self.bad - self.expected_bad)
        if unexplained < 0.5:
            # Evidence for some share p ~ Beta(1/2, m) after n flawless requests: E[(1-p)^n].
            m, n = FLAWS_PRIOR_REQUESTS, float(self.total)
            evidence = math.exp(math.lgamma(n + m) + math.lgamma(m + 0.5) - math.lgamma(n + m + 0.5) - math.lgamma(m))
            flawless = FLAWLESS if self.ours and self.total >= FEW_REQUESTS else FLAWLESS_FOREIGN
            if generator.random() < flawless / (flawless + (1.0 - flawless) * evidence):
                return 0.0
        rest = max(0.0, self.total - unexplained)
        return float(generator.beta(unexplained + 0.5, rest + FLAWS_PRIOR_REQUESTS))


def drawn_delays(generator: np.random.Generator, base: Delays) -> Delays:
    """What no baseline shows, as wide as worlds differ."""
    spread = generator.standard_normal(7)
    slow_kill = base.kill * math.exp(0.4 * generator.standard_normal()) if base.kill else 0.0

    restart = 0.1 if base.app_work else 0.35  # a supervisor's backoff is nearly all of it, else the work is in it

    def lognormal(value: float, sigma: float, z: float) -> float:
        return value * math.exp(sigma * z)

    return Delays(
        injection=lognormal(base.injection, 1.0, spread[0]),
        kill=slow_kill,
        reversion=lognormal(base.reversion, 1.0, spread[1]),
        control_start=lognormal(base.control_start, 0.6, spread[2]),
        proxy_outlives=lognormal(base.proxy_outlives, 0.7, spread[5]),
        pod_restart=lognormal(base.pod_restart, restart, spread[3]),
        control_work=lognormal(base.control_work, STARTS_PRIOR, spread[6]),
        app_work=lognormal(base.app_work, STARTS_PRIOR, spread[6]),
        proxy_work=lognormal(base.proxy_work, STARTS_PRIOR, spread[6]),
        endpoint_update=lognormal(base.endpoint_update, 0.5, spread[4]),
    )
