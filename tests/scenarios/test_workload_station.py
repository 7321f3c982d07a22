"""The semantics of one replica, on virtual time: what the twin models is what the workload does."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, cast

import pytest

from scenarios.model import Application, AppRoute, AppService, Call, ServiceTime
from scenarios.workload import station as station_module
from scenarios.workload.faults import NONE, Faults
from scenarios.workload.http import Request
from scenarios.workload.station import Station, sample

SECOND = ServiceTime(1.0, kind="constant")


class Clock:
    """Stands in for the event loop: callbacks at virtual times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._heap, (self.now + delay, next(self._order), callback, arguments))

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.call_later(0.0, callback, *arguments)

    def run(self, until: float) -> None:
        while self._heap and self._heap[0][0] <= until:
            self.now, _, callback, arguments = heapq.heappop(self._heap)
            callback(*arguments)
        self.now = until


class FakeRequest:
    def __init__(self, clock: Clock, method: str = "POST", path: str = "/work", trace: bytes = b"") -> None:
        self.method, self.path, self.trace, self.body = method, path, trace, b""
        self.gone: Callable[[], None] | None = None
        self.status: int | None = None
        self.at: float | None = None
        self._clock = clock

    def respond(self, status: int, body: bytes, content_type: bytes = b"") -> None:
        assert self.status is None, "answered twice"
        self.status, self.at = status, self._clock.now


class FakeOngoing:
    def __init__(self) -> None:
        self.hung_up_on: list[Callable[[int | None], None]] = []

    def hang_up(self, answered: Callable[[int | None], None], /) -> None:
        self.hung_up_on.append(answered)


class FakeCaller:
    """Answers every call after a second, with the next of `statuses`, whoever hung up."""

    absolute = True

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.statuses: list[int | None] = []
        self.sent: list[tuple[float, bytes]] = []
        self.ongoing = FakeOngoing()

    def call(self, authority: str, request: bytes, answered: Callable[[int | None], None]) -> FakeOngoing:
        self.sent.append((self.clock.now, request))
        self.clock.call_later(1.0, self._answer, answered)
        return self.ongoing

    def _answer(self, answered: Callable[[int | None], None]) -> None:
        if answered not in self.ongoing.hung_up_on:
            answered(self.statuses.pop(0) if self.statuses else 200)


class Replica:
    def __init__(self, clock: Clock, **changes: Any) -> None:
        self.clock = clock
        self.caller = FakeCaller(clock)
        route = AppRoute(
            "POST", "/work", changes.pop("time", SECOND), changes.pop("calls", ()), changes.pop("fails", 0.0)
        )
        other = AppService(
            "other", "ns", 8080, 1, 1, 0, "wait", (AppRoute("GET", "/x", SECOND), AppRoute("POST", "/y", SECOND))
        )
        settings: dict[str, Any] = {"workers": 1, "queue": 1, "work": "wait"} | changes
        service = AppService("shop", "ns", 8080, 1, routes=(route,), **settings)
        app = Application("test", Path("test.yaml"), (service, other), ())
        self.station = Station(app, service, self.caller, Random(1), cast(asyncio.AbstractEventLoop, clock))

    def send(self, **changes: Any) -> FakeRequest:
        request = FakeRequest(self.clock, **changes)
        self.station.handle(cast(Request, request))
        return request


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(station_module, "perf_counter", lambda: clock.now)
    return clock


def test_a_worker_then_the_queue_in_order_then_503_at_once(clock: Clock) -> None:
    replica = Replica(clock, workers=2, queue=2)
    requests = [replica.send() for _ in range(5)]
    assert requests[4].status == 503
    assert replica.station.metrics.rejected == 1
    assert (replica.station.metrics.workers_busy, replica.station.metrics.queue_length) == (2, 2)
    clock.run(10)
    assert [request.at for request in requests] == [1, 1, 2, 2, 0]
    assert (replica.station.metrics.workers_busy, replica.station.metrics.queue_length) == (0, 0)


def test_the_worker_is_held_until_the_calls_are_answered(clock: Clock) -> None:
    replica = Replica(clock, calls=((Call("other", "GET", "/x"),),))
    first, second = replica.send(), replica.send()
    clock.run(10)
    assert (first.at, second.at) == (2, 4)


