"""`python -m benchmarks.memory`: how much memory our proxy takes, and that no client can make it take more.

Each check gets a freshly started mesh of two proxies, does what it does, and reads both proxies' RSS. "No growth" has a
few megabytes of leave: allocators keep what a peak needed. Exit code 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import uvloop

from benchmarks.clients import NoAnswer, fetch, open_connections, read_slowly, send_slowly_read
from benchmarks.goals import Finding, show
from benchmarks.load import AUTHORITY
from benchmarks.load.closed import closed
from benchmarks.machine import raise_descriptor_limit
from benchmarks.scrape import Scraper
from benchmarks.world import World, world

T = TypeVar("T")
NO_GROWTH_MB = 6.0
"""Leave of "no growth"."""
LOOKUP_KB, MOST_LOOKUPS_MB = 10.0, 25.0
"""What an authority may hold while it is looked up, and all of them together: lookups must be bounded, too."""
SERIES_GROWTH = 50.0
"""Lines that an exposition may gain over 10,000 distinct names: classes of answers, not names."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each; the tests use less than the bench."""

    idle_connections: int = 1_000
    body_bytes: int = 100_000_000
    stalled_seconds: float = 5.0
    distinct: int = 10_000
    authorities: int = 10_000
    concurrent: int = 1_000
    soak_seconds: float = 600.0


