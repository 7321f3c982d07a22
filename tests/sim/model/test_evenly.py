"""Draws that cover their distribution in any number of replications, and are still standard normals."""

from __future__ import annotations

import numpy as np
import pytest

from sim.model.draws import Streams
from sim.model.evenly import DIMENSIONS, even_normal

SEEDS = range(200)


def drawn(dimension: str, replications: int) -> np.ndarray:
    """One row for each seed."""
    return np.array([[even_normal(seed, number, dimension) for number in range(replications)] for seed in SEEDS])


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_each_alone_is_standard_normal(dimension: str) -> None:
    first = drawn(dimension, 1)[:, 0]  # of as many seeds, which have nothing to do with each other
    assert abs(first.mean()) < 4.0 / np.sqrt(len(first))
    assert 0.8 < first.std() < 1.2


@pytest.mark.parametrize("replications", [11, 40])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_medians_of_few_replications_are_nearer_to_the_middle_than_chance(dimension: str, replications: int) -> None:
    values = drawn(dimension, replications)
    chance = 1.25 / np.sqrt(replications)
    assert np.median(values, axis=1).std() < 0.65 * chance
    assert np.mean(values.std(axis=1)) == pytest.approx(1.0, abs=0.06)


def test_dimensions_do_not_go_together() -> None:
    """The mean square of their correlations is what 24 independent pairs have."""
    values = {dimension: drawn(dimension, 24) for dimension in DIMENSIONS}
    for one in DIMENSIONS:
        for other in DIMENSIONS:
            if one < other:
                squares = [np.corrcoef(a, b)[0, 1] ** 2 for a, b in zip(values[one], values[other], strict=True)]
                assert np.mean(squares) < 1.5 / 23


def test_a_stream_draws_the_same_again_and_other_seeds_draw_others() -> None:
    assert Streams(3, 7).even_normal("machine") == Streams(3, 7).even_normal("machine")
    assert len({Streams(seed, 7).even_normal("machine") for seed in SEEDS}) == len(SEEDS)
    assert Streams(3, -1).even_normal("machine") != Streams(3, 0).even_normal("machine")  # a pilot of no forecast
