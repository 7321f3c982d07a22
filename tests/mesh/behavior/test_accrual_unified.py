"""The breaker that also knows a success rate, and the balancer's penalty for failures and busy servers."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.messages import Endpoint, FailureAccrualSpec, LoadBiasSpec, SuccessRateSpec
from mesh.behavior.accrual import FailureAccrual, State
from mesh.behavior.backend import Backend, BackendSettings
from mesh.behavior.ewma import biased
from mesh.behavior.outcome import pushback_of
from tests.mesh.behavior.test_behavior_destination import Silent

RNG = Random(0)


def breaker(
    max_failures: int = 100, *, honor_retry_after: bool = False, rate: SuccessRateSpec | None = None
) -> FailureAccrual:
    spec = FailureAccrualSpec(
        max_failures=max_failures,
        jitter_ratio=0.0,
        success_rate=rate or SuccessRateSpec(),
        honor_retry_after=honor_retry_after,
    )
    return FailureAccrual(spec, 0.0)


def feed(machine: FailureAccrual, start: float, outcomes: str, every: float = 1.0) -> float:
    """`.` success, `x` failure, `!` rate-limited; returns the time of the last."""
    now = start
    for index, outcome in enumerate(outcomes):
        now = start + index * every
        machine.observe(now, outcome == "x", RNG, 0.0 if outcome == "!" else None)
    return now


def test_a_low_success_rate_opens_it_without_failures_in_a_row() -> None:
    machine = breaker()
    feed(machine, 1.0, "x.x.x.x.x")
    assert machine.state is State.OPEN


def test_rate_limited_answers_count_for_the_success_rate() -> None:
    machine = breaker()
    feed(machine, 1.0, ".!!!!")
    assert machine.state is State.OPEN


def test_rate_limited_answers_do_not_count_as_failures_in_a_row() -> None:
    machine = breaker(3, rate=SuccessRateSpec(threshold=0.0))
    feed(machine, 1.0, "xx!xx")
    assert machine.state is State.CLOSED
    feed(machine, 10.0, "x")
    assert machine.state is State.OPEN


def test_failures_in_a_row_open_it_whatever_the_rate() -> None:
    machine = breaker(3, rate=SuccessRateSpec(min_requests=1_000))
    feed(machine, 1.0, "." * 50 + "xxx", every=0.01)
    assert machine.state is State.OPEN


def test_max_failures_zero_leaves_the_rate_alone_to_open_it() -> None:
    machine = breaker(0, rate=SuccessRateSpec(min_requests=1_000))
    feed(machine, 1.0, "x" * 500, every=0.01)
    assert machine.state is State.CLOSED


def test_too_few_requests_never_open_it() -> None:
    machine = breaker()
    feed(machine, 1.0, "xxxx")
    assert machine.state is State.CLOSED
    feed(machine, 5.0, "x")
    assert machine.state is State.OPEN


def test_after_a_long_silence_requests_are_counted_anew() -> None:
    machine = breaker()
    feed(machine, 1.0, ".....")
    feed(machine, 5.0 + 31.0, "xxxx")
    assert machine.state is State.CLOSED, "the average fell, and only four requests count"
    feed(machine, 41.0, "x")
    assert machine.state is State.OPEN


def test_a_healthy_endpoint_with_a_few_failures_stays_closed() -> None:
    machine = breaker()
    feed(machine, 1.0, "x" + "." * 19 + "x" + "." * 19, every=0.1)
    assert machine.state is State.CLOSED


def probed(outcome: str, rate: SuccessRateSpec | None = None) -> FailureAccrual:
    machine = breaker(1, rate=rate)
    feed(machine, 0.0, "x")
    assert machine.admits(1.0)
    machine.started()
    feed(machine, 1.1, outcome)
    return machine


def test_a_rate_limited_probe_leaves_it_open() -> None:
    assert probed("!").state is State.OPEN
    assert probed(".").state is State.CLOSED
    assert probed("!", SuccessRateSpec(threshold=0.0)).state is State.CLOSED, "without a rate a 429 is a success"


def test_a_closed_breaker_begins_with_a_clean_rate() -> None:
    machine = probed(".")
    feed(machine, 2.0, "....")
    assert machine.state is State.CLOSED


def test_the_first_penalty_lasts_as_long_as_retry_after_asked_up_to_the_largest() -> None:
    for asked, until in ((20.0, 25.0), (500.0, 65.0), (0.1, 6.0)):
        machine = breaker(honor_retry_after=True)
        feed(machine, 1.0, "!!!!")
        machine.observe(5.0, False, RNG, asked)
        assert machine.state is State.OPEN
        assert machine.open_until == pytest.approx(until), asked


def test_retry_after_is_not_honoured_unless_asked_for() -> None:
    machine = breaker()
    feed(machine, 1.0, "!!!!")
    machine.observe(5.0, False, RNG, 20.0)
    assert machine.open_until == pytest.approx(6.0)


@given(outcomes=st.text("x.!", max_size=40), every=st.floats(0.0, 5.0))
def test_without_a_failure_or_limit_it_never_opens_and_with_max_in_a_row_it_always_has(
    outcomes: str, every: float
) -> None:
    machine = breaker(4)
    states = []
    now = 1.0
    for outcome in outcomes:
        now += every
        if machine.state is not State.CLOSED:
            break
        machine.observe(now, outcome == "x", RNG, 0.0 if outcome == "!" else None)
        states.append(machine.state)
    seen = outcomes[: len(states)]
    if set(seen) <= {"."}:
        assert machine.state is State.CLOSED
    if "xxxx" in seen:
        assert machine.state is State.OPEN


# ---- what the answer asked for


@pytest.mark.parametrize(
    ("status", "grpc_status", "headers", "expected"),
    [
        (200, None, [(b"retry-after", b"9")], None),
        (503, None, [(b"retry-after", b"9")], None),
        (429, None, [], 0.0),
        (429, None, [(b"retry-after", b"9")], 9.0),
        (429, None, [(b"retry-after", b"soon")], 0.0),
        (429, None, [(b"retry-after", b"-4")], 0.0),
        (429, None, [(b"retry-after", b"Fri, 13 Feb 2009 23:31:40 GMT")], 10.0),
        (429, None, [(b"retry-after", b"Fri, 13 Feb 2009 23:31:20 GMT")], 0.0),
        (200, 8, [(b"grpc-retry-pushback-ms", b"1500")], 1.5),
        (200, 8, [(b"grpc-retry-pushback-ms", b"-1")], 0.0),
        (200, 14, [(b"grpc-retry-pushback-ms", b"1500")], None),
    ],
)
def test_pushback_is_read_from_rate_limited_answers_only(
    status: int, grpc_status: int | None, headers: list[tuple[bytes, bytes]], expected: float | None
) -> None:
    assert pushback_of(status, grpc_status, headers, 1_234_567_890.0) == expected


# ---- the balancer's penalty


@pytest.mark.parametrize(
    ("rtt", "failed", "pushback", "expected"),
    [
        (0.01, False, None, 0.01),
        (0.01, True, None, 5.0),
        (0.01, False, 0.0, 5.0),
        (0.01, False, 60.0, 60.0),
        (0.01, False, 900.0, 300.0),
        (7.0, True, None, 7.0),
    ],
)
def test_failures_and_busy_servers_count_as_slow(
    rtt: float, failed: bool, pushback: float | None, expected: float
) -> None:
    assert biased(rtt, failed, pushback, LoadBiasSpec()) == expected


def balanced(bias: LoadBiasSpec | None) -> list[str]:
    """Where 200 requests go when one endpoint answers 429 at once and the other 200 after 50 ms."""
    settings = BackendSettings(load_bias=bias)
    sent: list[str] = []

    class Sender(Silent):
        def send(self, ticket, endpoint, connection):  # type: ignore[no-untyped-def]
            sent.append(endpoint.spec.address)

        def connect(self, endpoint):  # type: ignore[no-untyped-def]
            connecting.append(endpoint)

    connecting: list = []  # type: ignore[type-arg]
    backend: Backend[str, int] = Backend(settings, Sender(), Random(1), 0.0)
    backend.update(0.0, [Endpoint(address=name, pod=name, namespace="n") for name in ("busy", "fine")])
    for step in range(200):
        now = step * 0.1
        backend.dispatch(now, f"t{step}")
        while connecting:
            backend.connected(now, connecting.pop(), step)
        state = backend.endpoints[sent[-1]]
        busy = sent[-1] == "busy"
        backend.finished(now + 0.05, state, None, 0.001 if busy else 0.05, False, 0.0 if busy else None)
    return sent


def test_with_the_penalty_a_busy_endpoint_is_spared_and_without_it_sought() -> None:
    assert balanced(None).count("busy") > 150
    assert balanced(LoadBiasSpec()).count("busy") < 50
