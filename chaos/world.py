"""The world that a run broke out in, as its supervisor describes it in world.json: who is where, and whom to ask.

Faults need addresses, not ways of starting things; so this is all that `chaos` knows of a world.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

FILE = "world.json"


class Named(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A process by its pid and the mark of its start (see `chaos.processes`)."""

    pid: int
    start: str


class SupervisorAddress(Named, frozen=True, kw_only=True, rename="camel"):
    socket: str
    """Path of its unix socket."""


class ControlComponent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    address: str
    admin: str
    process: str


class PodAddress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All addresses are `ip:port`."""

    name: str
    service: str
    namespace: str
    ip: str
    app: str | None
    inbound: str
    outbound: str
    proxy_admin: str | None
    """None: the pod is not meshed."""
    workload_admin: str | None
    """None: the app is a program of the user's, which takes no faults."""
    processes: tuple[str, ...]


class WorldState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    run: str
    ready: bool
    supervisor: SupervisorAddress
    runner: Named
    control: dict[str, ControlComponent]
    pods: tuple[PodAddress, ...]
    processes: dict[str, int]
    """Pid of each process that runs now."""

    def pods_of(self, service: str) -> tuple[PodAddress, ...]:
        return tuple(pod for pod in self.pods if pod.service == service)

    def supervisor_url(self, path: str) -> str:
        """For `chaos.requests`: the supervisor's API."""
        return f"unix:{self.supervisor.socket}:{path}"


def read_world(run_dir: Path) -> WorldState:
    """Raises FileNotFoundError before the world is up, msgspec.DecodeError for a file that no supervisor wrote."""
    return msgspec.json.decode((run_dir / FILE).read_bytes(), type=WorldState)
