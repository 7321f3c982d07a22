"""What a request goes through in one replica. The twin models exactly this.

    arrives ─► frozen? waits for the thaw
       │
       ▼
    a worker free? ── no ─► queue (FIFO; full: 503 at once)
       │ yes
       ▼
    self time (waited or burned), injected latency added
       │
       ├─ own failure (500) or injected error (its status)
       ▼
    calls, stage after stage; the members of a stage at once. One that fails or is answered ≥500: 502
       │
       ▼
    answer (held back while frozen); the worker takes the next from the queue

Burning is done one request at a time, in order of starting, as a single-threaded runtime would; between two of them the
loop reads its sockets, so that workers and queue fill as they do when waiting. With `work: shared` requests burn in
turns of a millisecond, as threads do that share one core.

Where the client leaves, the work goes on, unless the service `cancels`: then the request gives up its place, and hangs
up on those whom it has called.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from functools import partial
from random import Random
from time import perf_counter, thread_time

import msgspec

from scenarios.model import Application, AppRoute, AppService, ServiceTime
from scenarios.workload import faults as injected
from scenarios.workload.client import Answered, Caller, Ongoing, request_head, whole_request
from scenarios.workload.faults import Faults
from scenarios.workload.http import Request
from scenarios.workload.metrics import Metrics

TURN_SECONDS = 0.001
"""What one request burns before the next one's turn, where work is shared."""
_OVERLOADED = b'{"error":"queue full"}'
_NOT_FOUND = b'{"error":"no such route"}'
_OWN_FAILURE = b'{"error":"failed"}'
_INJECTED = b'{"error":"injected fault"}'
_CALL_FAILED = b'{"error":"a call failed"}'


class _Route:
    """A route with all that can be prepared: its answer and the heads of its calls."""

    __slots__ = ("answer", "failure_rate", "name", "stages", "time")

    def __init__(self, route: AppRoute, service: AppService, app: Application, absolute: bool) -> None:
        self.name = route.name
        self.time = route.service_time
        self.failure_rate = route.failure_rate
        self.answer = msgspec.json.encode({"service": service.name, "route": route.name})
        self.stages = [
            [
                (
                    authority := app.service(call.service).authority,
                    request_head(call, authority, service.name, absolute),
                )
                for call in stage
            ]
            for stage in route.calls
        ]


class _Job:
    """One request that holds, or waits for, a worker."""

    __slots__ = (
        "arrived",
        "calls",
        "cancelled",
        "demand",
        "failed",
        "left",
        "open_calls",
        "request",
        "route",
        "stage",
        "started",
        "status",
        "waits",
    )

    def __init__(self, request: Request, route: _Route, arrived: float) -> None:
        self.request = request
        self.route = route
        self.arrived = arrived
        self.started = 0.0
        self.demand = 0.0
        """CPU seconds of its self time where work is shared, and what is left of them."""
        self.left = 0.0
        self.stage = 0
        self.open_calls = 0
        self.failed = False
        self.status = 200
        self.waits = True
        """For a worker."""
        self.cancelled = False
        self.calls: list[tuple[Ongoing, Answered]] = []
        """Those under way, where it may be cancelled."""


