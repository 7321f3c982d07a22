"""Balancer, connection pools, queue and fail-fast gate of one destination, as one machine.

    dispatch ─► gate shut? ─► 503 load-shed
                   │ open
                   ▼
             a ready endpoint? ── no ─► queue (full: 503) ── unready for 3 s ─► all 504 fail-fast, gate shuts
                   │ yes: two at random, the cheaper by peak-EWMA
                   ▼
             idle connection? ── no ─► connect ── fails ─► endpoint backs off; the request goes back to the queue
                   │ yes                                   (a plaintext endpoint: 502, as Linkerd's HTTP/1 client)
                   ▼
                 send

Two kinds of endpoint. A multiplexed one (HTTP/2: every meshed endpoint, since proxies speak it among themselves) has
one shared connection that carries as many requests as its peer allows, and lives as long as the endpoint is known. An
exclusive one (HTTP/1 to an un-meshed endpoint, opaque TCP to any) has a pool of connections that serve one request at a
time and idle out. A shared connection that is yet to be opened is nobody's burden while another endpoint is connected:
being chosen opens it, and the request goes elsewhere. Linkerd, too, balances among connected endpoints only; it
connects to all of them beforehand.

An endpoint is ready when its breaker admits a request and it has room on a connection or may open one. After a failed
connect it may not until its backoff is over; then one probe connection is opened without a request behind it, so
that an endpoint whose handshakes fail costs requests nothing while its established connections go on serving. The gate
opens again as soon as any endpoint is ready.

The machine does no I/O. It calls a `Driver` to connect, send and refuse, and is told what came of it. The proxy's
driver has sockets, the twin's has SimPy events. All pools live here because readiness, and so balancing, depends on
them.

Rejected: one pool task per endpoint (a task switch for each request), and treating a failed connect to a meshed
endpoint as a failed request (another endpoint, or the same a moment later, can serve it; Linkerd's stay queued, too).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import Enum
from random import Random
from typing import Generic, Protocol, TypeVar

from mesh.api.messages import Endpoint, FailureAccrualSpec, LoadBiasSpec, QueueSpec
from mesh.behavior.accrual import FailureAccrual, State
from mesh.behavior.backoff import Backoff
from mesh.behavior.ewma import PeakEwma, biased
from mesh.behavior.outcome import Cause

DEFAULT_QUEUE = QueueSpec()
UNLIMITED = 1 << 31
NEVER = math.inf

T = TypeVar("T")
"""A ticket: the driver's name for a request that waits to be sent. Compared by identity."""
C = TypeVar("C")
"""A connection, as the driver knows it. Compared by identity."""


class Multiplex(Enum):
    """Which endpoints of a backend share one connection among requests."""

    NEVER = "never"
    """Opaque TCP: each client connection needs one of its own."""
    MESHED = "meshed"
    """HTTP/1 requests: over HTTP/2 to a meshed endpoint, over HTTP/1 to any other."""
    ALWAYS = "always"
    """HTTP/2 requests."""


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """Seconds, unless the name says otherwise."""

    multiplex: Multiplex = Multiplex.MESHED

    queue: QueueSpec = DEFAULT_QUEUE
    accrual: FailureAccrualSpec | None = None
    load_bias: LoadBiasSpec | None = None
    pool_idle_seconds: float = 3.0
    """linkerd2-proxy's HTTP/1 pool idle timeout."""
    pool_max_idle: int = 10_000
    backoff_min_seconds: float = 0.1
    backoff_max_seconds: float = 60.0
    backoff_jitter: float = 0.1
    handshake_backoff_max_seconds: float = 2.0
    """After a failed TLS handshake. Linkerd has no such bound; with it the mesh heals within seconds of a renewal."""

    def __reduce__(self) -> tuple[type[BackendSettings], tuple[object, ...]]:
        """Pickled as its fields: compiled, a frozen dataclass cannot be restored by setting its attributes."""
        return BackendSettings, tuple(getattr(self, field.name) for field in fields(self))


