"""What one peer costs at one row's work: several repetitions, each on freshly started processes.

The proxies (both of a chain) share one core; load generator, app and this program have another where there is one.
Repetitions go round the peers, so that a drift of the machine meets all of them alike. Added latency is taken against
the app without a proxy right before: in closed-loop rows at one connection with everything on the proxies' core (a
wake-up across cores would cost more than the proxy), at a fixed rate under that rate.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.chain import NAMES, Node, Wire, write_credentials
from benchmarks.load import Load, LoadFailed
from benchmarks.machine import Running, Usage, core_busy_seconds, started, total_usage
from benchmarks.mesh import Mesh, Pod
from benchmarks.peers.peer import Peer
from benchmarks.ports import free_ports
from benchmarks.rows import Row
from benchmarks.scrape import Scraper, total

LOUD = 0.08
"""CPU that others took on the cores in use, in cores; a run with more of it is repeated, and discarded if it can be."""
ATTEMPTS = 4
SETTLE_SECONDS = 0.4
"""Between listening and the look at idle memory."""
WARMUP_SECONDS = 0.7


class NotThere(Exception):
    """The peer started, and does not do this work."""


@dataclass(frozen=True, slots=True)
class Effort:
    saturated_seconds: float
    latency_seconds: float
    repetitions: int
    until: float = float("inf")
    """`time.monotonic()` after which nothing is repeated for being disturbed."""


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
    authorized: float = 0.0
    """Requests or connections that the AuthorizationPolicy let in, as ours counts them: the policy was at work."""


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
    others: list[Running]
    """App and control plane."""
    entry: int
    """Port of the first proxy."""
    scraper: Scraper | None = None
    """Of ours."""


@dataclass(frozen=True, slots=True)
class Cores:
    proxy: int
    load: int

    @classmethod
    def here(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[-1])


def median(samples: list[Sample]) -> Sample:
    """Field by field, over the quiet samples if there is one; of the foreign share the worst that was used."""
    used = [sample for sample in samples if sample.foreign <= LOUD] or samples
    middle = {f.name: statistics.median(getattr(s, f.name) for s in used) for f in fields(Sample)}
    return Sample(**{**middle, "foreign": max(s.foreign for s in used)})


def quietest(run: Callable[[], Watched], until: float = float("inf")) -> Watched:
    """The first run that others left alone, else the least disturbed of `ATTEMPTS`; none begins after `until`."""
    best = run()
    for _ in range(ATTEMPTS - 1):
        if best.foreign <= LOUD or time.monotonic() > until:
            break
        best = min(best, run(), key=lambda watched: watched.foreign)
    return best


@contextlib.contextmanager
def chain(peer: Peer, row: Row, cores: Cores) -> Iterator[Chain]:
    """App, control plane and proxies, started; ended on the way out. Raises StartFailed, NoGenerator."""
    with tempfile.TemporaryDirectory(prefix="gameday-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx's worker may be another user
        write_credentials(directory)
        app_port, a, b, *admins = free_ports(5)
        helpers, mesh = [row.app(app_port)], None
        if peer.in_mesh:
            mesh = Mesh(directory)
            inbound = f"127.0.0.1:{b}" if row.hops == 2 else None
            protocol = "opaque" if row.wire is Wire.TCP else "unknown"
            mesh.write_service([Pod("app-0" if inbound else "", "127.0.0.1", app_port, inbound)], protocol=protocol)
            helpers.append(mesh.control())

        def node(place: str, listen: int, upstream: int, tls_in: bool, tls_out: bool) -> Node:
            admin = admins[list(NAMES).index(place)]
            return Node(place, listen, upstream, row.wire, tls_in, tls_out, directory, admin, mesh)

        if row.hops == 2:
            nodes = [node("b", b, app_port, True, False), node("a", a, b, False, True)]
        elif row.wire is Wire.TCP:
            nodes = [node("b", a, app_port, False, False)]
        else:
            nodes = [node("a", a, app_port, False, False)]
        with contextlib.ExitStack() as stack:
            others = stack.enter_context(started(helpers, cores.load))
            proxies = stack.enter_context(started([peer.command(each) for each in nodes], cores.proxy))
            scraper = stack.enter_context(Scraper([each.admin for each in nodes])) if peer.in_mesh else None
            yield Chain(others[0], app_port, proxies, others, a, scraper)


def measure(peer: Peer, row: Row, effort: Effort, cores: Cores) -> Sample:
    """Raises StartFailed, LoadFailed, NoGenerator, NotThere."""
    with chain(peer, row, cores) as running:
        time.sleep(SETTLE_SECONDS)
        idle = sum(proxy.rss_bytes() for proxy in running.proxies)
        try:
            row.load(running.entry, row.connections, WARMUP_SECONDS, cores.load)
        except LoadFailed as error:
            raise NotThere(str(error)) from None
        if row.fixed_rate:
            full, direct = _at_fixed_rate(running, row, effort, cores)
            through = full
        else:
            full, direct, through = _saturated(running, row, effort, cores)
        return Sample(
            cpu_us=full.cpu.total / full.load.requests * 1e6,
            kernel_share=full.cpu.kernel / max(full.cpu.user + full.cpu.kernel, 1e-9),
            requests_per_second=full.load.requests / full.load.seconds,
            core_share=full.cpu.total / full.load.seconds,
            added_p50_us=through.load.p50_us - direct.load.p50_us,
            added_p99_us=through.load.p99_us - direct.load.p99_us,
            start_ms=max(proxy.start_seconds for proxy in running.proxies) * 1e3,
            idle_mb=idle / 1e6,
            loaded_mb=sum(proxy.rss_bytes() for proxy in running.proxies) / 1e6,
            foreign=max(full.foreign, direct.foreign, through.foreign),
            authorized=_authorized(running.scraper),
        )


def _authorized(scraper: Scraper | None) -> float:
    texts = scraper.last.values() if scraper is not None else ()
    names = [f"inbound_{kind}_authz_allow_total" for kind in ("http", "tcp")]
    return sum(total(text, name, 'authz_kind="authorizationpolicy"') for text in texts for name in names)


def _at_fixed_rate(running: Chain, row: Row, effort: Effort, cores: Cores) -> tuple[Watched, Watched]:
    used = {cores.proxy, cores.load}

    def under_load(port: int) -> Watched:
        return _watch(running, row, used, port, row.connections, effort.saturated_seconds, cores.load)

    direct = quietest(lambda: under_load(running.app_port), effort.until)
    return quietest(lambda: under_load(running.entry), effort.until), direct


def _saturated(running: Chain, row: Row, effort: Effort, cores: Cores) -> tuple[Watched, Watched, Watched]:
    used, port = {cores.proxy, cores.load}, running.entry
    full = quietest(
        lambda: _watch(running, row, used, port, row.connections, effort.saturated_seconds, cores.load), effort.until
    )
    running.app.pin(cores.proxy)

    def alone(to: int) -> Watched:
        return _watch(running, row, {cores.proxy}, to, 1, effort.latency_seconds, cores.proxy)

    direct = quietest(lambda: alone(running.app_port), effort.until)
    return full, direct, quietest(lambda: alone(port), effort.until)


def _watch(
    running: Chain, row: Row, used: set[int], port: int, connections: int, seconds: float, load_core: int
) -> Watched:
    """One run of load, and what it cost the proxies and others on the cores in use."""

    def look() -> tuple[float, float, Usage, float]:
        cpu, known = total_usage(running.proxies), total_usage(running.others).total + time.process_time()
        return time.perf_counter(), sum(map(core_busy_seconds, used)), cpu, cpu.total + known

    began, busy_before, before, known_before = look()
    load = row.load(port, connections, seconds, load_core)
    ended, busy, after, known = look()
    foreign = (busy - busy_before) - (known - known_before) - load.cpu_seconds
    return Watched(max(0.0, foreign) / (ended - began), load, after - before)
