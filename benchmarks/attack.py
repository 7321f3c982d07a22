"""`python -m benchmarks.attack`: 10,000 adversarial connections, in batches, against both sides of a mesh that serves.

A well-behaved client goes on at a fixed rate before and during the attack. It must lose nothing, its p99 must stay near
what it was (attackers and proxies share two cores, so near is a multiple), and when the attackers have gone, memory and
open connections are back. Two waves: what the first leaves behind as heap, the second must not add to.
Exit code 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import uvloop

from benchmarks.adversaries import ADVERSARIES, attack
from benchmarks.goals import Finding, show
from benchmarks.load.steady import Tally
from benchmarks.machine import NotServing, raise_descriptor_limit
from benchmarks.scrape import scrape, total
from benchmarks.stalls import run_steady
from benchmarks.world import World, world

P99_FACTOR, P99_FLOOR_MS = 10.0, 100.0
"""Under attack p99 may be so much more than without, or this if that is more."""
LEFT_BEHIND_MB = 20.0
SECOND_WAVE_MB = 6.0
CONNECTIONS_LEFT = 20.0
"""Beyond those from before: the well-behaved client's, and idle ones between the proxies."""
SETTLE_SECONDS = 30.0
"""How long the proxy may take to notice that all have gone: its detection and head timeouts."""


@dataclass(frozen=True, slots=True)
class Effort:
    connections: int = 10_000
    """In each of two waves half of them."""
    batch: int = 250
    """At once."""
    rate: int = 200
    calm_seconds: float = 5.0


def findings(effort: Effort) -> Iterator[Finding]:
    with world() as running:
        calm = run_steady(running, effort.rate, effort.calm_seconds)
        before = {place: running.rss_mb(place) for place in "ab"}
        opened = {place: open_connections(running, place) for place in "ab"}
        yield Finding("without attack: requests lost", float(calm.lost), 0.0, "requests")
        after_wave: list[dict[str, float]] = []
        for wave in (1, 2):
            tally = under_attack(running, effort)
            remark = f"of {tally.sent:,}" + (f"; {tally.wrong}" if tally.wrong else "")
            yield Finding(f"wave {wave}: requests lost", float(tally.lost), 0.0, "requests", remark=remark)
            allowed = max(P99_FLOOR_MS, calm.p99_us / 1e3 * P99_FACTOR)
            remark = f"calm {calm.p99_us / 1e3:.1f} ms"
            yield Finding(f"wave {wave}: p99", tally.p99_us / 1e3, allowed, "ms", remark=remark)
            for place in "ab":
                left = connections_left(running, place, opened[place])
                yield Finding(f"wave {wave}: connections left at {place}", left, CONNECTIONS_LEFT, "connections")
            after_wave.append({place: running.rss_mb(place) for place in "ab"})
        for place in "ab":
            first, second = (seen[place] for seen in after_wave)
            yield Finding(f"memory left behind at {place}", first - before[place], LEFT_BEHIND_MB)
            yield Finding(f"memory added by the second wave at {place}", second - first, SECOND_WAVE_MB)


def under_attack(running: World, effort: Effort) -> Tally:
    """Half of the connections while the well-behaved client goes on in a thread's process until they are done."""
    seconds = wave_seconds(effort)
    tallies: list[Tally] = []
    client = threading.Thread(target=lambda: tallies.append(run_steady(running, effort.rate, seconds)))
    client.start()
    uvloop.run(send_wave(running, effort))
    client.join()
    if not tallies:
        raise NotServing("the well-behaved client itself failed")
    return tallies[0]


def wave_seconds(effort: Effort) -> float:
    """How long a wave takes, roughly: batches wait for their most patient adversary."""
    return max(2.0, effort.connections / 2 / effort.batch * 1.3)


async def send_wave(running: World, effort: Effort) -> None:
    """Every kind in turn, against the outbound side of a and the inbound side of b."""
    targets = itertools.cycle(itertools.product(ADVERSARIES, (running.outbound, running.inbound)))
    left = effort.connections // 2
    while left > 0:
        size = min(effort.batch, left)
        left -= size
        await asyncio.gather(*(attack(port, name) for name, port in itertools.islice(targets, size)))


def open_connections(running: World, place: str) -> float:
    return total(scrape(running.admins[place]), "tcp_open_connections")


def connections_left(running: World, place: str, before: float) -> float:
    """Connections more than before, once they are few or the time is up."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := open_connections(running, place) - before) > CONNECTIONS_LEFT and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Effort()
    parser.add_argument("--connections", type=int, default=usual.connections)
    parser.add_argument("--batch", type=int, default=usual.batch)
    arguments = parser.parse_args()
    raise_descriptor_limit()
    return show(findings(Effort(arguments.connections, arguments.batch)))


if __name__ == "__main__":
    sys.exit(main())