class Driver(Protocol[T, C]):
    """What the machine asks of its owner. None of these may call back into the machine before it returns."""

    def connect(self, endpoint: EndpointState[T, C]) -> None:
        """Open a connection; answer later with `connected` or `connect_failed`."""

    def send(self, ticket: T, endpoint: EndpointState[T, C], connection: C) -> None:
        """Send the ticket's request; answer later with `finished`."""

    def refuse(self, ticket: T, cause: Cause) -> None:
        """The request will not be sent."""

    def close(self, connection: C) -> None:
        """Let go of a connection that will get no new request: close it once what is under way on it is over. Never
        said of one that was reported `lost`."""


class EndpointState(Generic[T, C]):
    """What a client proxy knows of one endpoint. Attributes are read by drivers and metrics, written only here."""

    __slots__ = (
        "accrual",
        "backing_off_until",
        "backoff",
        "capacity",
        "connecting",
        "idle",
        "load",
        "multiplexed",
        "probing",
        "removed",
        "shared",
        "spec",
        "streams",
        "waiting",
    )

    def __init__(self, spec: Endpoint, settings: BackendSettings, now: float) -> None:
        self.spec = spec
        self.load = PeakEwma(now)
        self.accrual = FailureAccrual(settings.accrual, now) if settings.accrual is not None else None
        self.backoff = Backoff(settings.backoff_min_seconds, settings.backoff_max_seconds, settings.backoff_jitter)
        self.idle: list[tuple[C, float]] = []
        """Idle connections, longest idle first, each with the time it fell idle."""
        self.waiting: deque[T] = deque()
        """Tickets that wait for a connection of this endpoint that is being opened."""
        self.multiplexed = settings.multiplex is Multiplex.ALWAYS or (
            settings.multiplex is Multiplex.MESHED and spec.identity is not None
        )
        self.shared: C | None = None
        """The connection of a multiplexed endpoint."""
        self.streams = 0
        """Requests under way on it."""
        self.capacity = UNLIMITED
        """How many its peer allows at a time."""
        self.connecting = 0
        self.backing_off_until: float | None = None
        self.probing = False
        self.removed = False

    @property
    def connected(self) -> bool:
        """Whether a request could be sent at once, as far as connections go."""
        return self.shared is not None or bool(self.idle)

    def ready(self, now: float) -> bool:
        if self.accrual is not None and not self.accrual.admits(now):
            return False
        if self.shared is not None:
            return self.streams < self.capacity
        return bool(self.idle) or (self.backing_off_until is None and not self.probing)


