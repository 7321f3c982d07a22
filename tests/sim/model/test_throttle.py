"""A throttled pod in the twin: closed forms of its wire, and what becomes of answers, calls and handshakes."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from sim_builders import application, fault, parameters_of, played, service, setup_of

from scenarios.model import LoadSpec
from scenarios.throttle import BURST_BYTES, RECORD_BYTES, TokenBucket, bytes_per_second, on_the_wire
from sim.model.agenda import Agenda
from sim.model.faults import check
from sim.model.parameters import Parameters
from sim.model.record import Record
from sim.model.setup import CALLS_TOO, Setup, reached
from sim.model.wire import HANDSHAKE_BYTES, TYPICAL_BYTES, Wire
from sim.replication.mesh_figures import between

ANSWER = TYPICAL_BYTES[0] + RECORD_BYTES
"""Without segments' headers."""


def test_rates_are_read_as_tc_reads_them() -> None:
    assert bytes_per_second("64kbit") == 8_000.0
    assert bytes_per_second("2mbit") == 250_000.0


def test_what_exceeds_the_burst_waits_for_the_rate() -> None:
    """k messages at once: the k-th is out after (k·size − burst)/rate; an idle second earns a second's bytes again."""
    bucket = TokenBucket(0.0, 1_000.0, burst=500.0)
    assert [bucket.leaves_at(0.0, 200.0) for _ in range(5)] == pytest.approx([0.0, 0.0, 0.1, 0.3, 0.5])
    assert bucket.leaves_at(0.6, 100.0) == pytest.approx(0.6)
    assert bucket.leaves_at(100.0, 600.0) == pytest.approx(100.1), "more than the burst is never saved up"


@pytest.mark.parametrize("load", [0.3, 0.6, 0.85])
def test_one_queue_at_a_rate_is_m_d_1_with_an_exceptional_first(load: float) -> None:
    """Welch (1964): a customer that finds the server idle takes S0, here a segment of its own, any other one S.
    E[W] = λS²/(2(1−ρ)) + λ(S0²−S²)/(2(1−ρ+ρ0)), and (1−ρ)/(1−ρ+ρ0) of all find it idle."""
    rate = 8_000.0
    first, other = on_the_wire(ANSWER, False) / rate, on_the_wire(ANSWER, True) / rate
    arrivals = load / other
    rho, rho_first = arrivals * other, arrivals * first
    idle = (1 - rho) / (1 - rho + rho_first)
    expected = arrivals * other**2 / (2 * (1 - rho)) + arrivals * (first**2 - other**2) / (2 * (1 - rho + rho_first))
    expected += idle * first + (1 - idle) * other

    means = []
    for seed in range(8):
        agenda, random, taken = Agenda(), Random(seed), list[float]()
        wire = Wire(agenda, rate, burst=1e-9)
        for _ in range(20_000):
            agenda.run_until(agenda.now + random.expovariate(arrivals))
            wire.send(TYPICAL_BYTES[0], lambda began: taken.append(agenda.now - began), agenda.now)  # noqa: B023
        means.append(sum(taken) / len(taken))
    mean = sum(means) / len(means)
    error = (sum((m - mean) ** 2 for m in means) / (len(means) - 1) / len(means)) ** 0.5
    assert mean == pytest.approx(expected, abs=4 * error)
    assert error < 0.05 * expected


def throttled(rate: float, text: str, *, at: float = 0.0, duration: float = 20.0, **changes: object) -> Setup:
    app = application(service("front", calls=("back",), workers=10**6), service("back", workers=10**6))
    slow = fault("network-throttle", at=at, duration=duration, service="back", parameters={"rate": text})
    changes = {"faults": (slow,), "load": LoadSpec(rate, {"all": 1.0}, 10**6, 60.0), **changes}
    return setup_of(app, **changes)


def answered(record: Record, start: float, end: float) -> int:
    """Answers that came in that time."""
    ends = [at + took for at, took in zip(record.intended_at, record.latency, strict=True) if took is not None]
    return sum(1 for at in ends if start <= at < end)


def test_a_throttled_pod_answers_at_its_rate_and_catches_up_when_it_is_freed() -> None:
    """Half more than the wire holds: a queue from the first second on, hence full segments, and one rate exactly."""
    full = 8_000.0 / on_the_wire(ANSWER, True)
    record = played(throttled(1.5 * full, "64kbit"))
    assert answered(record, 3.0, 20.0) == pytest.approx(17.0 * full, abs=2)
    late = [a + t for a, t in zip(record.intended_at, record.latency, strict=True) if t is not None and a < 20.0]
    assert max(late) == pytest.approx(20.0, abs=0.1), "the fault's end frees what waits"
    assert set(record.status) == {200}


