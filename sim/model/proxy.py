"""The outbound side of a pod's proxy in the twin: real decisions, simulated wires.

Discovery cache, router, balancer, connections, gate, breaker, retries and timeouts are the objects of `mesh.behavior`,
the very ones the proxy process runs. Here is only their owner: it opens connections (with a handshake that looks at
both leaves), carries tries to pods and answers back, and runs timers, all on the calendar.

Between two meshed pods all tries share one connection, which lives as long as the discovery entry and the endpoint. A
try that is given up resets its stream and nothing else. A pod that dies breaks the connection, and with it all tries
under way: HTTP/2 tells a client which streams were never looked at (GOAWAY, REFUSED_STREAM) only when the peer is alive
to say so, and a killed one is not. With an un-meshed pod each connection carries one try at a time and idles out.

A hop costs two calendar entries: the app's self time, and one for the way back, which bears the whole overhead of the
hop. Giving the way there an entry of its own would cost a third more time. CPU is charged where it is used, to server
proxy and app when a request arrives and to client proxy and caller when its answer does; the waiting is borne by the
way back as well.

One file of more than 400 lines, because connection, try, request, cache entry and proxy call each other in a circle.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Final

from mesh.behavior.backend import BackendSettings, EndpointState, Multiplex
from mesh.behavior.cache import DISCOVERY_TIMEOUT_SECONDS, DiscoveryCache
from mesh.behavior.destination import Destination
from mesh.behavior.exchange import Exchange, Step
from mesh.behavior.outcome import STATUS_OF, Cause
from mesh.behavior.routes import Route
from sim.model.agenda import Agenda, Call, Entry
from sim.model.draws import Draws
from sim.model.processor import Thread
from sim.model.wire import HANDSHAKE_BYTES, TYPICAL_BYTES, Wire

if TYPE_CHECKING:
    from sim.model.app import AppPod
    from sim.model.control import ControlPlane
    from sim.model.record import MeshTallies, Tally
    from sim.model.route import RouteModel

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
MAX_RESENDS = 3
"""As `mesh.proxy.request`."""
STREAMS_PER_CONNECTION = 1_000
"""What a proxy allows its peers at a time, as `mesh.proxy.wire.http2_limits`."""
CONNECT_TIMEOUT_SECONDS = 1.0
"""For a handshake, as `mesh.proxy.config` has it."""

DONE: Final = Step.DONE
TRY: Final = Step.TRY
"""Names of our own: on Python 3.11 to read an enumeration's member is a function call."""


class Requester(Entry):
    """Who waits for an answer: an app's work, or a client of the load generator."""

    __slots__ = ()

    def answered(self, status: int) -> None:
        """The answer is here."""
        raise NotImplementedError


class Target:
    """One route of one service, as its callers name it."""

    __slots__ = ("authority", "meant", "method", "path", "route", "service")

    def __init__(self, service: str, authority: str, route: RouteModel, meant: Tally) -> None:
        self.service = service
        self.authority = authority
        self.meant = meant
        """Counts each request that is over."""
        self.method = route.route.method
        self.path = route.route.path
        self.route = route


class Connection:
    """One connection to a pod. It outlives the certificates it was made with."""

    __slots__ = ("endpoint", "known", "pod", "served", "tries")

    def __init__(self, known: Known, endpoint: EndpointState[Try, Connection], pod: AppPod) -> None:
        self.known = known
        self.endpoint = endpoint
        self.pod = pod
        self.tries: dict[Try, None] = {}
        """Under way, in the order of sending; one at most where the endpoint is not multiplexed."""
        self.served = False
        """Whether an answer ever came over it."""
        pod.connections[self] = None

    def lost(self, now: float) -> None:
        """The peer died. What is under way is settled afterwards, by `reset`."""
        backend = self.known.destination.backend
        if backend is not None:
            backend.lost(now, self.endpoint, self)

    def reset(self) -> None:
        """The tries under way will not be answered."""
        for trial in list(self.tries):
            trial.reset()

    def close(self) -> None:
        """It gets no new try. While some are under way, it can still break under them."""
        if not self.tries:
            self.pod.connections.pop(self, None)


