"""Proper scoring rules and the probability integral transform, for ensembles.

    crps        Continuous ranked probability score, the fair form of Ferro (2014): it does not punish small ensembles
                for being small. In the quantity's unit; of one number it is the absolute error.
    interval    Interval score of a central (1 - a) interval (Gneiting & Raftery 2007): its width, plus 2/a times the
                distance by which it was missed.
    brier       Of a probability and what happened, (p - o)².
    pit         Where the measured value lies among the ensemble's, as an interval of probability: with m members, b
                below it and e equal to it, [b, b + e + 1] / (m + 1). Of a perfect forecaster a point drawn uniformly
                from it is uniform on [0, 1], atoms (a success rate of exactly 1) and small ensembles included.

    likeliest   The number that the measured value most probably lies near: what a forecast says when it may say one
                number and is right or wrong within a tolerance. The best number depends on how it is judged (Gneiting
                2011): the median is best for absolute errors, the middle of the fullest stretch for a tolerance.

    inside      The part of the PIT within a central level: the chance that a point drawn from it lies there. Where many
                members equal the measured value (a success rate of exactly 1), any interval ends at that value and has
                it inside, whatever level it claims; counted so, a perfect forecaster shows exactly the level all the
                same.

Histograms of the PIT spread each such interval over the bins that it covers (Czado, Gneiting & Held 2009). That is the
mean over all the points that could have been drawn, so a page made twice from the same runs is the same page.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise


def crps(ensemble: Sequence[float], measured: float) -> float:
    """Of an ascending ensemble of at least one value, in its unit."""
    size = len(ensemble)
    distance = sum(abs(value - measured) for value in ensemble) / size
    if size == 1:
        return distance
    # For ascending values the sum over pairs is a weighted sum: value i exceeds i others and is exceeded by the rest.
    pairs = sum((2 * index - size + 1) * value for index, value in enumerate(ensemble))
    return distance - pairs / (size * (size - 1))


def interval_score(low: float, high: float, measured: float, level: float) -> float:
    """Of the central interval [low, high] that claims `level` (0.9). Lower is better; in the quantity's unit."""
    penalty = 2.0 / (1.0 - level)
    return (high - low) + penalty * max(low - measured, 0.0) + penalty * max(measured - high, 0.0)


def brier(probability: float, happened: bool) -> float:
    """0 is best, 0.25 says nothing, 1 is sure and wrong."""
    return (probability - (1.0 if happened else 0.0)) ** 2


def pit(ensemble: Sequence[float], measured: float, slack: float = 0.0) -> tuple[float, float]:
    """(from, to) of an ascending ensemble. Members within `slack` of the measured value count as equal to it."""
    below = bisect_left(ensemble, measured - slack)
    equal = bisect_right(ensemble, measured + slack) - below
    return below / (len(ensemble) + 1), (below + equal + 1) / (len(ensemble) + 1)


def likeliest(ensemble: Sequence[float], middle: float, tolerance: Callable[[float], float]) -> tuple[float, float]:
    """(number, share of the ensemble that it would be right for): it is right for a value that it lies no further from
    than `tolerance(value)`. `middle` where nothing has better odds, else the middle of what has the best."""
    spans = [(value - tolerance(value), value + tolerance(value)) for value in ensemble]
    ends = sorted({end for span in spans for end in span})
    numbers = sorted({middle, *ends, *((low + high) / 2.0 for low, high in pairwise(ends))})
    lows, highs = sorted(low for low, _ in spans), sorted(high for _, high in spans)
    # Of the spans that have begun, those that have not ended.
    right = [bisect_right(lows, number) - bisect_left(highs, number) for number in numbers]
    most = max(right)
    best = [number for number, count in zip(numbers, right, strict=True) if count == most]
    return middle if middle in best else best[len(best) // 2], most / len(spans)


def inside(found: tuple[float, float], level: float) -> float:
    """Share of a PIT interval that lies within the central `level` (0.9: between 0.05 and 0.95)."""
    start, end = found
    tail = (1.0 - level) / 2.0
    if end <= start:
        return 1.0 if tail <= start <= 1.0 - tail else 0.0
    return max(0.0, min(end, 1.0 - tail) - max(start, tail)) / (end - start)


def pit_histogram(intervals: Iterable[tuple[float, float]], bins: int = 10) -> list[float]:
    """How many PIT values fall in each of `bins` equal bins; an interval counts in each by the share in it."""
    counts = [0.0] * bins
    for start, end in intervals:
        if end <= start:
            counts[min(bins - 1, int(start * bins))] += 1.0
            continue
        for index in range(bins):
            overlap = min(end, (index + 1) / bins) - max(start, index / bins)
            if overlap > 0.0:
                counts[index] += overlap / (end - start)
    return counts
