"""`python -m benchmarks.stalls`: the longest stall of the proxy's event loop while the mesh around it changes.

2,000 requests a second, 200 endpoints of which some come and go twice a second, a scrape each second, policies and
timeouts rewritten, certificates of a few seconds renewed; each change also alone, so that a stall has a name. Nothing
may be lost. Stalls are noted inside the proxy (`benchmarks/probe.py`); a time in which the core ran nobody, as a
witness beside it has seen (`benchmarks/witness.py`), is taken off and shown. Exit code 1 where a goal is missed.
`--stacks` shows where the loop was in each of the longest stalls.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.goals import Finding, show
from benchmarks.load.steady import LAST_ANSWERS_SECONDS, Tally, command
from benchmarks.machine import pinned, raise_descriptor_limit
from benchmarks.probe import Stall, stalls
from benchmarks.scrape import Scraper, scrape, total
from benchmarks.witness import Gap, away_ms, gaps, witness
from benchmarks.world import World, world

LONGEST_MS = 5.0
WAITED_MS = 1.0
"""Two requests arrive in it. After longer waits for a core a turn of the loop serves all that has arrived since: the
stall's work is the proxy's, its length the machine's, and both are shown."""
STALLS_SHOWN = 8
SHOWN_MS = 0.1
WITNESSED = "witnessed"
MOVED = 20
"""Endpoints that go, and as many new ones that come, with each change."""


@dataclass(frozen=True, slots=True)
class Effort:
    rate: int = 2_000
    replicas: int = 200
    seconds: float = 15.0
    """For each kind of change."""
    leaf_lifetime: str = "6s"
    """Renewed after 70 % of it, and not more often than `min_refresh`."""
    min_refresh: str = "2s"
    stacks: bool = False


def endpoints(running: World, effort: Effort) -> Iterator[float]:
    """Some go and others come; yields how long to wait before the next change."""
    for turn in itertools.count():
        running.mesh.write_endpoints(running.pods(effort.replicas, first=turn % 2 * MOVED))
        yield 0.5


def policies(running: World, effort: Effort) -> Iterator[float]:
    """Who may call, and how long a call may take; every version lets our client in."""
    for turn in itertools.count():
        running.mesh.write_policy(running.app_port, extra_identities=[f"other-{turn}.bench"])
        running.mesh.write_service(running.pods(effort.replicas + MOVED), request_timeout=f"{50 + turn % 10}s")
        yield 1.0


def nothing(running: World, effort: Effort) -> Iterator[float]:
    """First of all, with connections to every endpoint still to be made."""
    while True:
        yield 1.0


def certificates(running: World, effort: Effort) -> Iterator[float]:
    """Nothing to do: leaves are short-lived from the start."""
    while True:
        yield 1.0


def everything(running: World, effort: Effort) -> Iterator[float]:
    moves, changes = endpoints(running, effort), policies(running, effort)
    while True:
        next(changes)
        yield next(moves)


CHANGES: dict[str, Callable[[World, Effort], Iterator[float]]] = {
    "cold start": nothing,
    "certificate rotation": certificates,
    "endpoint churn": endpoints,
    "policy changes": policies,
    "all at once": everything,
}


def findings(effort: Effort, names: list[str] | None = None) -> Iterator[Finding]:
    """Of each kind of change: requests lost and the longest stall."""
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(
            world(
                replicas=effort.replicas,
                leaf_lifetime=effort.leaf_lifetime,
                min_refresh=effort.min_refresh,
                probed=True,
                stacks=effort.stacks,
            )
        )
        if not stack.enter_context(witness(running.cores.proxy, running.mesh.directory / WITNESSED)):
            print("no witness (needs CAP_SYS_NICE): what the machine did is in the stalls", file=sys.stderr)
        # Pods must be known before they are endpoints.
        running.mesh.write_service(running.pods(effort.replicas + MOVED))
        for name in names or list(CHANGES):
            yield from _under(running, effort, name)