def test_stages_follow_one_another_and_members_of_a_stage_go_together(clock: Clock) -> None:
    x, y = Call("other", "GET", "/x"), Call("other", "POST", "/y")
    replica = Replica(clock, calls=((x, y), (x,)))
    request = replica.send()
    clock.run(10)
    assert [at for at, _ in replica.caller.sent] == [1, 1, 2]
    assert request.at == 3


@pytest.mark.parametrize("answer", [500, 503, None])
def test_a_failed_call_makes_502_after_its_stage_and_no_further_stage(clock: Clock, answer: int | None) -> None:
    x = Call("other", "GET", "/x")
    replica = Replica(clock, calls=((x, x), (x,)))
    replica.caller.statuses = [200, answer]
    request = replica.send()
    clock.run(10)
    assert (request.status, request.at, len(replica.caller.sent)) == (502, 2, 2)


def test_a_4xx_of_a_call_is_an_answer_like_any_other(clock: Clock) -> None:
    replica = Replica(clock, calls=((Call("other", "GET", "/x"),),))
    replica.caller.statuses = [404]
    request = replica.send()
    clock.run(10)
    assert request.status == 200


def test_failures_come_after_the_self_time_and_before_any_call(clock: Clock) -> None:
    replica = Replica(clock, fails=1.0, calls=((Call("other", "GET", "/x"),),))
    request = replica.send()
    clock.run(10)
    assert (request.status, request.at, replica.caller.sent) == (500, 1, [])


def test_injected_errors_and_latency_hit_their_route_and_end_when_lifted(clock: Clock) -> None:
    replica = Replica(clock)
    replica.station.set_faults(Faults(error_rate=1.0, status=504, latency_seconds=2.0, route="POST /work"))
    request = replica.send()
    clock.run(10)
    assert (request.status, request.at) == (504, 3)
    replica.station.set_faults(Faults(error_rate=1.0, latency_seconds=2.0, route="GET /elsewhere"))
    spared = replica.send()
    clock.run(20)
    assert (spared.status, spared.at) == (200, 11)


def test_a_frozen_replica_answers_nothing_and_then_everything(clock: Clock) -> None:
    replica = Replica(clock, workers=1, queue=1)
    under_way = replica.send()
    replica.station.set_faults(Faults(freeze=True))
    later = [replica.send() for _ in range(4)]
    clock.run(30)
    assert [request.status for request in (under_way, *later)] == [None] * 5
    replica.station.set_faults(NONE)
    clock.run(40)
    assert (under_way.status, under_way.at) == (200, 30)
    # The thaw is a burst: one worker, one place in the queue, the others are too many.
    assert [request.status for request in later] == [200, 200, 503, 503]


def leave(request: FakeRequest) -> None:
    assert request.gone is not None
    request.gone()


def test_who_leaves_is_served_to_the_end_unless_the_service_cancels(clock: Clock) -> None:
    assert Replica(clock).send().gone is None
    replica = Replica(clock, cancels=True, queue=2)
    first, second, third = replica.send(), replica.send(), replica.send()
    clock.run(0.5)
    leave(second)
    leave(first)  # the worker takes the next one, who is the third by now
    clock.run(10)
    assert (first.at, second.at, third.at) == (None, None, 1.5)
    metrics = replica.station.metrics
    assert (metrics.workers_busy, metrics.queue_length, metrics.cancelled) == (0, 0, 2)


def test_who_leaves_while_calls_are_under_way_has_them_hung_up(clock: Clock) -> None:
    replica = Replica(clock, cancels=True, calls=((Call("other", "GET", "/x"), Call("other", "POST", "/y")),))
    first, second = replica.send(), replica.send()
    clock.run(1.5)
    leave(first)
    clock.run(10)
    assert len(replica.caller.ongoing.hung_up_on) == 2
    assert (first.at, second.at) == (None, 3.5)


def test_who_leaves_a_frozen_replica_is_not_there_when_it_thaws(clock: Clock) -> None:
    replica = Replica(clock, cancels=True)
    before = replica.send()
    clock.run(0.5)
    replica.station.set_faults(Faults(freeze=True))
    parked, stays = replica.send(), replica.send()
    clock.run(2)
    leave(parked)
    leave(before)  # its answer is held back
    clock.run(3)
    replica.station.set_faults(NONE)
    clock.run(10)
    assert (before.at, parked.at, stays.at) == (None, None, 4)
    assert replica.station.metrics.workers_busy == 0


