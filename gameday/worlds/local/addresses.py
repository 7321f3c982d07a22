"""Addresses of one run: a /24 of 127.0.0.0/8 where the system has all of it (Linux), ports on 127.0.0.1 elsewhere.

A range is claimed by listening on its first address, a lock that the kernel keeps: two runs cannot hold the same one,
and a dead run holds none. The claim is made by the runner, before anything is started, and inherited by the supervisor.
`GAMEDAY_RANGE=127.44.7` asks for one range and no other, `GAMEDAY_RANGE=127.0.0.1` for ports on that one address.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from gameday.errors import BadInput

RANGE_VARIABLE = "GAMEDAY_RANGE"
CLAIM_PORT = 4199
ATTEMPTS = 64
CONTROL_PORTS = {"identity": 8080, "destination": 8086, "policy": 8090}
ADMIN_PORT = 9990
OUTBOUND_PORT, INBOUND_PORT, PROXY_ADMIN_PORT, WORKLOAD_ADMIN_PORT = 4140, 4143, 4191, 9999
BEHIND_WIRE_PORT, WIRE_ADMIN_PORT = 4144, 4192
FIRST_POD, MAX_PODS = 10, 240
PORTS_FROM, PORTS_PER_RUN, PORT_RANGES = 20_000, 840, 15
"""Below 32768, where Linux begins to give out ports of its own accord."""


@dataclass(frozen=True, slots=True)
class PodPorts:
    """Where the parts of one pod listen; `ip:port` each."""

    ip: str
    app: str
    inbound: str
    outbound: str
    proxy_admin: str
    workload_admin: str
    behind_wire: str
    """Where the inbound proxy listens while a wire (`gameday.worlds.local.wire`) listens in its place."""
    wire_admin: str


class AddressPlan(Protocol):
    """Gives out addresses; the same call gives the same answer."""

    label: str

    def control(self, component: str) -> tuple[str, str]:
        """Address and admin address of a control-plane component."""

    def pod(self, index: int, app_port: int) -> PodPorts: ...


class RangePlan:
    """Each pod has an ip of its own and the standard ports."""

    def __init__(self, prefix: str) -> None:
        self.label = prefix

    def control(self, component: str) -> tuple[str, str]:
        ip = f"{self.label}.{2 + list(CONTROL_PORTS).index(component)}"
        return f"{ip}:{CONTROL_PORTS[component]}", f"{ip}:{ADMIN_PORT}"

    def pod(self, index: int, app_port: int) -> PodPorts:
        if index >= MAX_PODS:
            raise BadInput(f"the app has more than {MAX_PODS} pods, which is what the local world has addresses for")
        ip = f"{self.label}.{FIRST_POD + index}"
        ports = (
            app_port,
            INBOUND_PORT,
            OUTBOUND_PORT,
            PROXY_ADMIN_PORT,
            WORKLOAD_ADMIN_PORT,
            BEHIND_WIRE_PORT,
            WIRE_ADMIN_PORT,
        )
        return PodPorts(ip, *(f"{ip}:{port}" for port in ports))


class PortPlan:
    """All on 127.0.0.1, told apart by ports."""

    def __init__(self, first: int) -> None:
        self._first = first
        self.label = f"127.0.0.1:{first}-{first + PORTS_PER_RUN - 1}"

    def control(self, component: str) -> tuple[str, str]:
        port = self._first + 1 + 2 * list(CONTROL_PORTS).index(component)
        return f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"

    def pod(self, index: int, app_port: int) -> PodPorts:
        first = self._first + 10 + 7 * index
        if first + 7 > self._first + PORTS_PER_RUN:
            raise BadInput(f"the app has more pods than {PORTS_PER_RUN} ports on 127.0.0.1 can serve")
        return PodPorts("127.0.0.1", *(f"127.0.0.1:{first + offset}" for offset in range(7)))


@dataclass(frozen=True, slots=True)
class Claim:
    """A plan, and the socket that keeps it ours while it is open."""

    plan: AddressPlan
    lock: socket.socket


def plan_of(label: str) -> AddressPlan:
    """The plan that calls itself `label`."""
    if label.startswith("127.0.0.1:"):
        return PortPlan(int(label.removeprefix("127.0.0.1:").partition("-")[0]))
    return RangePlan(label)


def has_whole_loopback() -> bool:
    """Whether 127.x.y.z can be bound without being configured first."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.83.1.1", 0))
        except OSError:
            return False
    return True


def claim(app_ports: Iterable[int]) -> Claim:
    """Claims a range that no other run holds and whose ports are free.

    Raises:
        BadInput: the range asked for is taken, all are, or a server holds a needed port on every address.
    """
    ports = {*app_ports, *CONTROL_PORTS.values(), ADMIN_PORT, OUTBOUND_PORT, INBOUND_PORT, PROXY_ADMIN_PORT}
    wanted = os.environ.get(RANGE_VARIABLE)
    if wanted == "127.0.0.1":
        return _claim_ports()
    if wanted:
        return _claim_wanted(wanted, ports)
    if not has_whole_loopback():
        return _claim_ports()
    for _ in range(ATTEMPTS):
        prefix = f"127.{random.randint(16, 250)}.{random.randint(0, 255)}"
        lock = _listen(f"{prefix}.1", CLAIM_PORT)
        if lock is not None:
            _check_free(prefix, ports, lock)
            return Claim(RangePlan(prefix), lock)
    raise BadInput(f"no free range in 127.0.0.0/8 after {ATTEMPTS} attempts; `gameday recover` ends left-over runs")


def _claim_wanted(prefix: str, ports: set[int]) -> Claim:
    parts = prefix.split(".")
    if len(parts) != 3 or parts[0] != "127" or not all(p.isascii() and p.isdigit() and int(p) < 256 for p in parts):
        raise BadInput(
            f"{RANGE_VARIABLE}={prefix}: write the first three numbers of a range in 127.0.0.0/8, as 127.44.7"
        )
    lock = _listen(f"{prefix}.1", CLAIM_PORT)
    if lock is None:
        raise BadInput(f"{RANGE_VARIABLE}={prefix}: another run holds this range; end it, or name another range")
    _check_free(prefix, ports, lock)
    return Claim(RangePlan(prefix), lock)


def _claim_ports() -> Claim:
    for index in range(PORT_RANGES):
        first = PORTS_FROM + index * PORTS_PER_RUN
        lock = _listen("127.0.0.1", first)
        if lock is None:
            continue
        if all(_is_free("127.0.0.1", port) for port in range(first + 1, first + PORTS_PER_RUN)):
            return Claim(PortPlan(first), lock)
        lock.close()
    raise BadInput(f"all {PORT_RANGES} port ranges on 127.0.0.1 are taken; `gameday recover` ends left-over runs")


def _check_free(prefix: str, ports: Iterable[int], lock: socket.socket) -> None:
    """A server on 0.0.0.0 holds its port on every address of the range too."""
    for port in sorted(ports):
        if not _is_free(f"{prefix}.254", port):
            lock.close()
            raise BadInput(
                f"port {port} is taken on all addresses by another program on this machine"
                f" (`ss -ltnp 'sport = :{port}'` shows it); stop it, or give the service another port in the app file"
            )


def _is_free(ip: str, port: int) -> bool:
    probe = _listen(ip, port)
    if probe is not None:
        probe.close()
    return probe is not None


def _listen(ip: str, port: int) -> socket.socket | None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ip, port))
        listener.listen(1)
    except OSError:
        listener.close()
        return None
    return listener