def test_the_burst_and_the_rate_give_the_delay_of_each_answer() -> None:
    """A queue that only grows: an answer is out at (bytes up to it − burst)/rate, but for the headers of those that
    left before there was a queue, a segment each."""
    full = 8_000.0 / on_the_wire(ANSWER, True)
    record = played(throttled(3 * full, "64kbit"))
    sent = sorted(zip(record.intended_at, record.latency, strict=True))
    early = [(at, took) for at, took in sent if 0.0 <= at < 6.0 and took is not None]
    for index, (at, took) in enumerate(early):
        if index % 50 == 49 and at > 1.0:
            bytes_before = (index + 1) * on_the_wire(ANSWER, True)
            assert at + took == pytest.approx((bytes_before - BURST_BYTES) / 8_000.0, abs=0.3)


def test_sizes_that_the_baseline_counted_decide() -> None:
    setup = throttled(60.0, "64kbit")
    small = played(setup, sized(60.0, 20.0))
    large = played(setup, sized(60.0, 2_000.0))
    assert answered(large, 3.0, 20.0) == pytest.approx(17.0 * 8_000.0 / on_the_wire(2_022.0, True), abs=2)
    assert answered(small, 3.0, 20.0) > 10 * answered(large, 3.0, 20.0)


def sized(rate: float, answer: float) -> Parameters:
    return replace(parameters_of(rate), bytes_sent={"back": (answer, 0.0)})


def test_a_handshake_that_does_not_pass_in_a_second_fails() -> None:
    """Load begins under the throttle. The burst lets one client's handshake through and nearly a second one; the others
    fail again and again, for each of their tries puts another handshake before the next."""
    app = application(service("front", calls=("back",), replicas=4), service("back"))
    slow = fault("network-throttle", duration=20.0, service="back", parameters={"rate": "8kbit"})
    setup = setup_of(app, faults=(slow,), load=LoadSpec(3.0, {"all": 1.0}, 10**6, 60.0))
    flight = on_the_wire(HANDSHAKE_BYTES + RECORD_BYTES, False)
    assert flight < BURST_BYTES
    assert (3 * flight - BURST_BYTES) / 1_000.0 > 1.0, "the third one takes longer than a handshake may"
    record = played(setup, load_from=1.0)
    during = [s for at, s in zip(record.intended_at, record.status, strict=True) if at < 15.0]
    after = [s for at, s in zip(record.intended_at, record.status, strict=True) if at > 22.5]
    assert set(during) >= {200, 502}
    assert set(after) == {200}
    fast = replace(setup, faults=(replace(slow, parameters={"rate": "160kbit"}),))
    assert set(played(fast, load_from=1.0).status) == {200}


def test_where_calls_are_throttled_too_they_wait_before_they_are_served() -> None:
    """On Kubernetes the whole pod is behind the queue, in the embedded world its answers alone."""
    slow = fault("network-throttle", duration=20.0, service="middle", parameters={"rate": "64kbit"})
    assert reached(slow, "local") is slow
    app = application(service("front", calls=("middle",)), service("middle", calls=("back",)), service("back"))
    setup = setup_of(app, load=LoadSpec(30.0, {"all": 1.0}, 10**6, 60.0))
    here, there = (
        between(played(replace(setup, faults=(reached(slow, world),))).reached["back"], 5.0, 20.0)
        for world in ("local", "kind")
    )
    assert here == pytest.approx(30.0 * 15.0, abs=4 * 450.0**0.5)
    per_request = on_the_wire(ANSWER, True) + on_the_wire(TYPICAL_BYTES[1] + RECORD_BYTES, True)
    assert there == pytest.approx(15.0 * 8_000.0 / per_request, rel=0.15)
    (said,) = check((reached(slow, "kind"),), {"middle"})
    assert CALLS_TOO not in said
    assert "scraped" in said


def test_a_killed_pod_comes_back_unthrottled_and_loses_what_waited() -> None:
    setup = throttled(100.0, "8kbit")
    killed = fault("pod-kill", at=5.0, duration=1.0, service="back")
    record = played(replace(setup, faults=(*setup.faults, killed)))
    assert 502 in record.status
    assert answered(record, 8.0, 20.0) == pytest.approx(1_200, abs=150)
