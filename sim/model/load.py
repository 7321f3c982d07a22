"""The load generator: arrivals of journeys, Poisson or known beforehand, timed from the intended send. The rules are
those of loadtests/.

An arrival beyond the in-flight cap is dropped and recorded as never answered. A journey's next step is sent when the
one before was answered, and not at all when that failed. An answer that is not there within the timeout never comes:
the client closes, and what its request set off inside the application goes on.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from itertools import accumulate
from random import Random

from scenarios.model import JourneyStep, LoadSpec
from sim.model.agenda import Agenda, Entry
from sim.model.arrivals import Schedule
from sim.model.draws import Draws
from sim.model.processor import Thread
from sim.model.proxy import ClientProxy, Outbound, Requester, Target
from sim.model.record import Record


class Step:
    """One step of a journey, resolved."""

    __slots__ = ("name", "target")

    def __init__(self, step: JourneyStep, target: Target) -> None:
        self.name = f"{step.method} {step.service} {step.path}"
        self.target = target


class _Flight(Requester):
    """One request of one journey, under way. It happens when its client has read the answer and sends the next."""

    __slots__ = ("generator", "index", "intended_at", "outbound", "proxy", "steps")

    def __init__(
        self, generator: LoadGenerator, steps: tuple[Step, ...], index: int, proxy: ClientProxy, intended_at: float
    ) -> None:
        self.when = 0.0
        self.serial = 0
        self.generator = generator
        self.steps = steps
        self.index = index
        self.proxy = proxy
        self.intended_at = intended_at
        self.outbound: Outbound | None = None

    def happen(self) -> None:
        self.generator.send_next(self)

    def answered(self, status: int) -> None:
        self.generator.answered(self, status)


class LoadGenerator(Entry):
    """All journeys of a run. It happens with each arrival."""

    def __init__(
        self,
        agenda: Agenda,
        spec: LoadSpec,
        journeys: list[tuple[str, float, tuple[Step, ...]]],
        proxies: list[ClientProxy],
        rate: float,
        failure_share: float,
        gaps: Draws,
        overhead: Draws,
        random: Random,
        record: Record,
        until: float,
        schedule: Schedule | None = None,
    ) -> None:
        """`journeys`: name, share and steps of each. `gaps`: between arrivals, mean 1. `until`: no arrival after this.
        `schedule`: the arrivals, instead of rate, shares and gaps."""
        super().__init__()
        self._agenda = agenda
        self._timeout = spec.timeout
        self._max_in_flight = spec.max_in_flight
        self._steps = [steps for _, share, steps in journeys if share > 0]
        self._shares = list(accumulate(share for _, share, _ in journeys if share > 0))
        self._scheduled = _due(schedule, journeys) if schedule is not None else None
        self._proxies = proxies
        self._rate = rate
        self._failure_share = failure_share
        self._gaps = gaps
        self._overhead = overhead
        self._random = random
        self._record = record
        self._until = until
        self._in_flight = 0
        self._turn = 0
        self._client_thread: Thread | None = None
        self._client_seconds = 0.0
        self._timeouts: deque[_Flight] = deque()
        """By their deadlines, which ascend since every request has the same timeout."""
        self._watching = False

    def runs_on(self, thread: Thread, client_seconds: float) -> None:
        """Its process, and the CPU time that a request costs it."""
        self._client_thread = thread
        self._client_seconds = client_seconds

    def start(self) -> None:
        if self._scheduled is not None:
            while self._scheduled and self._scheduled[0][0] < self._agenda.now:
                self._scheduled.popleft()
            self._await_next()
        elif self._rate > 0 and self._steps:
            self._agenda.put(self._agenda.now + self._gaps.next() / self._rate, self)

    def _await_next(self) -> None:
        if self._scheduled and self._scheduled[0][0] < self._until:
            self._agenda.put(self._scheduled[0][0], self)

    def offer(self, rate: float) -> None:
        """Journeys a second from the next arrival on, where they are not scheduled."""
        self._rate = rate

    def happen(self) -> None:
        now = self._agenda.now
        if self._scheduled is not None:
            steps = self._scheduled.popleft()[1]
            self._await_next()
        else:
            again = now + self._gaps.next() / self._rate
            if again < self._until:
                self._agenda.put(again, self)
            choice = self._random.random() * self._shares[-1]
            steps = self._steps[min(bisect(self._shares, choice), len(self._steps) - 1)]
        if self._in_flight >= self._max_in_flight:
            self._record.add(steps[0].name, now, None, 0)
            return
        self._in_flight += 1
        self._turn = (self._turn + 1) % len(self._proxies)
        self._send(_Flight(self, steps, 0, self._proxies[self._turn], now))

    def _send(self, flight: _Flight) -> None:
        self._timeouts.append(flight)
        if not self._watching:
            self._watching = True
            self._agenda.call_at(flight.intended_at + self._timeout, self._time_out)
        flight.outbound = flight.proxy.request(flight.steps[flight.index].target, flight)

    def answered(self, flight: _Flight, status: int) -> None:
        """The client's own proxy has the answer."""
        flight.outbound = None
        now = self._agenda.now
        at = now + self._overhead.next()
        if self._client_thread is not None:
            at += self._client_thread.take(now, self._client_seconds)
        if self._failure_share and status < 500 and self._random.random() < self._failure_share:
            status = 599
        self._record.add(flight.steps[flight.index].name, flight.intended_at, at - flight.intended_at, status)
        if status < 500 and flight.index + 1 < len(flight.steps):
            self._agenda.put(at, flight)
        else:
            self._in_flight -= 1

    def send_next(self, flight: _Flight) -> None:
        """The client goes on to the journey's next step."""
        self._send(_Flight(self, flight.steps, flight.index + 1, flight.proxy, self._agenda.now))

    def _time_out(self, _: object) -> None:
        """Gives up what is due and looks again at the next deadline."""
        now = self._agenda.now
        timeout = self._timeout
        waiting = self._timeouts
        while waiting:
            flight = waiting[0]
            if flight.outbound is None:
                waiting.popleft()
                continue
            due = flight.intended_at + timeout
            if due > now:
                self._agenda.call_at(due, self._time_out)
                return
            waiting.popleft()
            flight.outbound.abandon()
            flight.outbound = None
            self._give_up(flight)
        self._watching = False

    def _give_up(self, flight: _Flight) -> None:
        self._record.add(flight.steps[flight.index].name, flight.intended_at, None, 0)
        self._in_flight -= 1

    def finish(self) -> None:
        """The run is over: whatever is still under way was never answered in time."""
        for flight in self._timeouts:
            if flight.outbound is not None:
                flight.outbound = None
                self._give_up(flight)


def _due(
    schedule: Schedule, journeys: list[tuple[str, float, tuple[Step, ...]]]
) -> deque[tuple[float, tuple[Step, ...]]]:
    steps = {name: some for name, _, some in journeys}
    return deque((at, steps[name]) for at, name in zip(schedule.at, schedule.journeys, strict=True))
