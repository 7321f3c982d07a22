"""How fast the twin is: hops a second on one core (a hop is one request handled by one service behind its two proxies).

    python -m benchmarks.twin [scenario ...]

Plays each scenario's inject and recover windows once to warm up and three times for the clock, in this process, with
declared service times. Prints the best of the three: what the machine can do when nothing else disturbs it.
"""

from __future__ import annotations

import sys
import time

from scenarios.catalogue import names
from scenarios.load import load_scenario
from sim.cold import TYPICAL_OVERHEAD
from sim.distributions import LogNormal
from sim.model.draws import Streams
from sim.model.system import System
from sim.parameters import Parameters
from sim.setup import Setup, read_setup

ROUNDS = 3


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


def main(arguments: list[str]) -> None:
    for name in arguments or names():
        hops, requests, events = throughput(read_setup(load_scenario(name)))
        print(f"{name:24} {hops:9,.0f} hops/s   {requests:8,.0f} requests/s   {events:9,.0f} calendar entries/s")


if __name__ == "__main__":
    main(sys.argv[1:])
