"""The open loop: every arrival is sent at its time, whatever became of those before it.

One greenlet walks the schedule and sleeps to each arrival; each arrival is a greenlet that goes through its journey's
steps. The first step is meant to be sent at the arrival, each next one when the one before was answered; a step with no
answer, or one of 500 and above, ends the journey. Latency counts from the intended send, so that time spent behind a
stalled system, or a stalled driver, is part of it.

Times are wall-clock seconds made of one reading at the start and the monotonic clock since, so that a step of the
system clock does not bend them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from random import Random

import gevent
from gevent.event import Event
from gevent.pool import Group

from loadtests.client import Client, RequestFailed
from loadtests.results import RequestResult
from loadtests.schedule import Arrival
from scenarios.model import Application, JourneyStep

_BODY = b"{}"
Target = Callable[[str], tuple[Client, str]]
"""Authority → the client that reaches it, and what stands before a request's path (`http://authority` or nothing)."""


class _Step:
    """A journey's step with its request's first and last bytes ready."""

    __slots__ = ("after", "before", "client", "route")

    def __init__(self, step: JourneyStep, app: Application, target: Target) -> None:
        authority = app.service(step.service).authority
        self.client, prefix = target(authority)
        self.route = f"{step.method} {step.service} {step.path}"
        self.before = (
            f"{step.method} {prefix}{step.path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: gameday-load\r\n"
        ).encode("ascii")
        has_body = step.method in ("POST", "PUT", "PATCH")
        self.after = (
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
            if has_body
            else b"\r\n"
        )


class OpenLoop:
    """Sends one schedule. Results go to `record`, in the order in which requests end."""

    def __init__(
        self,
        app: Application,
        target: Target,
        *,
        max_in_flight: int,
        timeout: float,
        seed: int | str,
        record: Callable[[RequestResult], None],
    ) -> None:
        self._journeys = {
            journey.name: [_Step(step, app, target) for step in journey.steps] for journey in app.journeys
        }
        self._max_in_flight = max_in_flight
        self._timeout = timeout
        self._rng = Random(f"traces/{seed}")
        self._record = record
        self._under_way = Group()
        self._stopped = Event()
        self._wall_zero = time.time() - time.monotonic()
        self.arrived = 0
        self.dropped = 0

    def run(self, schedule: Iterable[Arrival]) -> bool:
        """Walks the schedule; False if `stop` came before its end. Answers may be outstanding still, see `drain`."""
        start = time.monotonic()
        for arrival in schedule:
            due = start + arrival.at
            wait = due - time.monotonic()
            # Yields even when late, so that answers are read while the driver catches up.
            if bool(self._stopped.wait(timeout=wait)) if wait > 0 else self._yield():
                return False
            self._arrive(arrival.journey, due)
        return True

    def stop(self) -> None:
        """No more arrivals."""
        self._stopped.set()

    def drain(self, timeout: float | None = None) -> None:
        """Waits for what is under way, `timeout` at most (None: a request's); the rest counts as interrupted."""
        self._under_way.join(timeout=self._timeout if timeout is None else timeout)
        self._under_way.kill()

    @property
    def in_flight(self) -> int:
        return len(self._under_way)

    def _yield(self) -> bool:
        gevent.sleep(0)
        return bool(self._stopped.is_set())

    def _arrive(self, journey: str, due: float) -> None:
        self.arrived += 1
        steps = self._journeys[journey]
        if len(self._under_way) >= self._max_in_flight:
            self.dropped += 1
            self._record(RequestResult(steps[0].route, journey, self._wall(due), None, None, None, "dropped", None))
            return
        self._under_way.start(gevent.Greenlet(self._travel, journey, steps, due))

    def _travel(self, journey: str, steps: list[_Step], due: float) -> None:
        for step in steps:
            finished = self._request(step, journey, due)
            if finished is None:
                return
            due = finished

    def _request(self, step: _Step, journey: str, due: float) -> float | None:
        """One request; when it was answered, if the journey goes on."""
        trace = f"{self._rng.getrandbits(128) | 1:032x}"
        span = f"{self._rng.getrandbits(64) | 1:016x}"
        head = f"traceparent: 00-{trace}-{span}-01\r\nx-request-id: {trace}\r\n".encode("ascii")
        sent = time.monotonic()
        status: int | None = None
        error: str | None = "interrupted"
        finished: float | None = None
        try:
            status, _ = step.client.exchange(step.before + head + step.after, due + self._timeout)
            error = None
            finished = time.monotonic()
        except RequestFailed as failure:
            error = failure.reason
            if error != "timeout":
                finished = time.monotonic()
        finally:
            self._record(
                RequestResult(
                    step.route,
                    journey,
                    self._wall(due),
                    self._wall(sent),
                    self._wall(finished) if finished is not None else None,
                    status,
                    error,
                    trace,
                )
            )
        return finished if status is not None and status < 500 else None

    def _wall(self, monotonic: float) -> float:
        return round(self._wall_zero + monotonic, 6)