class Station:
    """Workers, queue and routes of one replica."""

    def __init__(
        self,
        app: Application,
        service: AppService,
        caller: Caller | None,
        rng: Random,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`caller` may be None where no route calls anyone."""
        self._service = service
        absolute = caller is None or caller.absolute
        self._routes = {(route.method, route.path): _Route(route, service, app, absolute) for route in service.routes}
        self._caller = caller
        self._rng = rng
        self._loop = loop
        self._queue: deque[_Job] = deque()
        self._to_burn: deque[_Job] = deque()
        self._parked: deque[tuple[Request, _Route]] = deque()
        self._held: list[tuple[_Job, int, bytes]] = []
        self.metrics = Metrics([route.name for route in service.routes])
        self._faults = injected.NONE

    @property
    def route_names(self) -> set[str]:
        return {route.name for route in self._service.routes}

    @property
    def faults(self) -> Faults:
        return self._faults

    def set_faults(self, faults: Faults) -> None:
        """Replaces the faults; what a freeze held back goes on unless the new ones freeze it too."""
        self._faults = faults
        held, self._held = self._held, []
        for job, status, body in held:
            self._answer(job, status, body)
        parked, self._parked = self._parked, deque()
        for request, route in parked:
            self._arrive(request, route)

    def handle(self, request: Request) -> None:
        route = self._routes.get((request.method, request.path))
        if route is None:
            request.respond(404, _NOT_FOUND)
        else:
            self._arrive(request, route)

    # ---- worker and queue

    def _arrive(self, request: Request, route: _Route) -> None:
        if self._frozen(route):
            self._parked.append((request, route))
            if self._service.cancels:
                request.gone = partial(self._leave_parked, request, route)
            return
        metrics = self.metrics
        if metrics.workers_busy < self._service.workers:
            metrics.workers_busy += 1
            self._start(self._job(request, route))
        elif len(self._queue) < self._service.queue:
            self._queue.append(self._job(request, route))
            metrics.queue_length += 1
        else:
            metrics.rejected += 1
            metrics.answered(route.name, 503)
            request.respond(503, _OVERLOADED)

    def _job(self, request: Request, route: _Route) -> _Job:
        job = _Job(request, route, perf_counter())
        if self._service.cancels:
            request.gone = partial(self._cancel, job)
        return job

    def _frozen(self, route: _Route) -> bool:
        return self._faults.freeze and self._faults.hits(route.name)

    def _start(self, job: _Job) -> None:
        now = perf_counter()
        self.metrics.waited(now - job.arrived)
        job.started = now
        job.waits = False
        if self._service.work != "wait":
            if not self._to_burn:
                self._loop.call_soon(self._burn_next if self._service.work == "cpu" else self._burn_turn)
            if self._service.work == "shared":
                job.demand = job.left = sample(job.route.time, self._rng)
            self._to_burn.append(job)
            return
        seconds = sample(job.route.time, self._rng)
        if self._faults.latency_seconds and self._faults.hits(job.route.name):
            seconds += self._faults.latency_seconds
        self._loop.call_later(seconds, self._worked, job)

    def _burn_next(self) -> None:
        job = self._to_burn[0]
        seconds = sample(job.route.time, self._rng)
        burn(seconds)
        # What it took depends on who else was using the machine; its self time is what it burned.
        job.started = perf_counter() - seconds
        self._to_burn.popleft()
        if self._to_burn:
            self._loop.call_later(0, self._burn_next)
        self._burned(job)

    def _burn_turn(self) -> None:
        """One turn of the job that waits longest for one."""
        job = self._to_burn.popleft()
        turn = min(job.left, TURN_SECONDS)
        burn(turn)
        job.left -= turn
        if job.left > 0.0:
            self._to_burn.append(job)
        if self._to_burn:
            self._loop.call_later(0, self._burn_turn)
        if job.left <= 0.0:
            # What it took depends on the others; its self time is what it burned.
            job.started = perf_counter() - job.demand
            self._burned(job)

    def _burned(self, job: _Job) -> None:
        if self._faults.latency_seconds and self._faults.hits(job.route.name):
            self._loop.call_later(self._faults.latency_seconds, self._worked, job)
        else:
            self._worked(job)

    # ---- after the self time

    def _worked(self, job: _Job) -> None:
        if job.cancelled:
            return
        route = job.route
        self.metrics.worked(route.name, perf_counter() - job.started)
        faults = self._faults
        if route.failure_rate and self._rng.random() < route.failure_rate:
            self._answer(job, 500, _OWN_FAILURE)
        elif faults.error_rate and faults.hits(route.name) and self._rng.random() < faults.error_rate:
            self._answer(job, faults.status, _INJECTED)
        else:
            self._next_stage(job)

    def _next_stage(self, job: _Job) -> None:
        if job.failed:
            self._answer(job, 502, _CALL_FAILED)
            return
        if job.stage == len(job.route.stages):
            self._answer(job, 200, job.route.answer)
            return
        assert self._caller is not None
        calls = job.route.stages[job.stage]
        job.stage += 1
        job.open_calls = len(calls)

        def answered(status: int | None) -> None:
            if status is None or status >= 500:
                job.failed = True
            job.open_calls -= 1
            if not job.open_calls:
                self._next_stage(job)

        job.calls.clear()
        for authority, head in calls:
            ongoing = self._caller.call(authority, whole_request(head, job.request.trace), answered)
            if self._service.cancels:
                job.calls.append((ongoing, answered))

    def _answer(self, job: _Job, status: int, body: bytes) -> None:
        if job.cancelled:
            return
        if self._frozen(job.route):
            self._held.append((job, status, body))
            return
        self.metrics.answered(job.route.name, status)
        # The worker is free before the answer is out: the client's next request on this connection may follow at once.
        self._free_worker()
        job.request.respond(status, body)

    def _free_worker(self) -> None:
        if self._queue:
            following = self._queue.popleft()
            self.metrics.queue_length -= 1
            self._start(following)
        else:
            self.metrics.workers_busy -= 1

    # ---- clients that leave

    def _cancel(self, job: _Job) -> None:
        """Its client left: it gives up its place, and whom it has called."""
        self.metrics.cancelled += 1
        job.cancelled = True
        if job.waits:
            self._queue.remove(job)
            self.metrics.queue_length -= 1
            return
        for ongoing, answered in job.calls:
            ongoing.hang_up(answered)
        self._free_worker()

    def _leave_parked(self, request: Request, route: _Route) -> None:
        self.metrics.cancelled += 1
        self._parked.remove((request, route))


def sample(time: ServiceTime, rng: Random) -> float:
    """One self time, seconds."""
    if time.kind == "constant" or time.median_seconds == 0:
        return time.median_seconds
    if time.kind == "exponential":
        return rng.expovariate(math.log(2) / time.median_seconds)
    return time.median_seconds * math.exp(time.sigma * rng.gauss(0.0, 1.0))


def burn(seconds: float) -> None:
    """Uses `seconds` of this thread's CPU time, however long that takes on a busy machine."""
    end = thread_time() + seconds
    value = 1.0
    while thread_time() < end:
        for _ in range(50):
            value = math.sqrt(value + 1.0)