class Try(Entry):
    """One try of a request: the ticket that the backend passes around. It happens when its answer arrives."""

    __slots__ = ("connection", "cpu_delay", "request", "sent_at", "status")

    def __init__(self, request: Outbound) -> None:
        self.when = 0.0
        self.serial = 0
        self.request: Outbound | None = request
        """None once nobody waits for the answer any more."""
        self.connection: Connection | None = None
        self.cpu_delay = 0.0
        """What it waited for CPU on its way."""
        self.sent_at = 0.0
        self.status = 0

    def answer(self, status: int) -> None:
        """The app answered; the answer is on its way."""
        connection = self.connection
        assert connection is not None
        proxy = connection.known.proxy
        if proxy.thread is not None:  # an answer that nobody waits for any more costs the same
            self.cpu_delay += proxy.answering(proxy.agenda.now)
        if self.request is not None:
            self.status = status
            wire = connection.pod.wire
            if wire is None:
                proxy.agenda.put(proxy.agenda.now + proxy.overhead.next() + self.cpu_delay, self)
            else:
                wire.send(connection.pod.answer_bytes, self._sent, None)

    def _sent(self, _: object) -> None:
        """A throttled pod has it out."""
        connection = self.connection
        if self.request is not None and connection is not None:
            proxy = connection.known.proxy
            proxy.agenda.put(proxy.agenda.now + proxy.overhead.next() + self.cpu_delay, self)

    def happen(self) -> None:
        request = self.request
        if request is None:
            return
        self.request = None
        connection = self.connection
        assert connection is not None
        del connection.tries[self]
        connection.served = True
        request.responded(connection, self.sent_at, self.status)

    def reset(self) -> None:
        """The connection broke under the request."""
        request = self.request
        if request is not None:
            self.request = None
            request.reset(self)


