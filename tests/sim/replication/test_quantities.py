"""Quantiles of all steps at once are those of one step after another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.replication.quantities import quantile_by_step

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
