"""What the machine did is taken off a stall once, and nothing else is."""

from __future__ import annotations

import pytest

from benchmarks.probe import Stall
from benchmarks.stalls import _without_the_machine
from benchmarks.witness import Gap, away_ms


def test_only_the_part_of_a_gap_that_lies_in_the_span_counts() -> None:
    seen = [Gap(1.000, 1.004), Gap(2.000, 2.010), Gap(3.0, 3.1)]
    assert away_ms(seen, 1.002, 2.005) == pytest.approx(2.0 + 5.0)
    assert away_ms(seen, 2.5, 2.9) == 0.0


def test_a_stall_that_the_machine_made_is_not_the_programs() -> None:
    (noted,) = _without_the_machine([Stall(10.010, 8.6, 9.6)], [Gap(10.002, 10.010)])
    assert noted.own_ms == pytest.approx(0.6)


def test_a_stall_without_a_gap_beside_it_stays_whole_and_comes_first() -> None:
    own, made = Stall(20.0, 6.0, 3.0), Stall(30.0, 9.0, 0.0)
    assert [(n.stall, round(n.own_ms, 3)) for n in _without_the_machine([made, own], [Gap(29.991, 30.0)])] == [
        (own, 6.0),
        (made, 0.0),
    ]


def test_a_wait_for_a_core_that_is_off_already_is_not_taken_off_again() -> None:
    (noted,) = _without_the_machine([Stall(10.0, 5.0, 5.0, waited_ms=4.0)], [Gap(9.991, 9.995)])
    assert noted.own_ms == pytest.approx(5.0)