class Outbound:
    """One request of the pod's app, with its retries."""

    __slots__ = ("deadline", "exchange", "known", "proxy", "requester", "resends", "sender", "target", "trial")

    def __init__(self, proxy: ClientProxy, target: Target, requester: Requester) -> None:
        self.proxy = proxy
        self.target = target
        self.requester: Requester | None = requester
        """None once it has its answer, or does not want it any more."""
        self.known: Known | None = None
        self.sender: Known | None = None
        """Whose backend has the try: `known`'s own, or that of another destination that a route sends it to."""
        self.exchange: Exchange | None = None
        self.trial: Try | None = None
        self.deadline: Call | None = None
        self.resends = 0

    # ---- the way out

    def begin(self, known: Known) -> None:
        """The destination is known: route it and send the first try."""
        now = self.proxy.agenda.now
        route = known.route(self.target)
        if route is None:
            self.finish(404)
            return
        exchange = self.exchange = Exchange(route, now, self.proxy.jitter)
        exchange.begin(now)
        self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        exchange, known = self.exchange, self.known
        assert exchange is not None
        assert known is not None
        due = exchange.next_deadline()
        if due is not None:
            self.deadline = self.proxy.agenda.call_at(due, self._expired)
        trial = self.trial = Try(self)
        sender: Known | None = known
        if exchange.route.backends:
            sender = known.other(exchange.route.pick_backend(self.proxy.balancing))
            if sender is None:
                trial.request = None
                self._follow(now, exchange.failed(now, Cause.NO_BACKEND))
                return
        self.sender = sender
        assert sender is not None
        if not sender.destination.usable:
            sender.hold_back(self, trial)
            return
        backend = sender.destination.backend
        assert backend is not None
        backend.dispatch(now, trial)
        if sender.timer is None or backend.queue:
            sender.rearm()

    # ---- the way back

    def responded(self, connection: Connection, sent_at: float, status: int) -> None:
        now = self.proxy.agenda.now
        exchange, known = self.exchange, connection.known
        assert exchange is not None
        backend = known.destination.backend
        assert backend is not None
        backend.finished(now, connection.endpoint, connection, now - sent_at, exchange.route.failed(status))
        entered = known.proxy.entered
        if entered is not None:
            entered.append((now, now - sent_at))
        if known.timer is None:
            known.rearm()
        self._follow(now, exchange.responded(now, status))

    def refused(self, refusal: tuple[Try, Cause]) -> None:
        """The backend will not send the try."""
        trial, cause = refusal
        exchange = self.exchange
        if self.requester is None or exchange is None or self.trial is not trial:
            return
        now = self.proxy.agenda.now
        self._follow(now, exchange.failed(now, cause))

    def reset(self, trial: Try) -> None:
        """The peer died with the request."""
        now = self.proxy.agenda.now
        connection, exchange = trial.connection, self.exchange
        assert connection is not None
        assert exchange is not None
        known = connection.known
        kept = connection.served and not connection.endpoint.multiplexed
        if kept and self.resends < MAX_RESENDS and self.target.method in IDEMPOTENT and known.watching:
            # A kept connection that broke before the first byte: sent again, at no cost of a try.
            self.resends += 1
            connection.tries.clear()
            connection.close()
            trial.connection = None
            trial.request = self
            backend = known.destination.backend
            assert backend is not None
            backend.returned_unsent(now, connection.endpoint, trial)
            known.rearm()
            return
        self._drop(now, trial, failed=True)
        self._follow(now, exchange.failed(now, Cause.CONNECT))

    def _expired(self, _: object) -> None:
        self.deadline = None
        exchange, trial = self.exchange, self.trial
        if exchange is None:
            return
        now = self.proxy.agenda.now
        if trial is not None and trial.request is not None:
            trial.request = None
            self._drop(now, trial, failed=True)
        self._follow(now, exchange.expired(now))

    def _drop(self, now: float, trial: Try, *, failed: bool | None) -> None:
        """Gives a try up: takes it back where it still waits. Where it was sent, it resets its stream or, for want of
        such, closes its connection. `failed`: the breaker's verdict."""
        connection = trial.connection
        known = connection.known if connection is not None else self.sender
        assert known is not None
        if connection is None and known.let_go(trial):
            return
        backend = known.destination.backend
        assert backend is not None
        if connection is None:
            backend.withdraw(trial)
        else:
            del connection.tries[trial]
            if connection.pod.cancels:
                connection.pod.cancel(trial)
            multiplexed = connection.endpoint.multiplexed
            if not multiplexed:
                connection.close()
            kept = connection if multiplexed else None
            backend.finished(now, connection.endpoint, kept, now - trial.sent_at, failed)
        known.rearm()

    def _follow(self, now: float, step: Step) -> None:
        deadline = self.deadline
        if deadline is not None:
            deadline.cancel()
            self.deadline = None
        known = self.known
        assert known is not None
        if not known.watching:
            self.requester = None  # the pod died with its proxy: nobody retries and nobody hears
            return
        if step is DONE:
            exchange = self.exchange
            assert exchange is not None
            self.finish(exchange.status)
            return
        self.trial = None
        exchange = self.exchange
        assert exchange is not None
        if step is TRY:
            self._dispatch(now)
        else:
            if exchange.deadline is not None:
                self.deadline = self.proxy.agenda.call_at(exchange.deadline, self._expired)
            self.proxy.agenda.call_at(exchange.resume_at, self._resume)

    def _resume(self, _: object) -> None:
        exchange = self.exchange
        if self.requester is None or exchange is None or self.trial is not None:
            return
        if self.deadline is not None:
            self.deadline.cancel()
        now = self.proxy.agenda.now
        exchange.resume(now)
        self._dispatch(now)

    def finish(self, status: int) -> None:
        """The requester gets its answer."""
        requester, known = self.requester, self.known
        self.requester = None
        self.trial = None
        if known is not None:
            known.release()
        if requester is not None:
            self._count(failed=status == 0 or status >= 500)
            requester.answered(status)

    def abandon(self) -> None:
        """The requester went away."""
        if self.requester is None:
            return
        self.requester = None
        self._count(failed=False)  # the proxy has no answer to judge
        if self.deadline is not None:
            self.deadline.cancel()
        trial, known = self.trial, self.known
        if trial is not None and trial.request is not None:
            trial.request = None
            self._drop(self.proxy.agenda.now, trial, failed=None)
        self.trial = None
        if known is not None:
            known.release()
            if self in known.waiting:
                known.waiting.remove(self)

    def _count(self, *, failed: bool) -> None:
        """The request is over. As in the proxy its retries count now, too, however long ago they were sent."""
        exchange = self.exchange
        if exchange is None:
            return  # an undiscovered destination has no route to count for
        now = self.proxy.agenda.now
        tallies = self.proxy.tallies
        self.target.meant.add(now)
        if exchange.retries_granted:
            tallies.retried.add(now, exchange.retries_granted)
        if failed:
            tallies.failed.add(now)


