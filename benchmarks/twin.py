"""How fast the twin is: hops a second on one core (a hop is one request handled by one service behind its two proxies).

    python -m benchmarks.twin [scenario ...]
    python -m benchmarks.twin drill

Plays each scenario's inject and recover windows once to warm up and three times for the clock, in this process, with
declared service times. Prints the best of the three: what the machine can do when nothing else disturbs it. `drill`
is what a forecast costs while somebody waits for it: 200 replications of 150 s of retry-storm at 100 requests a second,
each with parameters of its own draw and all its quantities, on all cores. `make native` speeds up both.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import sim.model.agenda
from scenarios.catalogue import names
from scenarios.load import load_scenario
from sim.calibration.calibrate import calibrate
from sim.calibration.cold import TYPICAL_OVERHEAD, cold_observation
from sim.forecast.predict import make_task
from sim.model.distributions import LogNormal
from sim.model.draws import Streams
from sim.model.parameters import Parameters
from sim.model.setup import Setup, read_setup
from sim.model.system import System
from sim.replication.replicate import Players

ROUNDS = 3
DRILL_SECONDS = 150.0
DRILL_REQUESTS_PER_SECOND = 100.0
DRILL_REPLICATIONS = 200


def throughput(setup: Setup) -> tuple[float, float, float]:
    """(hops, journey requests, calendar entries) a second of CPU, best of the rounds."""
    parameters = Parameters(
        times={}, overhead=TYPICAL_OVERHEAD, client_overhead=LogNormal(0.0005, 0.3), rate=setup.load.rate
    )
    best = (0.0, 0.0, 0.0)
    for replication in range(ROUNDS + 1):
        began = time.process_time()
        record = System(setup, parameters, Streams(1, replication)).run()
        seconds = time.process_time() - began
        hops = sum(sum(by_second.values()) for by_second in record.reached.values())
        if replication:
            best = max(best, (hops / seconds, len(record.route) / seconds, record.events / seconds))
    return best


def drill(processes: int | None = None) -> str:
    """Plays the drill; one line on what it took."""
    scenario = load_scenario("retry-storm")
    steps = sum(scenario.load.mix.get(journey.name, 0.0) * len(journey.steps) for journey in scenario.app.journeys)
    load = replace(scenario.load, rate=DRILL_REQUESTS_PER_SECOND / steps * sum(scenario.load.mix.values()))
    recover = DRILL_SECONDS - scenario.phases.inject
    scenario = replace(scenario, load=load, phases=replace(scenario.phases, recover=recover))
    observation = cold_observation(scenario, 1)
    with Players(processes) as players:
        task = make_task(
            read_setup(scenario), calibrate(observation, scenario), observation, 1, observation.ended_at + 10.0, 1.0
        )
        players.play(iter([(task, -1)]), lambda started, _: started > 0)  # so that imports are not counted
        began = time.monotonic()
        jobs = ((task, replication) for replication in range(DRILL_REPLICATIONS))
        outcomes = players.play(jobs, lambda started, _: started >= DRILL_REPLICATIONS)
        seconds = time.monotonic() - began
    hops, requests = sum(o.hops for o in outcomes), sum(o.requests for o in outcomes)
    return (
        f"{len(outcomes)} replications of {DRILL_SECONDS:.0f} s, {requests:,} requests, {hops:,} hops:"
        f" {seconds:.1f} s on {players.processes} cores, {hops / seconds:,.0f} hops/s"
    )


def main(arguments: list[str]) -> None:
    print("interpreted" if str(sim.model.agenda.__file__).endswith(".py") else "compiled")
    if arguments == ["drill"]:
        print(drill())
        return
    for name in arguments or names():
        hops, requests, events = throughput(read_setup(load_scenario(name)))
        print(f"{name:24} {hops:9,.0f} hops/s   {requests:8,.0f} requests/s   {events:9,.0f} calendar entries/s")


if __name__ == "__main__":
    main(sys.argv[1:])
