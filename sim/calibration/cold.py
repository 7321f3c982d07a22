"""An observation without a run: what a baseline would have shown if everything were as declared.

For `gameday forecast` before anything was ever started. The overhead of a hop is a typical one of the embedded world;
the forecast's calibration notes say that nothing was measured only by the run that is missing, so callers say it too.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from mesh.behavior.renewal import RENEW_AT_SHARE
from scenarios.model import Scenario
from sim.model.distributions import LogNormal, WithStalls, declared
from sim.model.draws import Streams
from sim.model.parameters import Parameters
from sim.model.setup import Setup, read_setup
from sim.model.system import LOAD_SERVICE, WARM_UP_SECONDS, System
from sim.observation import ClientSample, Observation, PodState, RouteTimes

TYPICAL_OVERHEAD = WithStalls(LogNormal(0.0025, 0.4), 0.002, 0.02)
"""Seen on the embedded world, 2-core Linux VM, at 60 journeys a second."""
BOUNDS = tuple(0.0005 * 1.25**k for k in range(46))
"""The workload's own buckets."""
EPOCH = 1_767_225_600.0
"""End of every cold baseline: the first second of 2026, so that a seed alone decides the result."""


def cold_observation(scenario: Scenario, seed: int) -> Observation:
    """A simulated healthy baseline with the declared service times."""
    setup = read_setup(scenario)
    seconds = max(scenario.phases.baseline, 20.0)
    quiet = replace(setup, faults=(), inject_seconds=seconds, recover_seconds=0.0)
    streams = Streams(seed, -1)
    times = {(s.name, r.name): declared(r.service_time) for s in setup.app.services for r in s.routes}
    parameters = Parameters(
        times=times, overhead=TYPICAL_OVERHEAD, client_overhead=LogNormal(0.0005, 0.3), rate=setup.load.rate
    )
    record = System(quiet, parameters, streams, start=-WARM_UP_SECONDS).run()
    begin = EPOCH - seconds
    samples = tuple(
        ClientSample(route, begin + at, latency, _good(setup, route, latency, status))
        for route, at, latency, status in sorted(
            zip(record.route, record.intended_at, record.latency, record.status, strict=True), key=lambda row: row[1]
        )
        if 0.0 <= at < seconds
    )
    reached = {name: sum(n for second, n in by.items() if second >= 0) for name, by in record.reached.items()}
    meant = {name: sum(n for second, n in by.items() if second >= 0) for name, by in record.meant.items()}
    return Observation(
        started_at=begin,
        ended_at=EPOCH,
        requests=samples,
        route_times=_route_times(setup, reached, streams),
        attempts={name: reached.get(name, 0) / count for name, count in meant.items() if count},
        pods=_pods(setup, streams),
    )


def _good(setup: Setup, route: str, latency: float | None, status: int) -> bool:
    thresholds = [s.threshold for s in setup.slos if s.route == route and s.threshold is not None]
    return latency is not None and status < 500 and latency <= min([setup.load.timeout, *thresholds])


def _route_times(setup: Setup, reached: dict[str, int], streams: Streams) -> dict[tuple[str, str], RouteTimes]:
    """As many self times as requests that reached the service, shared evenly among its routes that are called."""
    found: dict[tuple[str, str], RouteTimes] = {}
    for service in setup.app.services:
        for route in service.routes:
            count = reached.get(service.name, 0) // len(service.routes)
            if not count:
                continue
            drawn = declared(route.service_time).block(streams.generator(f"cold/{service.name}/{route.name}"), count)
            buckets = [0] * (len(BOUNDS) + 1)
            for value in drawn.tolist():
                buckets[bisect_left(BOUNDS, value)] += 1
            found[service.name, route.name] = RouteTimes(count, float(drawn.mean()), BOUNDS, tuple(buckets))
    return found


def _pods(setup: Setup, streams: Streams) -> tuple[PodState, ...]:
    """Leaves at random points of their renewal cycles."""
    random = streams.random("cold leaves")
    settings = setup.identity
    life = settings.leaf_lifetime + settings.clock_skew
    period = min(max(life * RENEW_AT_SHARE, settings.min_refresh), settings.max_refresh)
    names = [(f"{s.name}-{i}", s.name) for s in setup.app.services if s.meshed for i in range(s.replicas)]
    names += [(f"{LOAD_SERVICE}-{i}", LOAD_SERVICE) for i in range(setup.load_pods)]
    found: list[PodState] = []
    for name, service in names:
        refreshed = EPOCH - random.random() * period
        found.append(PodState(name, service, refreshed + life, refreshed))
    return tuple(found)