class _Flight:
    """A handshake whose server is throttled."""

    __slots__ = ("deadline", "endpoint")

    def __init__(self, endpoint: EndpointState[Try, Connection]) -> None:
        self.endpoint = endpoint
        self.deadline: Call | None = None
        """None once it is over."""


class Known:
    """One entry of the discovery cache; also the driver of its backend."""

    __slots__ = (
        "_others",
        "_router",
        "_routes",
        "_seen",
        "authority",
        "destination",
        "held",
        "held_back",
        "proxy",
        "timer",
        "waiting",
        "watching",
    )

    def __init__(self, proxy: ClientProxy, authority: str) -> None:
        self.proxy = proxy
        self.authority = authority
        self.destination: Destination[Try, Connection] = Destination(authority, proxy.settings, self, proxy.balancing)
        self.waiting: list[Outbound] = []
        self.watching = True
        self.held = 0
        """Requests that use it."""
        self.timer: Call | None = None
        self.held_back: dict[Try, Call] = {}
        """Tries that another destination's route sent here before this one was known, and when each is given up."""
        self._others: dict[str, Known] = {}
        """Destinations that routes of this one send requests to: watched from when they are named."""
        self._router: object = None
        self._routes: dict[Target, Route | None] = {}
        self._seen: object = None
        """The router whose destinations were asked for."""

    def route(self, target: Target) -> Route | None:
        """None: no HTTPRoute of the destination matches, and the answer is 404."""
        router = self.destination.router
        assert router is not None
        if router is not self._router:
            self._router = router
            self._routes = {}
        route = self._routes.get(target)
        if route is None:
            route = self._routes[target] = router.match(target.method, target.path)
        return route

    def _take_router(self) -> None:
        """Asks for the destinations that new routes name. The others stay until this entry is forgotten: the proxy lets
        them go at once, and then forgets them when they idled out, which nobody can tell from outside."""
        for authority in sorted(self.destination.backend_authorities):
            known = self.proxy.known(authority) if authority not in self._others else None
            if known is not None:
                known.hold()
                self._others[authority] = known

    def other(self, authority: str | None) -> Known | None:
        """The destination that a route picked; None: no such service."""
        return self if authority is None else self._others.get(authority)

    def forget_others(self) -> None:
        """The entry is forgotten."""
        others, self._others = self._others, {}
        for known in others.values():
            known.release()

    def hold_back(self, request: Outbound, trial: Try) -> None:
        """A try waits until the destination is known."""
        agenda = self.proxy.agenda
        at = agenda.now + DISCOVERY_TIMEOUT_SECONDS
        self.held_back[trial] = agenda.call_at(at, self._give_up, (request, trial))

    def _give_up(self, waited: tuple[Outbound, Try]) -> None:
        request, trial = waited
        del self.held_back[trial]
        trial.request = None
        request.refused((trial, Cause.DISCOVERY_TIMEOUT))

    def let_go(self, trial: Try) -> bool:
        """Takes back a try that is held back; False where it is not."""
        timer = self.held_back.pop(trial, None)
        if timer is None:
            return False
        timer.cancel()
        return True

    def hold(self) -> None:
        """A request begins to use the entry. The cache hears of the first of several only."""
        if not self.held:
            self.proxy.hold(self)
        self.held += 1

    def release(self) -> None:
        """A request is over. The cache hears of the last only, from when the entry is idle."""
        self.held -= 1
        if not self.held:
            self.proxy.release(self)

    def heard(self) -> None:
        """A watch brought something: requests that waited for it go on."""
        if self.destination.router is not self._seen:
            self._seen = self.destination.router
            self._take_router()
        if self.destination.usable and self.held_back:
            held, self.held_back = self.held_back, {}
            backend = self.destination.backend
            assert backend is not None
            for trial, timer in held.items():
                timer.cancel()
                backend.dispatch(self.proxy.agenda.now, trial)
        if self.destination.usable and self.waiting:
            waiting, self.waiting = self.waiting, []
            for request in waiting:
                if request.deadline is not None:
                    request.deadline.cancel()
                    request.deadline = None
                request.begin(self)
        self.rearm()

    # ---- timers

    def rearm(self) -> None:
        """Sets the timer to what the backend waits for next."""
        backend = self.destination.backend
        due = backend.next_timer() if backend is not None else None
        timer = self.timer
        if timer is not None:
            if due is not None and timer.argument <= due:
                return  # it will look again when it fires
            timer.cancel()
            self.timer = None
        if due is not None:
            self.timer = self.proxy.agenda.call_at(max(due, self.proxy.agenda.now), self._on_timer, due)

    def _on_timer(self, _: object) -> None:
        self.timer = None
        backend = self.destination.backend
        if backend is not None and self.watching:
            backend.on_timer(self.proxy.agenda.now)
            self.rearm()

    # ---- mesh.behavior.backend.Driver

    def connect(self, endpoint: EndpointState[Try, Connection]) -> None:
        proxy = self.proxy
        proxy.agenda.call_at(proxy.agenda.now + proxy.handshake.next(), self._handshaken, endpoint)

    def _handshaken(self, endpoint: EndpointState[Try, Connection]) -> None:
        proxy = self.proxy
        now = proxy.agenda.now
        backend = self.destination.backend
        assert backend is not None
        pod = proxy.pods.get(endpoint.spec.address)
        if pod is None or not pod.alive:
            backend.connect_failed(now, endpoint, Cause.CONNECT, handshake=False)
        elif pod.wire is not None and endpoint.spec.identity is not None:
            flight = _Flight(endpoint)
            flight.deadline = proxy.agenda.call_at(now + CONNECT_TIMEOUT_SECONDS, self._handshake_expired, flight)
            pod.wire.send(HANDSHAKE_BYTES, self._flight_out, flight)
        else:
            self._meet(endpoint, pod)
        self.rearm()

    def _flight_out(self, flight: _Flight) -> None:
        """The server's part of a handshake came through a throttled pod's wire; too late, where nobody waits."""
        deadline = flight.deadline
        if deadline is None:
            return
        flight.deadline = None
        deadline.cancel()
        pod = self.proxy.pods.get(flight.endpoint.spec.address)
        if pod is not None:
            self._meet(flight.endpoint, pod)
        self.rearm()

    def _handshake_expired(self, flight: _Flight) -> None:
        flight.deadline = None
        backend = self.destination.backend
        assert backend is not None
        backend.connect_failed(self.proxy.agenda.now, flight.endpoint, Cause.CONNECT_TIMEOUT, handshake=True)
        self.rearm()

    def _meet(self, endpoint: EndpointState[Try, Connection], pod: AppPod) -> None:
        """Both ends look at each other's leaf."""
        proxy = self.proxy
        now = proxy.agenda.now
        backend = self.destination.backend
        assert backend is not None
        if proxy.meshed and endpoint.spec.identity is not None and not _trusted(now, proxy.leaf, pod.leaf_expires_at):
            proxy.handshake_failures += 1
            proxy.tallies.refused.add(now)
            proxy.tallies.refused.add(now)  # the peer's proxy counts it, too
            backend.connect_failed(now, endpoint, Cause.CONNECT, handshake=True)
        else:
            backend.connected(now, endpoint, Connection(self, endpoint, pod), STREAMS_PER_CONNECTION)

    def send(self, ticket: Try, endpoint: EndpointState[Try, Connection], connection: Connection) -> None:
        request = ticket.request
        assert request is not None
        ticket.connection = connection
        ticket.sent_at = self.proxy.agenda.now
        ticket.cpu_delay = 0.0
        connection.tries[ticket] = None
        wire = self.proxy.wire
        if wire is None:
            self._arrive(connection, ticket, request.target)
        else:
            wire.send(self.proxy.call_bytes, self._out, (connection, ticket, request.target))

    def _out(self, sent: tuple[Connection, Try, Target]) -> None:
        """A throttled pod's call is on its way; it arrives where the connection did not break meanwhile."""
        connection, ticket, target = sent
        if ticket.connection is connection and connection in connection.pod.connections:
            self._arrive(connection, ticket, target)

    def _arrive(self, connection: Connection, ticket: Try, target: Target) -> None:
        if self.authority == target.authority:
            connection.pod.arrive(ticket, target.route)
        else:
            connection.pod.arrive_astray(ticket, target.method, target.path)

    def refuse(self, ticket: Try, cause: Cause) -> None:
        request = ticket.request
        if request is not None:
            ticket.request = None
            self.proxy.agenda.call_at(self.proxy.agenda.now, request.refused, (ticket, cause))

    def close(self, connection: Connection) -> None:
        connection.close()