class Backend(Generic[T, C]):
    """One destination as one client proxy sees it. What happens to an endpoint's connections is told in the order in
    which it happened: that one is `lost` before the end of what was under way on it."""

    def __init__(self, settings: BackendSettings, driver: Driver[T, C], rng: Random, now: float) -> None:
        self._settings = settings
        self._driver = driver
        self._rng = rng
        self.endpoints: dict[str, EndpointState[T, C]] = {}
        self._order: list[EndpointState[T, C]] = []
        self.queue: deque[T] = deque()
        self.gate_shut = False
        self.gate_shuts_total = 0
        self._unready_since: float | None = None

    # ---- discovery

    def update(self, now: float, endpoints: Iterable[Endpoint]) -> None:
        """Replaces the endpoint set. Kept endpoints keep their estimates and connections; removed ones get no new
        request, finish those under way, and lose their idle connections."""
        wanted = {spec.address: spec for spec in endpoints}
        for address, state in list(self.endpoints.items()):
            if wanted.get(address) == state.spec:
                continue
            state.removed = True
            del self.endpoints[address]
            self._release(state)
        for address, spec in wanted.items():
            if address not in self.endpoints:
                self.endpoints[address] = EndpointState(spec, self._settings, now)
        self._order = list(self.endpoints.values())
        self._drain(now)

    def configure(self, now: float, settings: BackendSettings) -> None:
        """Takes over changed settings. Breakers start anew where their rule changed; all other state stays."""
        if settings == self._settings:
            return
        renewed = settings.accrual != self._settings.accrual
        self._settings = settings
        for state in self._order:
            state.backoff.minimum = settings.backoff_min_seconds
            state.backoff.maximum = settings.backoff_max_seconds
            if renewed:
                state.accrual = FailureAccrual(settings.accrual, now) if settings.accrual is not None else None
        self._drain(now)

    def forgive(self, now: float) -> None:
        """Ends every backoff: our own certificate was renewed, so handshakes deserve another try at once."""
        for state in self._order:
            if state.backing_off_until is not None:
                state.backing_off_until = now
        self.on_timer(now)

    # ---- requests

    def dispatch(self, now: float, ticket: T) -> None:
        """Sends, queues or refuses a request."""
        endpoint = self._pick(now)
        if endpoint is not None:
            self._open_gate()
            self._assign(now, ticket, endpoint)
        elif self.gate_shut or len(self.queue) >= self._settings.queue.capacity:
            self._driver.refuse(ticket, Cause.LOADSHED)
        else:
            self.queue.append(ticket)
            if self._unready_since is None:
                self._unready_since = now

    def withdraw(self, ticket: T) -> bool:
        """Takes back a request that has not been sent (its deadline passed, its client left); False if it was sent."""
        if _discard(self.queue, ticket):
            return True
        for state in self._order:
            if _discard(state.waiting, ticket):
                state.load.pending -= 1
                if state.accrual is not None:
                    state.accrual.abandoned()
                return True
        return False

    def finished(
        self,
        now: float,
        endpoint: EndpointState[T, C],
        connection: C | None,
        rtt: float,
        failed: bool | None,
        pushback: float | None = None,
    ) -> None:
        """A sent request is over.

        `connection`: the shared connection it was sent on, or an exclusive one that can serve again; None where it is
        gone. `rtt`: seconds from send to response headers or, where none came, to the end of the wait, which the
        balancer believes as well (tower's handle observes whatever it saw when it is dropped). `failed`: the
        breaker's verdict; None where there is none, because the client left. `pushback`: the answer was rate-limited
        and asked for so many seconds of quiet (`outcome.pushback_of`); None where it was not.
        """
        endpoint.load.pending -= 1
        bias = self._settings.load_bias
        endpoint.load.observe(now, rtt if bias is None else biased(rtt, failed is True, pushback, bias))
        if endpoint.accrual is not None:
            if failed is None:
                endpoint.accrual.abandoned()
            else:
                endpoint.accrual.observe(now, failed, self._rng, pushback)
        if endpoint.multiplexed:
            if connection is not None and connection is endpoint.shared:
                endpoint.streams -= 1
        elif connection is not None:
            self._keep(now, endpoint, connection)
        self._drain(now)

    # ---- connections

    def regained(self, now: float, endpoint: EndpointState[T, C], connection: C) -> None:
        """An exclusive connection that was busy at the end of its request (the rest of a response was still to be read)
        can serve again."""
        self._keep(now, endpoint, connection)
        self._drain(now)

    def connected(self, now: float, endpoint: EndpointState[T, C], connection: C, capacity: int = UNLIMITED) -> None:
        """A connection that the driver was asked for is up; `capacity`: requests that a shared one takes at a time."""
        endpoint.connecting -= 1
        endpoint.backoff.reset()
        endpoint.backing_off_until = None
        endpoint.probing = False
        if endpoint.multiplexed:
            self._share(endpoint, connection, capacity)
        elif endpoint.waiting:
            self._driver.send(endpoint.waiting.popleft(), endpoint, connection)
        else:
            self._keep(now, endpoint, connection)
        self._drain(now)

    def resized(self, now: float, endpoint: EndpointState[T, C], connection: C, capacity: int) -> None:
        """The peer of a shared connection changed how many requests it takes at a time."""
        if connection is endpoint.shared:
            endpoint.capacity = capacity
            self._drain(now)

    def connect_failed(self, now: float, endpoint: EndpointState[T, C], cause: Cause, handshake: bool) -> None:
        """A connection could not be opened; `handshake`: TCP was up and TLS was not."""
        endpoint.connecting -= 1
        endpoint.probing = False
        if endpoint.backing_off_until is None:
            # Only the first of several connects under way counts: they all failed for one reason.
            delay = endpoint.backoff.next(self._rng)
            if handshake:
                delay = min(delay, self._settings.handshake_backoff_max_seconds)
            endpoint.backing_off_until = now + delay
        # Fewer connections are coming than requests wait: the surplus goes elsewhere. Where one is shared no second one
        # is coming, so that is everybody.
        while len(endpoint.waiting) > endpoint.connecting:
            if endpoint.multiplexed or endpoint.spec.identity is not None:
                self._requeue(endpoint)
            else:
                self._unassign(endpoint)
                self._driver.refuse(endpoint.waiting.popleft(), cause)
        self._drain(now)

    def returned_unsent(
        self, now: float, endpoint: EndpointState[T, C], ticket: T, connection: C | None = None
    ) -> None:
        """A sent request did not reach the peer's HTTP layer (its connection was refused after the handshake, a reused
        one turned out to be closed, or an HTTP/2 peer refused the stream on `connection`, which goes on): it is
        dispatched anew and costs no try."""
        self._unassign(endpoint)
        if connection is not None and connection is endpoint.shared:
            endpoint.streams -= 1
        self.queue.appendleft(ticket)
        self._drain(now)

    def lost(self, now: float, endpoint: EndpointState[T, C], connection: C) -> None:
        """An idle connection was closed by the peer, or a shared one takes no new request (closed, or GOAWAY): what is
        under way on it is settled by `finished` or `returned_unsent` afterwards."""
        if connection is endpoint.shared:
            endpoint.shared = None
            endpoint.streams = 0
            self._drain(now)  # what waited for a free stream can have a new connection
        else:
            endpoint.idle = [entry for entry in endpoint.idle if entry[0] is not connection]

    # ---- time

    def next_timer(self) -> float | None:
        """When `on_timer` is due; changes with every call above."""
        due = NEVER
        if self._unready_since is not None and not self.gate_shut:
            due = self._unready_since + self._settings.queue.failfast_seconds
        for state in self._order:
            if state.backing_off_until is not None:
                due = min(due, state.backing_off_until)
            if state.idle:
                due = min(due, state.idle[0][1] + self._settings.pool_idle_seconds)
            if self.queue and state.accrual is not None and state.accrual.state is State.OPEN:
                due = min(due, state.accrual.open_until)
        return due if due < NEVER else None

    def on_timer(self, now: float) -> None:
        """Closes idled connections, opens probes, shuts the gate: whatever is due at `now`."""
        for state in self._order:
            while state.idle and state.idle[0][1] + self._settings.pool_idle_seconds <= now:
                self._driver.close(state.idle.pop(0)[0])
            if state.backing_off_until is not None and state.backing_off_until <= now:
                state.backing_off_until = None
                state.probing = True
                state.connecting += 1
                self._driver.connect(state)
        self._drain(now)
        since = self._unready_since
        if since is not None and not self.gate_shut and since + self._settings.queue.failfast_seconds <= now:
            self.gate_shut = True
            self.gate_shuts_total += 1
            while self.queue:
                self._driver.refuse(self.queue.popleft(), Cause.FAILFAST)

    def shut_down(self) -> None:
        """The end: lets go of all connections, those that are being opened included, and refuses what waits and what
        comes later. What is under way may finish."""
        for state in self._order:
            state.removed = True
            self._release(state)
        self.endpoints.clear()
        self._order = []
        self.gate_shut = True
        self._unready_since = None
        while self.queue:
            self._driver.refuse(self.queue.popleft(), Cause.LOADSHED)

    # ---- inside

    def _pick(self, now: float) -> EndpointState[T, C] | None:
        """Power of two choices among the ready endpoints."""
        order = self._order
        count = len(order)
        if count == 0:
            return None
        if count == 1:
            return order[0] if order[0].ready(now) else None
        if count <= 4:
            ready = [state for state in order if state.ready(now)]
        else:
            # Draw first and look afterwards: with many endpoints nearly all are ready, and a scan is O(n).
            drawn = self._rng.sample(order, 2)
            ready = [state for state in drawn if state.ready(now)]
            if len(ready) < 2:
                ready = [state for state in order if state.ready(now)]
        return self._cheaper(now, ready)

    def _pick_connected(self, now: float) -> EndpointState[T, C] | None:
        """The same among those that need not connect first."""
        return self._cheaper(now, [state for state in self._order if state.connected and state.ready(now)])

    def _cheaper(self, now: float, ready: list[EndpointState[T, C]]) -> EndpointState[T, C] | None:
        """The cheaper of two random ones."""
        if not ready:
            return None
        if len(ready) == 1:
            return ready[0]
        if len(ready) == 2:
            first, second = ready
        else:
            i = int(self._rng.random() * len(ready))
            j = int(self._rng.random() * (len(ready) - 1))
            first, second = ready[i], ready[j if j < i else j + 1]
        return first if first.load.cost(now) <= second.load.cost(now) else second

    def _assign(self, now: float, ticket: T, endpoint: EndpointState[T, C]) -> None:
        if endpoint.multiplexed and endpoint.shared is None:
            if not endpoint.connecting:
                endpoint.connecting += 1
                self._driver.connect(endpoint)
            endpoint = self._pick_connected(now) or endpoint
        endpoint.load.pending += 1
        if endpoint.accrual is not None:
            endpoint.accrual.started()
        if endpoint.shared is not None:
            endpoint.streams += 1
            self._driver.send(ticket, endpoint, endpoint.shared)
        elif endpoint.idle:
            connection, _ = endpoint.idle.pop()  # the freshest, so that surplus connections idle out
            self._driver.send(ticket, endpoint, connection)
        else:
            endpoint.waiting.append(ticket)
            if not endpoint.multiplexed:
                endpoint.connecting += 1
                self._driver.connect(endpoint)

    def _unassign(self, endpoint: EndpointState[T, C]) -> None:
        endpoint.load.pending -= 1
        if endpoint.accrual is not None:
            endpoint.accrual.abandoned()

    def _requeue(self, endpoint: EndpointState[T, C]) -> None:
        """Puts the last that waits for an endpoint's connection at the head of the queue; called until enough have
        gone, it keeps their order."""
        self._unassign(endpoint)
        self.queue.appendleft(endpoint.waiting.pop())

    def _share(self, endpoint: EndpointState[T, C], connection: C, capacity: int) -> None:
        """Makes a new connection the one that all requests of a multiplexed endpoint share."""
        if endpoint.removed:
            self._driver.close(connection)
            return
        endpoint.shared = connection
        endpoint.streams = 0
        endpoint.capacity = capacity
        while endpoint.waiting and endpoint.streams < capacity:
            endpoint.streams += 1
            self._driver.send(endpoint.waiting.popleft(), endpoint, connection)
        while endpoint.waiting:
            self._requeue(endpoint)

    def _release(self, endpoint: EndpointState[T, C]) -> None:
        """Lets go of an endpoint's connections; what waits for one goes back to the queue."""
        for connection, _ in endpoint.idle:
            self._driver.close(connection)
        endpoint.idle.clear()
        if endpoint.shared is not None:
            self._driver.close(endpoint.shared)
            endpoint.shared = None
            endpoint.streams = 0
        while endpoint.waiting:
            self._requeue(endpoint)

    def _keep(self, now: float, endpoint: EndpointState[T, C], connection: C) -> None:
        if endpoint.removed or len(endpoint.idle) >= self._settings.pool_max_idle:
            self._driver.close(connection)
        else:
            endpoint.idle.append((connection, now))

    def _open_gate(self) -> None:
        self.gate_shut = False
        self._unready_since = None

    def _drain(self, now: float) -> None:
        """Sends what waits to endpoints that became ready."""
        if not self.queue:
            if (self._unready_since is not None or self.gate_shut) and self._pick(now) is not None:
                self._open_gate()
            return
        while self.queue:
            endpoint = self._pick(now)
            if endpoint is None:
                if self._unready_since is None:
                    self._unready_since = now
                return
            self._open_gate()
            self._assign(now, self.queue.popleft(), endpoint)


def _discard(queue: deque[T], ticket: T) -> bool:
    for index, waiting in enumerate(queue):
        if waiting is ticket:
            del queue[index]
            return True
    return False
