"""SimPy's clock with cancellable calls."""

from __future__ import annotations

import pytest

from sim.model.agenda import TooManyEvents
from sim.model.calendar import Calendar


def test_calls_and_processes_share_one_order_of_time() -> None:
    calendar = Calendar()
    seen: list[tuple[float, str]] = []

    def process():  # type: ignore[no-untyped-def]
        yield calendar.timeout(2.0)
        seen.append((calendar.now, "process"))
        calendar.agenda.call_at(3.0, lambda name: seen.append((calendar.now, name)), "from the process")

    calendar.process(process())
    calendar.agenda.call_at(1.0, lambda name: seen.append((calendar.now, name)), "first")
    calendar.agenda.call_at(2.5, lambda name: seen.append((calendar.now, name)), "between")
    calendar.agenda.run_until(10.0)
    assert seen == [(1.0, "first"), (2.0, "process"), (2.5, "between"), (3.0, "from the process")]
    assert calendar.now == 10.0


def test_plain_simpy_steps_serve_calls_too() -> None:
    calendar = Calendar()
    seen: list[str] = []
    calendar.agenda.call_at(1.0, seen.append, "called")
    calendar.run(until=2.0)
    assert seen == ["called"]


def test_a_cancelled_call_does_not_happen() -> None:
    calendar = Calendar()
    seen: list[str] = []
    calendar.agenda.call_at(1.0, seen.append, "never").cancel()
    calendar.agenda.run_until(2.0)
    assert seen == []


def test_a_runaway_is_stopped() -> None:
    calendar = Calendar(max_events=100)

    def again(_: object) -> None:
        calendar.agenda.call_at(calendar.now + 0.001, again)

    calendar.agenda.call_at(0.0, again)
    with pytest.raises(TooManyEvents) as stopped:
        calendar.agenda.run_until(10.0)
    assert stopped.value.at == pytest.approx(0.1, abs=0.002)