def _under(running: World, effort: Effort, name: str) -> Iterator[Finding]:
    renewed = _renewals(running)
    began = time.monotonic()
    with Scraper(list(running.admins.values())) as scraper, _Changing(CHANGES[name](running, effort)) as changing:
        tally = run_steady(running, effort.rate, effort.seconds)
    ended = time.monotonic()
    remark = f"of {tally.sent:,}; {changing.count} changes, {_renewals(running) - renewed:.0f} renewals"
    remark += f", p99 {tally.p99_us / 1e3:.1f} ms"
    if tally.wrong:
        remark += f"; {tally.wrong}"
    yield Finding(f"{name}: requests lost", float(tally.lost), 0.0, "requests", remark=remark)
    yield Finding(f"{name}: scrapes lost", float(scraper.failed), 0.0, "scrapes")
    directory = running.mesh.directory
    noted = _without_the_machine(stalls(directory / "stalls", began, ended), gaps(directory / WITNESSED))
    yield _longest(f"{name}: longest stall", noted)
    unhindered = [each for each in noted if each.stall.waited_ms < WAITED_MS]
    yield _longest(f"{name}: longest after no wait for a core", unhindered)
    if effort.stacks:
        for each in noted[:STALLS_SHOWN]:
            print(f"{name}: {each}", file=sys.stderr)
            for stack, seen in each.stall.stacks.items():
                print(f"    {seen} × {stack}", file=sys.stderr)


@dataclass(frozen=True, slots=True)
class _Noted:
    stall: Stall
    away_ms: float
    """Of it, the core ran nobody."""

    @property
    def own_ms(self) -> float:
        return self.stall.ms - self.away_ms

    def __str__(self) -> str:
        stall = self.stall
        parts = [f"CPU {stall.cpu_ms:.1f}"]
        if stall.gc_ms >= SHOWN_MS:
            parts.append(f"{stall.gc_ms:.1f} collecting {stall.collections}")
        if self.away_ms >= SHOWN_MS:
            parts.append(f"and {self.away_ms:.1f} with the core away")
        if stall.waited_ms >= SHOWN_MS:
            parts.append(f"after {stall.waited_ms:.1f} without a core")
        return f"{self.own_ms:.1f} ({', '.join(parts)})"


def _without_the_machine(noted: list[Stall], away: list[Gap]) -> list[_Noted]:
    """Longest first. A time away in which the thread waited for a core was never in the stall: it stays out of this."""
    found = []
    for stall in noted:
        missing = away_ms(away, stall.at - (stall.ms + stall.waited_ms) / 1e3, stall.at)
        found.append(_Noted(stall, min(stall.ms, max(0.0, missing - stall.waited_ms))))
    return sorted(found, key=lambda each: -each.own_ms)


def _longest(what: str, noted: list[_Noted]) -> Finding:
    longest = max((each.own_ms for each in noted), default=0.0)
    return Finding(what, longest, LONGEST_MS, "ms", remark="; ".join(map(str, noted[:5])))


def run_steady(running: World, rate: float, seconds: float) -> Tally:
    """A client of its own process through the outbound proxy."""
    done = subprocess.run(
        command(running.outbound, rate, seconds),
        capture_output=True,
        text=True,
        timeout=seconds + LAST_ANSWERS_SECONDS + 30,
        check=True,
        preexec_fn=pinned(running.cores.load),
    )
    return Tally(**json.loads(done.stdout))


def _renewals(running: World) -> float:
    """Certificates that both proxies have got, by whichever name the metric has."""
    names = ("control_identity_cert_refreshes_total", "identity_cert_refresh_count")
    return sum(total(scrape(running.admins[place]), name) for place in "ab" for name in names)


class _Changing:
    """Makes the changes in a thread, as long as the context lasts."""

    def __init__(self, changes: Iterator[float]) -> None:
        self._changes = changes
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def __enter__(self) -> _Changing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        for pause in self._changes:
            self.count += 1
            if self._end.wait(pause):
                return


def main() -> int:
    usual = Effort()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stalls", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="for each kind of change")
    parser.add_argument("--stacks", action="store_true", help="where the loop was (disturbs it)")
    parser.add_argument("names", nargs="*", choices=[[], *CHANGES], metavar="change", help=", ".join(CHANGES))
    parser.add_argument("--rate", type=int, default=usual.rate)
    parser.add_argument("--replicas", type=int, default=usual.replicas)
    arguments = parser.parse_args()
    raise_descriptor_limit()
    return show(
        findings(
            Effort(arguments.rate, arguments.replicas, arguments.seconds, stacks=arguments.stacks), arguments.names
        )
    )


if __name__ == "__main__":
    sys.exit(main())
