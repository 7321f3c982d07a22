"""An application pod: workers, bounded FIFO queue, self time, calls to others. The same rules as `scenarios.workload`.

    frozen ─► waits for the thaw
    arrive ─► worker free? ─ no ─► queue full? ─ yes ─► 503
                  │ yes               │ no: wait, FIFO
                  ▼                   ▼
              self time ─► failed? ─ yes ─► 500 (or the fault's status)
                  │ no
                  ▼
              calls, group after group, a group's members at once ─► one ≥ 500 ─► 502
                  │
                  ▼
              200            the worker is held until here

A client that goes away cancels nothing: its work is done all the same, which is what makes retry storms expensive. In a
service that `cancels` it does: the request gives up its place at once, and its own calls are given up with it.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING

from scenarios.model import AppService
from sim.model.agenda import Agenda
from sim.model.processor import SharedProcessor, Thread
from sim.model.proxy import Requester
from sim.model.record import Tally
from sim.model.route import AppFault, RouteModel
from sim.model.wire import TYPICAL_BYTES, Wire

if TYPE_CHECKING:
    from sim.model.proxy import ClientProxy, Connection, Outbound, Try

CANCELLED = -1
"""The epoch of work that nobody goes on with."""
NO_APP = 502
"""What a proxy answers when nobody listens behind it, or breaks off in the middle."""


class Work(Requester):
    """One request inside a pod. It happens when its self time is over."""

    __slots__ = ("calls", "epoch", "failed", "group", "open_calls", "pod", "route", "trial", "waits")

    def __init__(self, pod: AppPod, trial: Try, route: RouteModel, epoch: int) -> None:
        self.when = 0.0
        self.serial = 0
        self.pod = pod
        self.trial = trial
        self.route = route
        self.epoch = epoch
        self.group = 0
        self.open_calls = 0
        self.failed = False
        self.waits = True
        """For a worker."""
        self.calls: list[Outbound] | None = None
        """Those of its present group, where it may be cancelled."""

    def happen(self) -> None:
        self.pod.worked(self)

    def answered(self, status: int) -> None:
        self.pod.called(self, status)


class AppPod:
    """One replica of a service."""

    __slots__ = (
        "_agenda",
        "_burning_until",
        "_burns",
        "_busy",
        "_held",
        "_parked",
        "_queue",
        "_random",
        "_serve_seconds",
        "_shared",
        "_workers",
        "_works",
        "address",
        "alive",
        "answer_bytes",
        "cancels",
        "connections",
        "epoch",
        "fault",
        "leaf_expires_at",
        "name",
        "proxy",
        "reached",
        "rejected",
        "routes",
        "serves",
        "service",
        "thread",
        "wire",
    )

    def __init__(
        self, name: str, address: str, service: AppService, agenda: Agenda, random: Random, reached: Tally
    ) -> None:
        self.name = name
        self.address = address
        self.service = service
        self.alive = True
        self.serves = True
        """False while only the proxy is left of a pod that is being killed."""
        self.epoch = 0
        """Grows with each death; work and connections of an earlier life are void."""
        self.leaf_expires_at: float | None = None
        """None: not meshed, no TLS."""
        self.proxy: ClientProxy | None = None
        self.connections: dict[Connection, None] = {}
        """Open ones, in order of their opening."""
        self.fault: AppFault | None = None
        self.reached = reached
        """Counts each request that reaches the pod's inbound proxy."""
        self.rejected = 0
        self.routes: dict[tuple[str, str], RouteModel] = {}
        """By method and path; set once all services exist."""
        self.thread: Thread | None = None
        """The app's event loop; None where CPU is not modelled."""
        self.wire: Wire | None = None
        """What it sends waits here while it is throttled."""
        self.answer_bytes = TYPICAL_BYTES[0]
        self._serve_seconds = 0.0
        self._agenda = agenda
        self._workers = service.workers
        self._random = random
        self._busy = 0
        self._queue: deque[Work] = deque()
        self._burns = service.work == "cpu"
        self._shared: SharedProcessor | None = SharedProcessor(agenda) if service.work == "shared" else None
        self._burning_until = -1e18
        self._held: list[tuple[Work, int]] = []
        """Answers that a freeze holds back, workers and all."""
        self._parked: list[Work] = []
        """Arrivals during a freeze, which take part in nothing yet."""
        self.cancels = service.cancels
        self._works: dict[Try, Work] = {}
        """What may be cancelled."""

    @property
    def queue_length(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> int:
        return self._busy

    @property
    def backlog(self) -> int:
        """All that is in the pod: served, queued, or come while it was frozen."""
        return self._busy + len(self._queue) + len(self._parked)

    def runs_on(self, thread: Thread, serve_seconds: float) -> None:
        """Its process, and the CPU time that a request costs it."""
        self.thread = thread
        self._serve_seconds = serve_seconds

    # ---- requests

    def arrive(self, trial: Try, route: RouteModel) -> None:
        """A request of a client proxy is here. What it waits for CPU is added to its way back."""
        now = self._agenda.now
        self.reached.add(now)
        if not self.serves:
            trial.answer(NO_APP)
            return
        work = Work(self, trial, route, self.epoch)
        thread = self.thread
        if thread is None:
            self._admit(work)
            return
        wait = thread.take(now, self._serve_seconds)
        computes = self._burns or self._shared is not None
        if computes:
            # It reads its sockets between two burns, and a request queues for the burning itself. That is put in before
            # the proxy's part: those tenths of a millisecond beside it must not stretch the whole of it.
            self._admit(work)
        else:
            trial.cpu_delay += wait
        proxy = self.proxy
        if proxy is not None and proxy.thread is not None:
            trial.cpu_delay += proxy.thread.take(now, proxy.inbound_seconds)
        if not computes:
            self._admit(work)

    def arrive_astray(self, trial: Try, method: str, path: str) -> None:
        """A request that was meant for another service. It is served where there is such a route, else 404 at once."""
        route = self.routes.get((method, path))
        if route is not None:
            self.arrive(trial, route)
            return
        self.reached.add(self._agenda.now)
        trial.answer(404 if self.serves else NO_APP)

    def _admit(self, work: Work) -> None:
        fault = self.fault
        if self.cancels:
            self._works[work.trial] = work
        if fault is not None and fault.freeze and fault.hits(work.route.route):
            self._parked.append(work)
        elif self._busy < self._workers:
            self._busy += 1
            self._start(work)
        elif len(self._queue) < self.service.queue:
            self._queue.append(work)
        else:
            self.rejected += 1
            self._works.pop(work.trial, None)
            work.trial.answer(503)

    def _start(self, work: Work) -> None:
        agenda = self._agenda
        now = agenda.now
        work.waits = False
        seconds = work.route.times.next()
        fault = self.fault
        latency = fault.latency if fault is not None and fault.latency and fault.hits(work.route.route) else 0.0
        thread = self.thread
        if self._shared is not None:
            if thread is not None:
                alone = seconds
                seconds *= thread.machine.stretch(now, thread)
                thread.burn(now, alone)
            self._shared.put(seconds, work, latency)
            return
        if self._burns:
            # One burns at a time, in order of starting, as on a single-threaded runtime.
            if thread is not None:
                seconds = thread.burn(now, seconds)
            else:
                self._burning_until = max(now, self._burning_until) + seconds
                seconds = self._burning_until - now
        agenda.put(now + seconds + latency, work)

    def worked(self, work: Work) -> None:
        """Its self time is over."""
        if work.epoch != self.epoch:
            return
        route = work.route
        if route.failure_rate and self._random.random() < route.failure_rate:
            self._answer(work, 500)
            return
        fault = self.fault
        erring = fault is not None and fault.error_rate > 0 and fault.hits(route.route)
        if fault is not None and erring and self._random.random() < fault.error_rate:
            self._answer(work, fault.status)
            return
        if route.calls:
            self._call(work)
        else:
            self._answer(work, 200)

    def _call(self, work: Work) -> None:
        group = work.route.calls[work.group]
        work.group += 1
        work.open_calls = len(group)
        proxy = self.proxy
        assert proxy is not None
        calls: list[Outbound] | None = [] if self.cancels else None
        work.calls = calls
        for target in group:
            call = proxy.request(target, work)  # an answer at once goes on with the next group, whose calls are others
            if calls is not None:
                calls.append(call)

    def called(self, work: Work, status: int) -> None:
        """A call to another service was answered."""
        if work.epoch != self.epoch:
            return
        work.open_calls -= 1
        if status >= 500:
            work.failed = True
        if work.open_calls:
            return
        if work.failed:
            self._answer(work, 502)
        elif work.group < len(work.route.calls):
            self._call(work)
        else:
            self._answer(work, 200)

    def _answer(self, work: Work, status: int) -> None:
        fault = self.fault
        if fault is not None and fault.freeze and fault.hits(work.route.route):
            self._held.append((work, status))
            return
        if self.cancels:
            del self._works[work.trial]
        work.trial.answer(status)
        self._free_worker()

    def _free_worker(self) -> None:
        if self._queue:
            self._start(self._queue.popleft())
        else:
            self._busy -= 1

    def cancel(self, trial: Try) -> None:
        """Nobody waits for that answer any more, and the app hears of it. Nothing where it was given."""
        work = self._works.pop(trial, None)
        if work is None:
            return
        work.epoch = CANCELLED
        if work in self._parked:
            self._parked.remove(work)
        elif work.waits:
            self._queue.remove(work)
        else:
            self._held = [(other, status) for other, status in self._held if other is not work]
            for call in work.calls or ():
                call.abandon()
            self._free_worker()

    # ---- faults

    def throttle(self, wire: Wire, calls: bool) -> None:
        """What it answers, and where asked for what it calls, waits for a wire from now on."""
        self.wire = wire
        if calls and self.proxy is not None:
            self.proxy.wire = wire

    def unthrottle(self) -> None:
        """As before; what waits is sent at once."""
        wire, self.wire = self.wire, None
        if self.proxy is not None:
            self.proxy.wire = None
        if wire is not None:
            wire.free()

    def degrade(self, fault: AppFault | None) -> None:
        """Applies a fault, or lifts it; what was frozen then goes on."""
        self.fault = fault
        held, self._held = self._held, []
        for work, status in held:
            self._answer(work, status)
        parked, self._parked = self._parked, []
        for work in parked:
            self._admit(work)

    def kill_app(self) -> None:
        """SIGKILL to the app alone: all work is lost, and the proxy answers for it."""
        self._lose_work()
        for connection in list(self.connections):
            for trial in list(connection.tries):
                if not trial.status:  # no answer is on its way
                    trial.answer(NO_APP)

    def _lose_work(self) -> None:
        self.serves = False
        self.epoch += 1
        self._busy = 0
        self._queue.clear()
        self._held.clear()
        self._parked.clear()
        self._works.clear()
        self._burning_until = -1e18
        if self._shared is not None:
            self._shared.clear()
        if self.thread is not None:
            self.thread.reset()

    def kill(self) -> None:
        """SIGKILL to app and proxy: every connection breaks, all work is lost."""
        self.alive = False
        self._lose_work()
        if self.wire is not None:
            self.wire.clear()
            self.unthrottle()
        broken, self.connections = list(self.connections), {}
        for connection in broken:
            connection.lost(self._agenda.now)  # first, so that no retry of the next line's picks one of these
        for connection in broken:
            connection.reset()
        if self.proxy is not None:
            self.proxy.kill()

    def start(self) -> None:
        """The pod is back, with empty hands."""
        self.alive = self.serves = True
        self.fault = None
