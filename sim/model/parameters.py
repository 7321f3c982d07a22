"""What the model needs to know beside policy: one draw from what the baseline left uncertain. Seconds throughout."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sim.model.distributions import Distribution, LogNormal

RouteKey = tuple[str, str]
"""(service, route name): `("payment", "POST /charge")`."""


def kind_of(process: str) -> str:
    """app, proxy or control, of `cart/app`, `cart/proxy` or `control/policy`."""
    owner, _, role = process.partition("/")
    return owner if owner == "control" else role


@dataclass(frozen=True, slots=True)
class Delays:
    """How long things take that a healthy baseline does not show. Each is drawn anew for every replication.

    Defaults: seen on the embedded world (2-core Linux VM); kept wide, since no window before the fault can tell.
    """

    injection: float = 0.02
    """From the planned moment until the fault has bitten."""
    kill: float = 0.0
    """From the order to kill a pod or a component until it is dead: none for a signal, half a second for a kubelet."""
    reversion: float = 0.03
    """The same for its end."""
    control_start: float = 0.1
    """From the order to start a control-plane process until it is seen to answer, beside the work of starting."""
    control_work: float = 0.41
    app_work: float = 0.3
    proxy_work: float = 0.42
    """CPU seconds until a component of the control plane, an app and a proxy serve, on the cores that all share; for
    processes that the run did not see start (`Parameters.starts`). As counted on a 2-core VM, compiled or not
    (`sim.calibration.starts`). None where starts are only seen as a whole."""
    proxy_outlives: float = 0.0
    """From a killed pod's app until its proxy is dead as well, and answers 502 meanwhile: two signals, one after the
    other, to processes that share a core."""
    pod_restart: float = 0.6
    """From a pod's death until it is ready again, beside the work of starting: the supervisor's backoff of half a
    second, and until it has looked."""
    endpoint_update: float = 0.2
    """From a change of a pod's readiness until destination streams it: half of the supervisor's and of the registry's
    polling interval, and the way."""


DELAYS: dict[str, Delays] = {
    "local": Delays(proxy_outlives=0.02),
    # Seen on kind, 2 cores: a pod is scheduled, its init container runs, then proxy and app start one after the other.
    "kind": Delays(
        injection=0.06,
        kill=0.6,
        reversion=0.06,
        control_start=2.0,
        control_work=0.0,
        pod_restart=4.6,
        app_work=0.0,
        proxy_work=0.0,
        endpoint_update=0.3,
    ),
}
"""By world."""


@dataclass(frozen=True, slots=True)
class CpuCosts:
    """CPU seconds that a request costs each process that it passes, and the machine that they share."""

    cores: float
    background: float = 0.0
    """Cores that everything else on the machine uses."""
    proxy_inbound: float = 0.0
    """A request from a peer, at the proxy beside the app that serves it."""
    proxy_outbound: float = 0.0
    """A request of the app, at the proxy beside it."""
    app_serve: float = 0.0
    """A request, at the app; without what `work: cpu` burns."""
    app_call: float = 0.0
    """A call to another service, at the app that makes it."""
    client: float = 0.0
    """A request, at the load generator."""
    ahead: float = 1.0
    """Share of a request's cost that is spent before it goes on; the rest is in the way of those after it only."""

    def scaled(self, requests: float, background: float) -> CpuCosts:
        """Requests and background cost so many times as much."""
        return replace(
            self,
            background=self.background * background,
            proxy_inbound=self.proxy_inbound * requests,
            proxy_outbound=self.proxy_outbound * requests,
            app_serve=self.app_serve * requests,
            app_call=self.app_call * requests,
            client=self.client * requests,
        )

    @property
    def hop_seconds(self) -> float:
        """Of one hop, on all processes that it passes."""
        return self.proxy_inbound + self.proxy_outbound + self.app_serve + self.app_call


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of one replication."""

    times: dict[RouteKey, Distribution]
    """Self time of each route: no queueing, no calls to others."""
    overhead: Distribution
    """Per hop: both proxies, the app's server and the way between them."""
    client_overhead: Distribution
    """At the load generator, per request: its own client and the timing of the send."""
    rate: float
    """Journeys a second."""
    failure_share: float = 0.0
    """Requests that fail at the client for no modelled cause."""
    handshake: Distribution = field(default_factory=lambda: LogNormal(0.004, 0.3))
    """To open a connection between two proxies."""
    discovery: Distribution = field(default_factory=lambda: LogNormal(0.008, 0.4))
    """From a first request to a destination until its watches have answered."""
    delays: Delays = field(default_factory=Delays)
    workers: dict[str, int] = field(default_factory=dict)
    """By service, where an application is not ours and its file only guesses; else what the application file says."""
    dispersion: float = 1.0
    """Of the arrivals: variance over mean of counts in long intervals; 1 is Poisson."""
    bytes_sent: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Of an answer and of a call of each service; what it does not have is typical. Only throttled pods ask."""
    cpu: CpuCosts | None = None
    """None: nothing is known of it, and processes do not slow each other down."""
    starts: dict[str, float] = field(default_factory=dict)
    """CPU seconds until a process serves, by `cart/app`, `cart/proxy`, `control/policy`; others take what is typical
    (`delays`)."""

    def start_work(self, process: str) -> float:
        """CPU seconds until a process serves: `cart/app`, `cart/proxy` or `control/policy`."""
        told = self.starts.get(process)
        if told is not None:
            return told
        delays = self.delays
        typical = {"app": delays.app_work, "proxy": delays.proxy_work, "control": delays.control_work}
        return typical[kind_of(process)]
