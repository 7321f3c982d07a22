"""What this proxy knows of the destinations it was asked for, fed by two watches for each.

    authority ──► DiscoveryCache ──► Entry: Destination (mesh.behavior) + driver + watches + requests that wait

An entry is asked for when a request first names it, held while requests use it, and forgotten with its watches when it
idled out. While the control plane is away, entries keep what they last heard; a new one stays empty, and requests for
it are answered 504 after `DISCOVERY_TIMEOUT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import re
from random import Random
from time import monotonic

from mesh.api.messages import Endpoint, Endpoints, OutboundPolicy, Profile, WatchMessage
from mesh.behavior.backend import BackendSettings, EndpointState, Multiplex
from mesh.behavior.cache import DISCOVERY_TIMEOUT_SECONDS, DiscoveryCache
from mesh.behavior.destination import Destination
from mesh.behavior.outcome import Cause
from mesh.behavior.routes import Route, Router
from mesh.proxy.client import ClientConnection
from mesh.proxy.config import Config
from mesh.proxy.control import ControlClient
from mesh.proxy.driver import BackendDriver, Credentials
from mesh.proxy.request import Request
from mesh.proxy.telemetry import EndpointSeries, OutboundTelemetry, RouteSeries
from mesh.proxy.wire.errors import AnyCause

AUTHORITY = re.compile(r"[a-z0-9._-]+:[0-9]{1,5}|\[[0-9a-f:.]+\]:[0-9]{1,5}")
"""What may stand in a watch's path."""


def service_of(authority: str) -> tuple[str, str]:
    """(service, namespace) in `svc.ns.svc.cluster.local:port`; empty where it has another shape."""
    parts = authority.rpartition(":")[0].split(".")
    return (parts[0], parts[1]) if len(parts) >= 3 and parts[2] == "svc" else ("", "")


class Entry:
    """One destination. A request's `Target`."""

    series: EndpointSeries | None = None

    def __init__(self, discovery: Discovery, authority: str) -> None:
        self._discovery = discovery
        self.authority = authority
        self.service, self.namespace = service_of(authority)
        self.driver = BackendDriver(
            discovery.loop,
            discovery.telemetry,
            discovery.credentials,
            connect_timeout=discovery.config.outbound_connect_timeout,
            bind_ip=discovery.config.bind_ip,
            series=self._endpoint_series,
        )
        settings = BackendSettings(multiplex=Multiplex.NEVER, pool_idle_seconds=discovery.config.pool_idle)
        self.destination: Destination[Request, ClientConnection] = Destination(
            authority, settings, self.driver, discovery.rng
        )
        self.watches: list[asyncio.Task[None]] = []
        self.waiting: dict[Request, asyncio.TimerHandle] = {}
        self._router: Router | None = None
        self._routes: dict[str, RouteSeries] = {}

    # ---- Target

    def match(self, method: str, path: bytes) -> Route:
        assert self._router is not None
        return self._router.match(method, path.decode("latin-1"))

    def answered(self, request: Request, status: int, cause: AnyCause | None) -> None:
        exchange = request.exchange
        assert exchange is not None
        route = exchange.route
        series = self._routes.get(route.name)
        if series is None:
            series = self._routes[route.name] = self._route_series(route)
        series.answered(route, status, cause, exchange.attempts, exchange.retries_granted, exchange.retry_denied)

    def release(self) -> None:
        self._discovery.cache.release(self.authority, monotonic())

    # ---- discovery

    @property
    def usable(self) -> bool:
        return self._router is not None

    def apply(self, message: WatchMessage) -> None:
        destination = self.destination
        destination.apply(monotonic(), message)
        backend = destination.backend
        if backend is not None and self.driver.backend is None:
            self.driver.attach(backend)
        if destination.router is not self._router and destination.usable:
            self._router = destination.router
            self._routes.clear()
        if self.driver.backend is not None:
            self.driver.arm()
        if self.waiting and (self.usable or destination.not_found):
            waiting, self.waiting = self.waiting, {}
            for request, timer in waiting.items():
                timer.cancel()
                self._discovery.ready(request, self)

    def wait(self, request: Request) -> None:
        loop = self._discovery.loop
        self.waiting[request] = loop.call_later(DISCOVERY_TIMEOUT_SECONDS, self._give_up, request)

    def stop_waiting(self, request: Request) -> bool:
        """False where the request was not waiting."""
        timer = self.waiting.pop(request, None)
        if timer is None:
            return False
        timer.cancel()
        self.release()
        return True

    def _give_up(self, request: Request) -> None:
        self.waiting.pop(request)
        self.release()
        request.fail(Cause.DISCOVERY_TIMEOUT)

    def stop(self) -> None:
        for task in self.watches:
            task.cancel()
        self.driver.shut_down()

    # ---- metrics

    def _endpoint_series(self, endpoint: EndpointState[Request, ClientConnection]) -> EndpointSeries:
        identity = endpoint.spec.identity
        telemetry = self._discovery.telemetry
        return telemetry.endpoint(
            {
                "direction": "outbound",
                "authority": self.authority,
                "tls": telemetry.tls_label(identity is not None),
                "target_addr": endpoint.spec.address,
                "dst_service": self.service,
                "dst_namespace": self.namespace,
                "dst_pod": endpoint.spec.pod,
                "server_id": identity or "",
            }
        )

    def _route_series(self, route: Route) -> RouteSeries:
        labels = {"parent_name": self.service or self.authority, "parent_namespace": self.namespace}
        labels["route_name"] = route.name
        assert self._router is not None
        profile = {"direction": "outbound", "dst": self.authority, "rt_route": route.name}
        return self._discovery.telemetry.route(labels, profile if self._router.from_profile else None)


