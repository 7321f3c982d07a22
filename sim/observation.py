"""What the twin may know before the fault: one baseline window, as plain data.

`gameday` fills it from the run store; tests fill it by hand. Times are Unix seconds, durations seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ClientSample:
    """One request at the client."""

    route: str
    """`POST storefront /checkout`."""
    intended_at: float
    latency: float | None
    """Seconds from the intended send; None where no answer came."""
    good: bool


@dataclass(frozen=True, slots=True)
class RouteTimes:
    """Service time of one route of one service, as the app counted: no queueing, no calls to others."""

    count: int
    mean: float
    bounds: tuple[float, ...] = ()
    """Upper bucket bounds, ascending, without +Inf."""
    buckets: tuple[int, ...] = ()
    """Counts, not cumulative, one more than bounds."""
    samples: tuple[float, ...] = ()
    """Each time by itself, where a source has them; the buckets are then not looked at."""


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One service over a few seconds, as its proxies counted."""

    service: str
    seconds: float
    requests: float
    mean_latency: float | None
    """Seconds; None: nothing was answered."""


@dataclass(frozen=True, slots=True)
class PodState:
    """One meshed pod at the end of the baseline. The control plane's components count too, as `linkerd-destination`."""

    name: str
    service: str
    leaf_expires_at: float
    leaf_refreshed_at: float


@dataclass(frozen=True, slots=True)
class ProcessCpu:
    """One process during the window."""

    name: str
    kind: Literal["proxy", "app", "client", "other"]
    seconds: float
    """CPU time."""
    inbound: float = 0.0
    """Requests to it: from peers at a proxy, served at an app."""
    outbound: float = 0.0
    """Requests of the app beside it; of the load generator at a client."""
    burns: bool = False
    """An app whose self times are CPU time, or whose ways are not known (`command`)."""


@dataclass(frozen=True, slots=True)
class CpuWindow:
    """CPU time of the window."""

    cores: float
    seconds: float
    """Length of the window."""
    processes: tuple[ProcessCpu, ...]
    machine_seconds: float | None = None
    """Of everything on the machine, idle and waiting for disks apart; None: the world does not count it."""


@dataclass(frozen=True, slots=True)
class Observation:
    """The baseline window and the state at its end."""

    started_at: float
    ended_at: float
    requests: tuple[ClientSample, ...]
    route_times: dict[tuple[str, str], RouteTimes]
    """By (service, route name): `("payment", "POST /charge")`."""
    attempts: dict[str, float]
    """attempts_per_request of each service."""
    pods: tuple[PodState, ...]
    load_pods: int = 1
    """How many client proxies the load enters through."""
    proxy_latency: dict[str, RouteTimes] = field(default_factory=dict)
    """Inbound `response_latency_ms` of each service (all routes), for apps that count nothing themselves."""
    cpu: CpuWindow | None = None
    """None: nothing is known of who used the CPU."""
    bytes_sent: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Mean bytes of an answer and of a call of each service, as its proxy wrote them, without TLS. Of a service that
    calls none the second is 0."""
    world: str = "local"
    """Where it was seen; faults take their time there, and some reach further (`sim.model.setup.reached`)."""
    external: bool = False
    """An application that is not ours: what its file declares is a guess, and so is who sends its load."""
    inbound: dict[tuple[str, str], RouteTimes] = field(default_factory=dict)
    """Latency at the servers' proxies, calls to others included, by (service, route name); "" is all its routes."""
    outbound: dict[tuple[str, str], RouteTimes] = field(default_factory=dict)
    """The same at the clients' proxies, one count for each answer."""
    load_points: tuple[LoadPoint, ...] = ()
    """In order of time, service by service."""
    mesh: dict[str, float] = field(default_factory=dict)
    """M1-M5 over the window (`sim.replication.mesh_figures`), those that were counted; M3 is a number of handshakes."""
    starts: dict[str, float] = field(default_factory=dict)
    """CPU seconds from a process's birth until all was ready, the mean of its replicas, by `cart/app`, `cart/proxy` and
    `control/policy`; those that were seen."""
    answers: tuple[int, int] | None = None
    """(failed, all) answers of the services that clients enter at; of a source without single requests."""