def _trusted(now: float, *leaves: float | None) -> bool:
    return all(expires is not None and now < expires for expires in leaves)


class ClientProxy:
    """The outbound proxy of one pod."""

    def __init__(
        self,
        name: str,
        agenda: Agenda,
        control: ControlPlane,
        pods: dict[str, AppPod],
        settings: BackendSettings,
        discovery_idle: float,
        overhead: Draws,
        handshake: Draws,
        balancing: Random,
        jitter: Random,
        tallies: MeshTallies,
        meshed: bool,
    ) -> None:
        """`pods`: by the address that endpoints carry."""
        self.name = name
        self.agenda = agenda
        self.pods = pods
        # What is not in the mesh has no proxy that would speak HTTP/2 for it.
        self.settings = settings if meshed else replace(settings, multiplex=Multiplex.NEVER)
        self.overhead = overhead
        self.handshake = handshake
        self.balancing = balancing
        self.jitter = jitter
        self.tallies = tallies
        self.meshed = meshed
        self.leaf: float | None = None
        """When our leaf expires; None: we have none."""
        self.handshake_failures = 0
        self.entered: list[tuple[float, float]] | None = None
        """(when, seconds) of each answer to a try, where load enters; None elsewhere."""
        self.thread: Thread | None = None
        """The proxy's event loop, and the app's beside it; None where CPU is not modelled (or there is no app)."""
        self.app_thread: Thread | None = None
        self.wire: Wire | None = None
        """What the app calls waits here while the pod is throttled."""
        self.call_bytes = TYPICAL_BYTES[1]
        self.inbound_seconds = 0.0
        self._outbound_seconds = 0.0
        self._call_seconds = 0.0
        self._control = control
        self._discovery_idle = discovery_idle
        self._cache: DiscoveryCache[Known] = DiscoveryCache(discovery_idle, self._evict)
        self._sweep: Call | None = None

    def runs_on(
        self, thread: Thread, app: Thread | None, inbound_seconds: float, outbound_seconds: float, call_seconds: float
    ) -> None:
        """Its process and its app's, and the CPU time of a request from a peer, of one of the app, and of that to the
        app."""
        self.thread = thread
        self.app_thread = app
        self.inbound_seconds = inbound_seconds
        self._outbound_seconds = outbound_seconds
        self._call_seconds = call_seconds

    def answering(self, now: float) -> float:
        """What proxy and app take to handle a call whose answer is here, waiting for CPU included."""
        thread, app = self.thread, self.app_thread
        seconds = thread.take(now, self._outbound_seconds) if thread is not None else 0.0
        if app is not None:
            seconds += app.take(now, self._call_seconds)
        return seconds

    def known(self, authority: str) -> Known | None:
        """The entry of a destination, asked for where it is new; None where there is no such service."""
        known = self._cache.get(authority)
        if known is None and self._control.knows(authority):
            known = Known(self, authority)
            self._cache.put(authority, known, self.agenda.now)
            self._control.watch(known)
        return known

    def request(self, target: Target, requester: Requester) -> Outbound:
        """Sends the app's request on its way; it is `answered` exactly once, unless it is abandoned."""
        now = self.agenda.now
        request = Outbound(self, target, requester)
        known = self.known(target.authority)
        assert known is not None
        known.hold()
        request.known = known
        if known.destination.usable:
            request.begin(known)
        else:
            known.waiting.append(request)
            request.deadline = self.agenda.call_at(now + DISCOVERY_TIMEOUT_SECONDS, self._undiscovered, request)
        return request

    def _undiscovered(self, request: Outbound) -> None:
        request.deadline = None
        known = request.known
        assert known is not None
        if request in known.waiting:
            known.waiting.remove(request)
        request.finish(STATUS_OF[Cause.DISCOVERY_TIMEOUT])

    # ---- discovery cache

    def hold(self, known: Known) -> None:
        self._cache.hold(known.authority, self.agenda.now)

    def release(self, known: Known) -> None:
        if self._cache.get(known.authority) is known:
            self._cache.release(known.authority, self.agenda.now)
            if self._sweep is None:
                self._sweep = self.agenda.call_at(self.agenda.now + self._discovery_idle, self._expire)

    def _expire(self, _: object) -> None:
        again = self._cache.expire(self.agenda.now)
        self._sweep = self.agenda.call_at(again, self._expire) if again is not None else None

    def _evict(self, authority: str, known: Known) -> None:
        known.watching = False
        known.forget_others()
        self._control.unwatch(known)
        backend = known.destination.backend
        if backend is not None:
            backend.shut_down()
        if known.timer is not None:
            known.timer.cancel()
            known.timer = None

    # ---- certificates, life and death

    def certified(self, expires_at: float | None) -> None:
        """We have a fresh leaf, so handshakes that failed deserve another try at once; or we lost the one we had."""
        self.leaf = expires_at
        if expires_at is None:
            return
        for _, known in self._cache:
            backend = known.destination.backend
            if backend is not None:
                backend.forgive(self.agenda.now)
                known.rearm()

    def kill(self) -> None:
        """Everything the proxy knew and everyone who waited on it is gone."""
        if self.thread is not None:
            self.thread.reset()
        for authority, known in self._cache:
            for request in list(known.waiting):
                request.requester = None
            for timer in known.held_back.values():
                timer.cancel()
            known.held_back = {}
            self._cache.remove(authority)
            known.watching = False
            self._control.unwatch(known)
            if known.timer is not None:
                known.timer.cancel()
                known.timer = None
            backend = known.destination.backend
            if backend is not None:
                backend.shut_down()
        self._cache = DiscoveryCache(self._discovery_idle, self._evict)
