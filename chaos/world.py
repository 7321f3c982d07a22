"""The world that a run broke out in, as world.json describes it: who is where, and whom to ask.

In an embedded world the supervisor writes it, and takes the faults' steps. On Kubernetes the runner writes it (again
whenever pods come and go), and steps go to the API server.

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
    deployment: str | None = None
    """On Kubernetes: the Deployment it is a container of."""
    replicas: int = 1
    """What that Deployment had before anything was done to it."""
    selector: str = ""
    """Label selector of its pods."""


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
    wire_admin: str | None = None
    """Of an embedded world's pod that a network-throttle will hit: its wire's."""
    pod: str | None = None
    """On Kubernetes: the pod's own name. `name` is the service and a number, in every world."""

    @property
    def kubernetes_name(self) -> str:
        return self.pod if self.pod is not None else self.name


class ClusterAddress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a run on Kubernetes finds things. Namespaces by what they are for."""

    access: str
    """Path of the access file, see `chaos.kube`."""
    mesh_namespace: str
    run_namespace: str
    """Holds the ledger's copy and the reaper."""
    agent: str
    """API path of the agent's HTTP server."""
    agent_image: str
    """For what has to run beside a pod."""


class WorldState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    run: str
    ready: bool
    runner: Named
    control: dict[str, ControlComponent]
    pods: tuple[PodAddress, ...]
    processes: dict[str, int]
    """Pid of each process that runs now; on Kubernetes there are none to tell."""
    supervisor: SupervisorAddress | None = None
    """Of an embedded world."""
    cluster: ClusterAddress | None = None
    """Of a world on Kubernetes."""
    blocked: tuple[str, ...] = ()
    """Services, or `control`, whose telemetry a fault keeps from being scraped."""

    def pods_of(self, service: str) -> tuple[PodAddress, ...]:
        return tuple(pod for pod in self.pods if pod.service == service)

    def supervisor_url(self, path: str) -> str:
        """For `chaos.requests`: the supervisor's API. Embedded worlds only."""
        assert self.supervisor is not None, "an embedded world has a supervisor"
        return f"unix:{self.supervisor.socket}:{path}"

    def kube_url(self, path: str) -> str:
        """For `chaos.requests`: the API server. Worlds on Kubernetes only."""
        assert self.cluster is not None, "a world on Kubernetes has a cluster"
        return f"kube:{self.cluster.access}:{path}"

    def blocks(self, process: str) -> bool:
        """Whether the telemetry of `cart-0/proxy` or `control/policy` is blocked."""
        pod, _, _ = process.partition("/")
        return bool(self.blocked) and bool({"all", pod, pod.rpartition("-")[0]} & set(self.blocked))


def read_world(run_dir: Path) -> WorldState:
    """Raises FileNotFoundError before the world is up, msgspec.DecodeError for a file that no supervisor wrote."""
    return msgspec.json.decode((run_dir / FILE).read_bytes(), type=WorldState)
