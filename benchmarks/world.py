"""A small mesh of real processes for the harnesses that look at our proxy alone: memory, stalls, attacks.

    client ─► a (outbound) ═ mTLS ═► b (inbound) ─► app          control plane beside them

`a` has the first core for itself; b, app, control plane and load share the last, so that what is seen of a is a's.
All replicas are served by b: it listens on every address of 127.0.0.0/8, and each replica has one of its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chain import write_credentials
from benchmarks.load import AUTHORITY
from benchmarks.machine import Command, NotServing, Running, started
from benchmarks.measure import Cores
from benchmarks.mesh import Mesh, Pod
from benchmarks.ports import free_ports
from benchmarks.scrape import scrape

READY_SECONDS = 15.0
PROBED = "benchmarks.probe"
"""Runs the proxy with a probe of its event loop."""


@dataclass(frozen=True, slots=True)
class World:
    mesh: Mesh
    a: Running
    b: Running
    app_port: int
    outbound: int
    """Of a: what an app's requests enter."""
    inbound: int
    """Of b."""
    admins: dict[str, int]
    cores: Cores

    def pods(self, count: int, first: int = 0) -> list[Pod]:
        """So many replicas, each with an address of its own, all served by b."""
        numbers = range(first, first + count)
        addresses = [f"127.1.{number // 250}.{number % 250 + 1}" for number in numbers]
        return [
            Pod(f"app-{number}", address, self.app_port, f"{address}:{self.inbound}")
            for number, address in zip(numbers, addresses, strict=True)
        ]

    def rss_mb(self, place: str) -> float:
        return (self.a if place == "a" else self.b).rss_bytes() / 1e6

    def series(self, place: str) -> int:
        """Lines of its exposition."""
        return sum(not line.startswith("#") for line in scrape(self.admins[place]).splitlines())


@contextlib.contextmanager
def world(
    *,
    app: str = "small",
    replicas: int = 1,
    leaf_lifetime: str = "24h",
    min_refresh: str = "10s",
    probed: bool = False,
    stacks: bool = False,
) -> Iterator[World]:
    """Started and answering; ended on the way out. Raises StartFailed, NotServing."""
    cores = Cores.here()
    with tempfile.TemporaryDirectory(prefix="gameday-bench-") as name:
        directory = Path(name)
        write_credentials(directory)
        mesh = Mesh(directory, leaf_lifetime=leaf_lifetime, min_refresh=min_refresh)
        app_port, outbound, inbound, other_in, other_out, *admin = free_ports(7)
        admins = dict(zip("ab", admin, strict=True))
        programs = [
            mesh.control(),
            Command([sys.executable, "-m", "benchmarks.app", str(app_port), app], app_port),
            mesh.proxy("b", inbound=inbound, outbound=other_out, admin=admins["b"], app=app_port),
        ]
        module = PROBED if probed else "mesh.proxy"
        a = mesh.proxy("a", inbound=other_in, outbound=outbound, admin=admins["a"], app=app_port, module=module)
        a.environment["GAMEDAY_PROBE"] = str(directory / "stalls")
        if stacks:
            a.environment["GAMEDAY_PROBE_STACKS"] = "1"
        mesh.write_service([])
        with contextlib.ExitStack() as stack:
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores.load})  # this process leaves a's core alone
            _, _, b = stack.enter_context(started(programs, cores.load))
            (first,) = stack.enter_context(started([a], cores.proxy))
            running = World(mesh, first, b, app_port, outbound, inbound, admins, cores)
            mesh.write_service(running.pods(replicas))
            wait_until(lambda: answers(outbound), "the mesh never answered with 200")
            yield running


def answers(port: int, path: str = "/") -> bool:
    """Whether a request through the proxy at `port` gets 200."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": AUTHORITY})
    try:
        with urllib.request.urlopen(request, timeout=READY_SECONDS) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], complaint: str, seconds: float = READY_SECONDS) -> None:
    """Looks often. Raises NotServing with the complaint."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NotServing(complaint)
        time.sleep(0.05)
