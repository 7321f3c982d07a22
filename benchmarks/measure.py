"""What one peer costs at one piece of work: several repetitions, each on freshly started processes.

The proxies (both of a chain) share one core; load generator, app and this program have another where there is one.
Repetitions go round the peers, so that a drift of the machine meets all of them alike. Added latency is taken at one
connection with everything on the proxies' core (a wake-up across cores would cost more than the proxy), and against
the app without a proxy right before.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.chain import Node, identity_service, write_credentials
from benchmarks.load import Load, run_load
from benchmarks.machine import Command, Running, Usage, core_busy_seconds, free_ports, started, total_usage
from benchmarks.peers import Peer

CONNECTIONS = 32
LOUD = 0.08
"""CPU that others took on the cores in use, in cores; a run with more of it is repeated."""
ATTEMPTS = 4
SETTLE_SECONDS = 0.5
"""Between listening and the look at idle memory."""


@dataclass(frozen=True, slots=True)
class Effort:
    saturated_seconds: float
    latency_seconds: float
    repetitions: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One repetition; microseconds, megabytes and shares of one."""

    cpu_us: float
    """Of all the peer's processes, for one request through all hops."""
    kernel_share: float
    requests_per_second: float
    core_share: float
    """How much of the core the peer used; under 0.9 the load generator or the app was the limit."""
    added_p50_us: float
    added_p99_us: float
    start_ms: float
    """From exec until it accepts; of the slower of two."""
    idle_mb: float
    loaded_mb: float
    foreign: float


@dataclass(frozen=True, slots=True)
class Watched:
    """One run of load."""

    foreign: float
    load: Load
    cpu: Usage
    """Of the proxies."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What runs while a peer is measured."""

    app: Running
    app_port: int
    proxies: list[Running]
    entry: int
    """Port of the first proxy."""


@dataclass(frozen=True, slots=True)
class Cores:
    proxy: int
    load: int

    @classmethod
    def here(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[-1])


def median(samples: list[Sample]) -> Sample:
    """Field by field; of the foreign share the worst."""
    middle = {f.name: statistics.median(getattr(s, f.name) for s in samples) for f in fields(Sample)}
    return Sample(**{**middle, "foreign": max(s.foreign for s in samples)})


def quietest(run: Callable[[], Watched]) -> Watched:
    """The first run that others left alone, else the least disturbed of `ATTEMPTS`."""
    best = run()
    for _ in range(ATTEMPTS - 1):
        if best.foreign <= LOUD:
            break
        best = min(best, run(), key=lambda watched: watched.foreign)
    return best


@contextlib.contextmanager
def chain(peer: Peer, hops: int, cores: Cores) -> Iterator[Chain]:
    """App and proxies, started; ended on the way out. Raises StartFailed."""
    with tempfile.TemporaryDirectory(prefix="gameday-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx's worker may be another user
        write_credentials(directory)
        app_port, a, b = free_ports(3)
        helpers = [Command([sys.executable, "-m", "benchmarks.app", str(app_port)], app_port)]
        if peer.needs_identity and hops == 2:
            helpers.append(identity_service(directory))
        with started(helpers, cores.load) as (app, *support):
            identity = helpers[1].port if support else 0
            if hops == 1:
                nodes = [Node("a", a, app_port, False, False, directory)]
            else:
                nodes = [
                    Node("b", b, app_port, True, False, directory, identity),
                    Node("a", a, b, False, True, directory, identity),
                ]
            with started([peer.command(node) for node in nodes], cores.proxy) as proxies:
                yield Chain(app, app_port, proxies, a)


def measure(peer: Peer, hops: int, effort: Effort, cores: Cores) -> Sample:
    """Raises StartFailed, LoadFailed."""
    with chain(peer, hops, cores) as running:
        return _measure_running(running, effort, cores)


def _measure_running(running: Chain, effort: Effort, cores: Cores) -> Sample:
    app, proxies, port = running.app, running.proxies, running.entry
    time.sleep(SETTLE_SECONDS)
    idle = sum(proxy.rss_bytes() for proxy in proxies)
    run_load(port, CONNECTIONS, 1.0, cores.load)
    used = {cores.proxy, cores.load}
    full = quietest(lambda: _watch(proxies, app, used, port, CONNECTIONS, effort.saturated_seconds, cores.load))
    app.pin(cores.proxy)

    def alone(to: int) -> Watched:
        return _watch(proxies, app, {cores.proxy}, to, 1, effort.latency_seconds, cores.proxy)

    direct, through = quietest(lambda: alone(running.app_port)), quietest(lambda: alone(port))
    return Sample(
        cpu_us=full.cpu.total / full.load.requests * 1e6,
        kernel_share=full.cpu.kernel / max(full.cpu.user + full.cpu.kernel, 1e-9),
        requests_per_second=full.load.requests / full.load.seconds,
        core_share=full.cpu.total / full.load.seconds,
        added_p50_us=through.load.p50_us - direct.load.p50_us,
        added_p99_us=through.load.p99_us - direct.load.p99_us,
        start_ms=max(proxy.start_seconds for proxy in proxies) * 1e3,
        idle_mb=idle / 1e6,
        loaded_mb=sum(proxy.rss_bytes() for proxy in proxies) / 1e6,
        foreign=max(full.foreign, direct.foreign, through.foreign),
    )


def _watch(
    proxies: list[Running], app: Running, used: set[int], port: int, connections: int, seconds: float, load_core: int
) -> Watched:
    """One run of load, and what it cost the proxies and others on the cores in use."""

    def look() -> tuple[float, float, Usage, float]:
        cpu, app_cpu = total_usage(proxies), app.usage().total
        return time.perf_counter(), sum(map(core_busy_seconds, used)), cpu, cpu.total + app_cpu + time.process_time()

    began, busy_before, before, known_before = look()
    load = run_load(port, connections, seconds, load_core)
    ended, busy, after, known = look()
    foreign = (busy - busy_before) - (known - known_before) - load.cpu_seconds
    return Watched(max(0.0, foreign) / (ended - began), load, after - before)