class Peaks:
    """The highest RSS of each proxy while something happens."""

    def __init__(self, running: World) -> None:
        self._world = running
        self.before = {place: running.rss_mb(place) for place in "ab"}
        self.peak = dict(self.before)

    async def during(self, work: Coroutine[None, None, T]) -> T:
        """Awaits `work`, looking ten times a second and once after it."""
        watching = asyncio.ensure_future(self._watch())
        try:
            return await work
        finally:
            watching.cancel()
            self._look()

    async def _watch(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(0.1)

    def _look(self) -> None:
        for place in "ab":
            self.peak[place] = max(self.peak[place], self._world.rss_mb(place))

    @property
    def growth(self) -> float:
        """Of the proxy that grew most."""
        return max(self.peak[place] - self.before[place] for place in "ab")


def idle(sizes: Sizes) -> Iterator[Finding]:
    """At rest, then with connections at rest that have each been used once."""
    with world() as running:
        time.sleep(2.0)
        for place, name in (("a", "outbound"), ("b", "inbound")):
            yield Finding(f"idle, {name} side", running.rss_mb(place), 40.0)

        async def hold(port: int, place: str, expected: int | None) -> float:
            before = running.rss_mb(place)
            connections = await open_connections(port, sizes.idle_connections, expected)
            await asyncio.sleep(1.0)
            after = running.rss_mb(place)
            for writer in connections:
                writer.close()
            return after - before

        what, allowed = f"{sizes.idle_connections:,} idle connections", 25.0 * sizes.idle_connections / 1_000
        yield Finding(f"{what}, outbound side", uvloop.run(hold(running.outbound, "a", 200)), allowed)
        # The policy turns these clients away, for they are not meshed; their connections stay.
        yield Finding(f"{what}, inbound side", uvloop.run(hold(running.inbound, "b", None)), allowed)


def slow_reader(sizes: Sizes) -> Iterator[Finding]:
    """A body that the client reads late, and one that the app reads late."""
    with world(app="patient") as running:
        tries = (("slow reader of", read_slowly), ("slow app behind an upload of", send_slowly_read))
        for what, work in tries:
            peaks = Peaks(running)
            uvloop.run(peaks.during(work(running.outbound, sizes.body_bytes, sizes.stalled_seconds)))
            yield Finding(f"{what} {sizes.body_bytes / 1e6:.0f} MB, growth", peaks.growth, NO_GROWTH_MB)


def distinct(sizes: Sizes) -> Iterator[Finding]:
    """Names that clients make up: paths, header values, authorities."""
    with world() as running:
        closed(running.outbound, 32, 2.0, running.cores.load)  # what ordinary load needs is no growth
        asks: dict[str, Callable[[int], tuple[str, dict[str, str]]]] = {
            "paths": lambda n: (f"/path-{n}/{n * 7919}", {}),
            "header values": lambda n: ("/", {"x-user": f"user-{n}", "traceparent": f"00-{n:032x}-{n:016x}-01"}),
        }
        for name, ask in asks.items():
            yield from _asked(running, f"{sizes.distinct:,} distinct {name}", sizes.distinct, ask, expected=200)


def authorities(sizes: Sizes) -> Iterator[Finding]:
    """Services that nobody has: each is looked up, and is forgotten again."""
    with world() as running:

        def stranger(n: int) -> tuple[str, dict[str, str]]:
            return "/", {"host": f"service-{n}.bench.svc.cluster.local:80"}

        what, allowed = (
            f"{sizes.authorities:,} distinct authorities",
            NO_GROWTH_MB + sizes.authorities * LOOKUP_KB / 1e3,
        )
        yield from _asked(running, what, sizes.authorities, stranger, None, min(allowed, MOST_LOOKUPS_MB))


def _asked(
    running: World,
    what: str,
    count: int,
    ask: Callable[[int], tuple[str, dict[str, str]]],
    expected: int | None,
    allowed: float = NO_GROWTH_MB,
) -> Iterator[Finding]:
    peaks, lines = Peaks(running), {place: running.series(place) for place in "ab"}

    asked = fetch(running.outbound, (ask(n) for n in range(count)), connections=50, expected=expected)
    uvloop.run(peaks.during(asked))
    yield Finding(f"{what}, growth", peaks.growth, allowed)
    gained = max(running.series(place) - lines[place] for place in "ab")
    yield Finding(f"{what}, lines of metrics gained", float(gained), SERIES_GROWTH, "lines")


def concurrent(sizes: Sizes) -> Iterator[Finding]:
    """Requests all under way at once: the app takes its time."""
    with world(app="patient") as running:
        peaks = Peaks(running)

        same = (("/wait/3", {"host": AUTHORITY}) for _ in range(sizes.concurrent))
        asked = fetch(running.outbound, same, connections=sizes.concurrent, expected=None)
        answered = uvloop.run(peaks.during(asked))[200]
        for place, name in (("a", "outbound"), ("b", "inbound")):
            yield Finding(f"{sizes.concurrent:,} concurrent requests, {name} side", peaks.peak[place], 150.0)
        yield Finding(
            "  of which answered with 200", float(answered), float(sizes.concurrent), "requests", at_least=True
        )


def soak(sizes: Sizes) -> Iterator[Finding]:
    """Saturating load and scrapes; the end against the first minute (of a short soak: its first tenth)."""
    with world() as running, Scraper(list(running.admins.values())):
        closed(running.outbound, 32, 2.0, running.cores.load)
        seen: dict[str, list[float]] = {"a": [], "b": []}
        began = time.monotonic()
        while time.monotonic() < began + sizes.soak_seconds:
            closed(running.outbound, 32, min(5.0, sizes.soak_seconds / 10), running.cores.load)
            for place in "ab":
                seen[place].append(running.rss_mb(place))
        for place, name in (("a", "outbound"), ("b", "inbound")):
            share = max(1, round(len(seen[place]) * min(1.0, max(0.1, 60.0 / sizes.soak_seconds))))
            first, last = statistics.median(seen[place][:share]), statistics.median(seen[place][-share:])
            what = f"soak of {sizes.soak_seconds / 60:.1f} min, {name} side, growth over its beginning"
            yield Finding(what, (last / first - 1) * 100, 5.0, "%", remark=f"{first:.1f} → {last:.1f} MB")


CHECKS: dict[str, Callable[[Sizes], Iterator[Finding]]] = {
    "idle": idle,
    "slow": slow_reader,
    "distinct": distinct,
    "authorities": authorities,
    "concurrent": concurrent,
    "soak": soak,
}


def findings(names: Iterable[str], sizes: Sizes) -> Iterator[Finding]:
    """Each check's, as they come. A check that could not be done is a goal missed. Raises StartFailed."""
    for name in names:
        try:
            yield from CHECKS[name](sizes)
        except NoAnswer as error:
            yield Finding(f"{name}: not there yet", 1.0, 0.0, "failures", remark=str(error))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--soak-minutes", type=float, default=10.0)
    parser.add_argument("--checks", default=",".join(CHECKS), metavar="a,b", help=",".join(CHECKS))
    arguments = parser.parse_args()
    names = arguments.checks.split(",")
    if unknown := [name for name in names if name not in CHECKS]:
        parser.error(f"no such check: {', '.join(unknown)}")
    raise_descriptor_limit()
    return show(findings(names, Sizes(soak_seconds=arguments.soak_minutes * 60)))


if __name__ == "__main__":
    sys.exit(main())