def test_injected_errors_strike_at_their_rate(clock: Clock) -> None:
    replica = Replica(clock, workers=2000)
    replica.station.set_faults(Faults(error_rate=0.3))
    requests = [replica.send() for _ in range(2000)]
    clock.run(2)
    assert 500 < sum(request.status == 503 for request in requests) < 700


def test_burning_is_one_request_at_a_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def burn(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(station_module, "burn", burn)
    replica = Replica(clock, workers=3, queue=0, work="cpu")
    requests = [replica.send() for _ in range(4)]
    assert requests[3].status == 503
    clock.run(10)
    assert [request.at for request in requests[:3]] == [1, 2, 3]


def test_what_was_burned_is_counted_and_not_how_long_that_took(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a burn takes longer; whoever models the machine wants to know what was asked of it."""

    def burn(seconds: float) -> None:
        clock.now += 3.0 * seconds

    monkeypatch.setattr(station_module, "burn", burn)
    replica = Replica(clock, work="cpu")
    request = replica.send()
    clock.run(10)
    assert request.at == 3
    assert 'app_service_seconds_sum{route="POST /work"} 1\n' in replica.station.metrics.exposition().decode()


def test_shared_work_is_burned_in_turns(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that start together end together, after what both of them need; their self time is what each burned."""

    def burn(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(station_module, "burn", burn)
    replica = Replica(clock, workers=3, queue=0, work="shared")
    requests = [replica.send() for _ in range(2)]
    clock.run(10)
    assert [request.at for request in requests] == pytest.approx([1.999, 2.0])
    text = replica.station.metrics.exposition().decode()
    (total,) = [line for line in text.splitlines() if line.startswith("app_service_seconds_sum")]
    assert float(total.rpartition(" ")[2]) == pytest.approx(2.0)


def test_an_unknown_route_is_404_and_takes_no_worker(clock: Clock) -> None:
    replica = Replica(clock)
    assert replica.send(path="/nowhere").status == 404
    assert replica.send(method="GET").status == 404
    assert replica.station.metrics.workers_busy == 0


def test_trace_headers_travel_with_the_calls(clock: Clock) -> None:
    replica = Replica(clock, calls=((Call("other", "POST", "/y"),),))
    replica.send(trace=b"traceparent: 00-1-2-01\r\n")
    clock.run(5)
    request = replica.caller.sent[0][1]
    assert request.startswith(
        b"POST http://other.ns.svc.cluster.local:8080/y HTTP/1.1\r\nhost: other.ns.svc.cluster.local:8080\r\n"
    )
    assert b"\r\ntraceparent: 00-1-2-01\r\n\r\n" in request


def test_self_times_and_waits_are_counted_apart(clock: Clock) -> None:
    replica = Replica(clock, workers=1, queue=1, calls=((Call("other", "GET", "/x"),),))
    replica.send()
    replica.send()
    clock.run(10)
    text = replica.station.metrics.exposition().decode()
    assert 'app_service_seconds_sum{route="POST /work"} 2\n' in text
    assert 'app_service_seconds_count{route="POST /work"} 2\n' in text
    assert 'app_service_seconds_bucket{route="POST /work",le="+Inf"} 2\n' in text
    assert "app_queue_seconds_sum 2\n" in text
    assert "app_queue_seconds_count 2\n" in text
    assert 'app_requests_total{route="POST /work",status="200"} 2\n' in text


@pytest.mark.parametrize(
    ("time", "middle"),
    [
        (ServiceTime(0.02, 0.5, "lognormal"), 0.02),
        (ServiceTime(0.02, kind="exponential"), 0.02),
        (ServiceTime(0.02, kind="constant"), 0.02),
        (ServiceTime(0.0, 0.5), 0.0),
    ],
)
def test_self_times_have_the_median_that_was_asked_for(time: ServiceTime, middle: float) -> None:
    rng = Random(7)
    assert median(sample(time, rng) for _ in range(20_000)) == pytest.approx(middle, rel=0.03)