class Discovery:
    """All entries of one proxy."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        telemetry: OutboundTelemetry,
        credentials: Credentials,
        destination: ControlClient | None,
        policy: ControlClient | None,
    ) -> None:
        self.config = config
        self.loop = loop
        self.rng = rng
        self.telemetry = telemetry
        self.credentials = credentials
        self._destination = destination
        self._policy = policy
        self.cache: DiscoveryCache[Entry] = DiscoveryCache(config.outbound_discovery_idle, self._evicted)
        self._expiry: asyncio.TimerHandle | None = None
        self.evictions = telemetry.registry.counters(
            "outbound_discovery_cache_evictions_total", "Destinations forgotten because nobody used them."
        ).counter()
        for authority, endpoints in (config.static_endpoints or {}).items():
            self._add_static(authority, endpoints)

    def find(self, request: Request, authority: str) -> None:
        """Sends the request on when its destination is known, now or within the discovery timeout."""
        entry = self.cache.get(authority)
        if entry is None:
            if self._destination is None or self._policy is None or AUTHORITY.fullmatch(authority) is None:
                request.fail(Cause.UNKNOWN_DESTINATION)
                return
            entry = self._add(authority)
        self.cache.hold(authority, monotonic())
        if entry.usable or entry.destination.not_found:
            self.ready(request, entry)
        else:
            entry.wait(request)

    def ready(self, request: Request, entry: Entry) -> None:
        """The entry knows what to do with a request (which holds it)."""
        if entry.destination.not_found:
            entry.release()
            request.fail(Cause.UNKNOWN_DESTINATION)
        else:
            request.proceed(entry, entry.authority.encode())

    def forgive(self) -> None:
        """Our certificate is new: endpoints that refused the old one get another try at once."""
        for _, entry in self.cache:
            if entry.destination.backend is not None:
                entry.destination.backend.forgive(monotonic())
                entry.driver.arm()

    def stop(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        for _, entry in self.cache:
            entry.stop()

    def _add(self, authority: str) -> Entry:
        assert self._destination is not None
        assert self._policy is not None
        entry = Entry(self, authority)
        self.cache.put(authority, entry, monotonic())
        entry.watches = [
            self.loop.create_task(self._destination.watch(f"/v1/destinations/{authority}", entry.apply)),
            self.loop.create_task(self._policy.watch(f"/v1/outbound/{authority}", entry.apply)),
        ]
        if self._expiry is None:
            self._expire()
        return entry

    def _add_static(self, authority: str, endpoints: tuple[str, ...]) -> None:
        """Endpoints that no control plane names: `ip:port`, or `ip:port=identity` where it is meshed. Held for ever."""
        entry = Entry(self, authority)
        now = monotonic()
        self.cache.put(authority, entry, now)
        self.cache.hold(authority, now)
        parsed = []
        for endpoint in endpoints:
            address, _, identity = endpoint.partition("=")
            parsed.append(Endpoint(address=address, pod=address, namespace="", identity=identity or None))
        entry.apply(Profile(version=0, published_at=0.0, authority=authority, exists=False))
        entry.apply(OutboundPolicy(version=0, published_at=0.0, authority=authority, exists=False))
        entry.apply(Endpoints(version=0, published_at=0.0, endpoints=tuple(parsed)))

    def _expire(self) -> None:
        """Looks for entries that idled out, and again when the next one may (a held one: a whole idle time later)."""
        now = monotonic()
        due = self.cache.expire(now)
        latest = now + self.config.outbound_discovery_idle
        self._expiry = None
        if len(self.cache):
            wake = min(due, latest) if due is not None else latest
            self._expiry = self.loop.call_later(wake - now, self._expire)

    def _evicted(self, authority: str, entry: Entry) -> None:
        self.evictions.value += 1
        entry.stop()
