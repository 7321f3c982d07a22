"""One destination as the outbound side uses it: what discovery said, its backends' sockets, the requests that wait.

    route ─► Router ─► filters (failure, redirect, rewrite, mirror) ─► Exchange ─► dispatch ─► a backend of the route
                 └─ none: 404                                                                    │
                                                     HTTP/1, HTTP/2 or TCP driver of this entry ◄┴─► of another entry

A backend that is another destination is an entry of its own in the discovery cache, held as long as a route of this one
names it. The class is whole because each message of discovery changes routes, drivers and who waits at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace as replace_fields

from mesh.api.messages import Endpoint, Endpoints, EndpointsChange, Profile, WatchMessage
from mesh.behavior.backend import BackendSettings, EndpointState, Multiplex
from mesh.behavior.cache import DISCOVERY_TIMEOUT_SECONDS
from mesh.behavior.destination import Destination
from mesh.behavior.filters import Filters
from mesh.behavior.outcome import Cause
from mesh.behavior.routes import NO_BACKEND, Route, Router
from mesh.proxy.client import Connection
from mesh.proxy.driver import BackendDriver
from mesh.proxy.outbound.tcp import TCP_SETTINGS, TcpDriver
from mesh.proxy.request import Request
from mesh.proxy.series import (
    BackendSeries,
    EndpointSeries,
    RouteSeries,
    backend_labels,
    parent_labels,
    route_labels,
    state_of,
)
from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.message import ResponseHead

if TYPE_CHECKING:
    from mesh.proxy.outbound.discovery import Discovery
    from mesh.proxy.series import BalancerSeries, BalancerState


def service_of(authority: str) -> tuple[str, str, int | None]:
    """(service, namespace, port) in `svc.ns.svc.cluster.local:port`; empty names where it has another shape."""
    host, _, port = authority.rpartition(":")
    number = int(port) if port.isdigit() else None
    parts = host.split(".")
    return (parts[0], parts[1], number) if len(parts) >= 3 and parts[2] == "svc" else ("", "", number)


class Entry:
    """One destination. A request's `Target`."""

    def __init__(self, discovery: Discovery, authority: str, key: str | None = None) -> None:
        self._discovery = discovery
        self.authority = authority
        self.key = key if key is not None else authority
        """In the discovery cache."""
        self.service, self.namespace, self.port = service_of(authority)
        self._http1 = self._make_driver()
        self._http2: BackendDriver | None = None
        self._tcp: TcpDriver | None = None
        self._settings = BackendSettings(multiplex=Multiplex.MESHED, pool_idle_seconds=discovery.config.pool_idle)
        self.destination: Destination[Any, Any] = Destination(authority, self._settings, self._http1, discovery.rng)
        """Its tickets and connections are those of the driver's protocol."""
        self.watches: list[asyncio.Task[None]] = []
        self.waiting: dict[object, _Waiting] = {}
        """Requests and opaque connections that came before it was known where they go."""
        self._router: Router | None = None
        self._routes: dict[int, _RouteUse] = {}
        """By the identity of the router's routes: hashing one for each request would cost more than matching it."""
        self._backends: dict[str, Entry] = {}
        """Other destinations that routes name."""
        self._labels = parent_labels(self.service or authority, self.namespace, self.port)
        self._balancer: BalancerSeries | None = None
        """Made when there is something to balance: names that nobody has leave no metrics behind."""

    # ---- requests

    def route(self, request: Request) -> None:
        """Sends a request, which holds this entry, on its way."""
        router, head = self._router, request.head
        assert router is not None
        route = router.only
        if route is None:
            path, authority = head.path.decode("latin-1"), head.authority.decode("latin-1")
            route = router.match(head.method, path, head.headers, authority)
            if route is None:
                self.release()
                request.fail(Refused.NO_ROUTE)
                return
        if route.filters is not None and self._filtered(request, route, route.filters):
            return
        request.proceed(self, route)

    def dispatch(self, request: Request) -> None:
        """The next try: at the backend that the route picks for it."""
        exchange = request.exchange
        assert exchange is not None
        route = exchange.route
        use = self._routes.get(id(route)) or self._use(route)
        entry = self
        if route.backends:
            picked = route.pick(self._discovery.rng)
            if picked.authority == NO_BACKEND:
                request.refused(Cause.NO_BACKEND)
                return
            if picked.authority is not None:
                entry = self._backends.get(picked.authority) or self._dropped(picked.authority)
            request.backend_filters = picked.filters
            if picked.filters is not None:
                self._rewrite(request, picked.filters)
        request.backend_series = use.backends.get(entry) or use.backend(entry)
        entry.send(request)

    def _dropped(self, authority: str) -> Entry:
        """A backend that routes named no longer when a request of such a route came to its next try."""
        entry = self._discovery.hold(authority)
        entry.release()
        return entry

    def send(self, request: Request) -> None:
        """Dispatches to this entry's own endpoints, as soon as they are known."""
        if self.usable:
            driver = request.driver = self._driver_for(request)
            driver.dispatch(request)
        elif self.destination.not_found:
            request.refused(Cause.NO_BACKEND)
        else:
            self._await(request, partial(self.send, request), partial(request.refused, Cause.DISCOVERY_TIMEOUT))

    def withdraw(self, request: Request) -> None:
        for entry in (self, *self._backends.values()):
            waiting = entry.waiting.pop(request, None)
            if waiting is not None:
                waiting.timer.cancel()

    # ---- opaque connections (`outbound.tcp.TcpEntry`)

    @property
    def protocol(self) -> str:
        return self.destination.protocol

    @property
    def egress(self) -> str:
        return self.destination.egress

    @property
    def tcp(self) -> TcpDriver:
        if self._tcp is None:
            self._tcp = self._discovery.tcp.driver(self.authority)
            self.destination.serve(monotonic(), self._tcp, TCP_SETTINGS)
            self._attach()
        return self._tcp

    def answered(self, request: Request) -> None:
        exchange = request.exchange
        if exchange is None:
            return
        route = exchange.route
        use = self._routes.get(id(route)) or self._use(route)
        use.series.answered(
            route,
            request.status,
            request.cause,
            exchange.attempts,
            exchange.retries_granted,
            exchange.retry_denied,
            seconds=monotonic() - request.started_at,
            grpc_status=request.grpc_status,
            failed=route.failed(request.status, request.grpc_status),
        )

    def release(self) -> None:
        self._discovery.cache.release(self.key, monotonic())

    # ---- filters

    def _filtered(self, request: Request, route: Route, filters: Filters) -> bool:
        """Applies a route's filters; True where the answer is already given."""
        head = request.head
        status = filters.failure(self._discovery.rng)
        if status is not None:
            request.answer(_bare(status), self)
            return True
        redirect = filters.redirect(head.scheme, request.wire_authority, head.path)
        if redirect is not None:
            answer = _bare(redirect[0])
            answer.headers.append((b"location", redirect[1]))
            request.answer(answer, self)
            return True
        self._rewrite(request, filters)
        for mirror in filters.mirrors:
            if mirror.percent >= 100.0 or self._discovery.rng.random() * 100.0 < mirror.percent:
                self._discovery.mirror(request, mirror.authority)
        return False

    def _rewrite(self, request: Request, filters: Filters) -> None:
        head = request.head
        head.path, head.authority, head.headers = filters.request(head.path, request.wire_authority, head.headers)

    # ---- discovery

    @property
    def usable(self) -> bool:
        return self._router is not None

    def apply(self, message: WatchMessage) -> None:
        """Takes in a message of one of the watches."""
        destination = self.destination
        if isinstance(message, Endpoints | EndpointsChange):
            message = self._without_self(message)
        elif isinstance(message, Profile) and message.authority not in (self.authority, ""):
            self._call(message.authority)
        before = len(destination.backend.endpoints) if destination.backend is not None else 0
        destination.apply(monotonic(), message)
        self._attach()
        if destination.backend is not None:
            change = len(destination.backend.endpoints) - before
            if self._balancer is None:
                labels = {**self._labels, **backend_labels(self.service or self.authority, self.namespace, self.port)}
                self._balancer = self._http1.balancer = self._discovery.telemetry.balancer(labels, self._state)
            self._balancer.updated(max(0, change), max(0, -change))
        if destination.router is not self._router and destination.usable:
            self._take_router(destination.router)
        if self.waiting and (self.usable or destination.not_found):
            waiting, self.waiting = self.waiting, {}
            for one in waiting.values():
                one.timer.cancel()
                one.go_on()

    def _without_self(self, message: Endpoints | EndpointsChange) -> WatchMessage:
        """Our own pod is reached in plaintext: what we send there stays in the pod and meets no proxy."""
        own = self._discovery.config.inbound_ips
        name = "endpoints" if isinstance(message, Endpoints) else "add"
        endpoints: tuple[Endpoint, ...] = getattr(message, name)
        if not any(_ip_of(endpoint) in own for endpoint in endpoints):
            return message
        told = tuple(replace_fields(e, identity=None) if _ip_of(e) in own else e for e in endpoints)
        return replace_fields(message, **{name: told})

    def _call(self, authority: str) -> None:
        """An address turned out to be a service's: its metrics are the service's from now on."""
        self.authority = authority
        self.service, self.namespace, self.port = service_of(authority)
        self._labels = parent_labels(self.service or authority, self.namespace, self.port)

    def forgive(self) -> None:
        """Our certificate is new: endpoints that refused the old one get another try at once."""
        for driver in (self._http1, self._http2, self._tcp):
            if driver is not None and driver.attached:
                driver.backend.forgive(monotonic())
                driver.arm()

    @property
    def known(self) -> bool:
        """Whether it is known where it is, or that it is nowhere."""
        return self.usable or self.destination.not_found

    def wait(self, who: object, go_on: Callable[[], None], give_up: Callable[[Cause], None]) -> None:
        """Holds a request or connection, which holds this entry, until it is known where and how to send it."""
        self._await(who, go_on, partial(self._give_up, give_up))

    def stop_waiting(self, who: object) -> bool:
        """False where it was not waiting."""
        waiting = self.waiting.pop(who, None)
        if waiting is None:
            return False
        waiting.timer.cancel()
        self.release()
        return True

    def stop(self) -> None:
        for task in self.watches:
            task.cancel()
        for entry in self._backends.values():
            entry.release()
        self._backends.clear()
        for driver in (self._http1, self._http2, self._tcp):
            if driver is not None:
                driver.shut_down()
        if self._balancer is not None:
            self._balancer.close()

    def _await(self, who: object, go_on: Callable[[], None], give_up: Callable[[], None]) -> None:
        timer = self._discovery.loop.call_later(DISCOVERY_TIMEOUT_SECONDS, self._time_out, who, give_up)
        self.waiting[who] = _Waiting(timer, go_on)

    def _time_out(self, who: object, give_up: Callable[[], None]) -> None:
        del self.waiting[who]
        give_up()

    def _give_up(self, give_up: Callable[[Cause], None]) -> None:
        self.release()
        give_up(Cause.DISCOVERY_TIMEOUT)

    def _take_router(self, router: Router | None) -> None:
        self._router = router
        self._routes.clear()
        wanted = self.destination.backend_authorities
        for authority in wanted.difference(self._backends):
            self._backends[authority] = self._discovery.hold(authority)
        for authority in self._backends.keys() - wanted:
            self._backends.pop(authority).release()

    # ---- drivers

    def _driver_for(self, request: Request) -> BackendDriver:
        if not request.head.http_2:
            return self._http1
        if self._http2 is None:
            driver = self._http2 = self._make_driver()
            driver.balancer = self._balancer
            self.destination.serve(monotonic(), driver, replace(self._settings, multiplex=Multiplex.ALWAYS))
            self._attach()
        return self._http2

    def _attach(self) -> None:
        """Gives the drivers the machines that discovery made for them."""
        pairs = ((Multiplex.MESHED, self._http1), (Multiplex.ALWAYS, self._http2), (Multiplex.NEVER, self._tcp))
        for multiplex, driver in pairs:
            backend = self.destination.backends.get(multiplex)
            if driver is not None and backend is not None:
                if not driver.attached:
                    driver.attach(backend)
                driver.arm()

    def _make_driver(self) -> BackendDriver:
        discovery = self._discovery
        return BackendDriver(
            discovery.loop,
            discovery.telemetry,
            discovery.credentials,
            connect_timeout=discovery.config.outbound_connect_timeout,
            bind_ip=discovery.config.bind_ip,
            series=self._endpoint_series,
        )

    # ---- metrics

    def _state(self) -> BalancerState | None:
        backend = self.destination.backend
        return state_of(backend, monotonic()) if backend is not None else None

    def _endpoint_series(self, endpoint: EndpointState[Request, Connection]) -> EndpointSeries:
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

    def _use(self, route: Route) -> _RouteUse:
        assert self._router is not None
        profile = {"direction": "outbound", "dst": self.authority, "rt_route": route.name}
        series = self._discovery.telemetry.route(
            {**self._labels, **route_labels(route.name, route.namespace)},
            profile if self._router.from_profile else None,
            grpc=route.is_grpc,
        )
        use = self._routes[id(route)] = _RouteUse(route, series)
        return use


@dataclass(frozen=True, slots=True)
class _Waiting:
    timer: asyncio.TimerHandle
    go_on: Callable[[], None]


class _RouteUse:
    """A route's metrics, those of its backends among them."""

    __slots__ = ("backends", "route", "series")

    def __init__(self, route: Route, series: RouteSeries) -> None:
        self.route = route  # keeps its id taken
        self.series = series
        self.backends: dict[Entry, BackendSeries] = {}

    def backend(self, entry: Entry) -> BackendSeries:
        labels = backend_labels(entry.service or entry.authority, entry.namespace, entry.port)
        series = self.backends[entry] = self.series.backend(labels)
        return series


def _ip_of(endpoint: Endpoint) -> str:
    return endpoint.address.rpartition(":")[0].strip("[]")


def _bare(status: int) -> ResponseHead:
    head = ResponseHead()
    head.status = status
    head.content_length = 0
    return head
