"""What a scenario and its application say, once read and checked.

`scenarios.load` makes these from YAML and is the only place that does; everything after it (worlds, twin, load, chaos,
reports) reads these objects. Durations are seconds, rates are per second, shares are 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# ---- application ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """How long a route works, apart from its calls to others.

    `lognormal`: median and sigma of the log; `exponential`: mean = median / ln 2; `constant`: the median.
    """

    median_seconds: float
    sigma: float = 0.0
    kind: Literal["lognormal", "exponential", "constant"] = "lognormal"


@dataclass(frozen=True, slots=True)
class Call:
    """A call to another service's route: `checkout` → `POST payment /charge`."""

    service: str
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class AppRoute:
    """One route of a service. `calls` run one after another, each inner tuple's members in parallel."""

    method: str
    path: str
    service_time: ServiceTime
    calls: tuple[tuple[Call, ...], ...] = ()
    failure_rate: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class AppService:
    """One service: a deployment and its Kubernetes Service."""

    name: str
    namespace: str
    port: int
    replicas: int
    workers: int
    """Requests served at once by one replica; a worker is held until its request is answered, calls included."""
    queue: int
    """Requests that may wait for a worker in one replica, FIFO; the next one is answered 503."""
    work: Literal["wait", "cpu", "shared"]
    """How service time is spent: waiting, burning CPU for one request after another, or for all of them in turns."""
    routes: tuple[AppRoute, ...]
    command: tuple[str, ...] | None = None
    """A program of the user's that listens on `$PORT` (and `$HOST`), in place of the workload."""
    health_path: str | None = None
    """For a `command`: GET it for readiness; None: a TCP connect."""
    meshed: bool = True
    cancels: bool = False
    """Whether it stops working on a request whose client leaves, calls of its own included; else it finishes them."""

    @property
    def service_account(self) -> str:
        return self.name

    @property
    def host(self) -> str:
        """The name that callers use, without the port."""
        return f"{self.name}.{self.namespace}.svc.cluster.local"

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    def route(self, method: str, path: str) -> AppRoute | None:
        return next((r for r in self.routes if r.method == method and r.path == path), None)


@dataclass(frozen=True, slots=True)
class JourneyStep:
    service: str
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Journey:
    """What one arrival does: its steps in order, each sent when the one before was answered."""

    name: str
    share: float
    steps: tuple[JourneyStep, ...]


@dataclass(frozen=True, slots=True)
class Application:
    """A topology. Services in the order of the file; the call graph has no cycle."""

    name: str
    source: Path
    services: tuple[AppService, ...]
    journeys: tuple[Journey, ...]

    def service(self, name: str) -> AppService:
        """Raises KeyError for a name that is not there."""
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(name)


# ---- scenario ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Certificate lifetimes, scaled for the drill. Linkerd: 24 h, 20 s, 10 s, 24 h."""

    leaf_lifetime: float = 86_400.0
    clock_skew: float = 20.0
    min_refresh: float = 10.0
    max_refresh: float = 86_400.0


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """Open-loop load: Poisson arrivals of journeys at `rate` per second."""

    rate: float
    mix: dict[str, float]
    """Share of each journey; sums to 1."""
    max_in_flight: int
    """An arrival beyond this is dropped and counts as bad."""
    timeout: float
    """An answer later than this after the intended send counts as bad."""


@dataclass(frozen=True, slots=True)
class Phases:
    """Lengths of the timed phases, seconds. `seal` stands between baseline and inject and takes what it takes."""

    warmup: float
    baseline: float
    inject: float
    recover: float


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One entry of the fault timeline. `at` counts from the begin of the inject phase."""

    name: str
    kind: str
    at: float
    duration: float
    """After this the fault is reverted; it is also the base of its TTL."""
    targets: dict[str, str | int]
    """`component` (identity|destination|policy|all) or `service` and `replicas` (how many)."""
    parameters: dict[str, float | str]
    """`app-degrade`: errorRate, status, latencySeconds, freeze (1.0), route, each only where given; else empty."""
    line: int = 0

    @property
    def ttl(self) -> float:
        """Seconds after injection at which the reaper reverts it, whatever became of the runner."""
        return self.duration + 10.0


@dataclass(frozen=True, slots=True)
class SloSpec:
    """An objective over the requests of one journey step (or of all): the share that is good.

    A request is good when it was answered in time with a status below 500 and, with `threshold` set, within that many
    seconds of its intended send. Dropped and unanswered requests are bad.
    """

    name: str
    service: str | None
    method: str | None
    path: str | None
    objective: float
    threshold: float | None = None

    @property
    def route(self) -> str | None:
        """`POST storefront /checkout`, or None for all requests."""
        return f"{self.method} {self.service} {self.path}" if self.service is not None else None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the drill claims beforehand: `quantity` of `subject` over `phase` compares with `value`.

    Quantities: `success_rate`, `p50`, `p95`, `p99` (seconds), `attempts_per_request`, `budget_spent`,
    `handshake_failures`, `recovery_seconds`; subject is an SLO's name or a service's name.
    """

    text: str
    quantity: str
    subject: str | None
    phase: str
    op: Literal["<", "<=", ">", ">=", "=="]
    value: float


@dataclass(frozen=True, slots=True)
class AbortRule:
    """The guard stops the run when the burn rate of `slo` stays at or above `burn_rate` for `for_seconds`."""

    slo: str
    burn_rate: float
    for_seconds: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """One game day."""

    name: str
    title: str
    description: str
    source: Path
    app: Application
    resources: tuple[Path, ...]
    """Mesh manifests (ServiceProfile, HTTPRoute, Service annotations) of the chosen variant."""
    service_annotations: dict[str, dict[str, str]]
    """Annotations put on each service's generated Service resource, by service name."""
    identity: IdentitySettings
    load: LoadSpec
    phases: Phases
    faults: tuple[FaultSpec, ...]
    slos: tuple[SloSpec, ...]
    expectations: tuple[Expectation, ...]
    abort: tuple[AbortRule, ...]
    guide: tuple[str, ...] = ()
    """Failure modes and metrics of the guide that this scenario exercises: F3, M3, …"""
    actions: tuple[str, ...] = ()
    """What to do when this happens for real: the runbook's steps, printed in the report."""
    variant: str | None = None
    variants: dict[str, str] = field(default_factory=dict)
    """Name → description of each variant that can be chosen."""
