"""Quantiles of all steps at once are those of one step after another; what a window's edges do to counters."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_builders import application, in_slots, service, setup_of

from sim.model.record import Record
from sim.replication.quantities import APART_SECONDS, quantile_by_step, quantities, read_ahead

ROWS = st.lists(st.tuples(st.integers(0, 6), st.floats(0.0, 100.0)), max_size=60)


@given(ROWS, st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_every_step_has_the_quantile_of_its_own_values(rows: list[tuple[int, float]], share: float) -> None:
    step = np.asarray([index for index, _ in rows], dtype=np.int64)
    values = np.asarray([value for _, value in rows], dtype=np.float64)
    found = quantile_by_step(values, step, 7, share)
    for index in range(7):
        own = values[step == index]
        if len(own):
            assert found[index] == np.quantile(own, share)
        else:
            assert np.isnan(found[index])


@pytest.mark.parametrize(("lag", "expected"), [(0.0, 51 / 50), (0.3, 51 / 50), (0.8, 50 / 51)])
def test_what_is_under_way_at_a_windows_edge_is_counted_as_a_whole_request(lag: float, expected: float) -> None:
    """Five requests a second, each answered in the second in which it came, but for the one under way at 10.0 and the
    one at -1.0. Scrapes half a second earlier would not have seen half a request."""
    setup = setup_of(application(service("front", calls=("back",)), service("back")), inject_seconds=10.0)
    record = Record()
    five = dict.fromkeys(range(-2, 11), 5)
    record.reached["back"] = in_slots({**five, 9: 6, -2: 6})
    record.meant["back"] = in_slots({**five, -1: 6, 10: 6})
    found = quantities(record, setup, lag)["attempts_per_request", "back", "inject"]
    assert found == pytest.approx(expected)


def test_both_ends_of_a_call_are_read_a_little_apart_and_what_comes_meanwhile_is_a_whole_request() -> None:
    setup = setup_of(application(service("front", calls=("back",)), service("back")), inject_seconds=10.0)
    record = Record()
    record.reached["back"] = record.meant["back"] = in_slots(dict.fromkeys(range(-2, 21), 50))
    chance = Random(3)
    drawn = [read_ahead(record, "back", setup, chance)[10.0] for _ in range(20_000)]
    assert np.mean(drawn) == pytest.approx(0.0, abs=0.02)
    assert np.mean(np.abs(drawn)) == pytest.approx(50.0 * APART_SECONDS * np.sqrt(2.0 / np.pi), rel=0.05)
    shares = {quantities(record, setup, 0.0, chance)["attempts_per_request", "back", "inject"] for _ in range(50)}
    assert len(shares) > 1
    assert shares <= {1.0 + number / 500.0 for number in range(-5, 6)}
