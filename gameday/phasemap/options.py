"""What the user asked of a phase map, checked: ranges, sizes, policies. Every refusal is one line."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from gameday.errors import BadInput
from scenarios.load.application import MAX_PODS
from scenarios.load.scenario import MAX_RUN_SECONDS
from sim.sweep.trigger import AXES

MOST_POINTS = 20_000
# A play that has begun goes on to its end, whatever time the map has: beyond these, for hours.
MOST_LOAD = 100_000.0
MOST_SIZE = {"duration": MAX_RUN_SECONDS, "latency": MAX_RUN_SECONDS, "errors": 1.0, "replicas": float(MAX_PODS)}
Range = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PhaseMapOptions:
    """As on the command line."""

    scenario: str
    variant: str | None
    overrides: tuple[str, ...]
    from_run: str | None
    load: str | None
    size: str | None
    policy: tuple[str, ...]
    points: int
    seconds: float
    seed: int
    ramp: bool
    dask: str | None
    output: Literal["table", "json", "html"]
    out: Path | None
    plain: bool
    keep: bool = False


def parse_range(option: str, text: str) -> Range:
    """`10:200:20`, from 10 to 200 in 20 equal steps; or the values themselves, `10,20,50`.

    Raises:
        BadInput: anything else, or values that are not positive and ascending.
    """
    wrong = f"{option} {text}: write LOW:HIGH:COUNT, such as 10:200:20, or values, such as 10,20,50"
    try:
        if ":" in text:
            low, high, count = text.split(":")
            number = int(count)
            if not 2 <= number <= 1000:
                raise BadInput(f"{option} {text}: the count is from 2 to 1000")
            first, last = float(low), float(high)
            values = tuple(first + (last - first) * i / (number - 1) for i in range(number))
        else:
            values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(wrong) from None
    if not all(math.isfinite(value) and value > 0.0 for value in values):
        raise BadInput(f"{option} {text}: values are above 0")
    values = tuple(float(f"{value:.6g}") for value in values)
    if any(after <= before for before, after in pairwise(values)):
        raise BadInput(f"{option} {text}: values ascend, by more than a millionth")
    return values


def parse_load(text: str) -> Range:
    """Journeys a second.

    Raises:
        BadInput: a wrong range, or more than can be played.
    """
    loads = parse_range("--load", text)
    if loads[-1] > MOST_LOAD:
        raise BadInput(f"--load {text}: {MOST_LOAD:g}/s at most")
    return loads


def parse_size(text: str | None) -> tuple[str, Range | None]:
    """`duration=5:60:8` → the axis and its values; the axis alone takes default values.

    Raises:
        BadInput: no such axis, a wrong range, or a size that no fault has.
    """
    if text is None:
        return "duration", None
    axis, _, values = text.rpartition("=") if "=" in text else ("duration", "", text)
    if axis == "duration" and values in AXES:
        return values, None
    if axis not in AXES:
        raise BadInput(f"--size {text}: no axis {axis!r}; a fault has {', '.join(AXES)}")
    sizes = parse_range("--size", values)
    if sizes[-1] > MOST_SIZE[axis]:
        raise BadInput(f"--size {text}: {axis} up to {MOST_SIZE[axis]:g}")
    if axis == "replicas" and not all(size.is_integer() for size in sizes):
        raise BadInput(f"--size {text}: replicas are whole; choose a count that gives whole steps, or write them down")
    return axis, sizes


def check(options: PhaseMapOptions) -> None:
    """The numbers that need no scenario.

    Raises:
        BadInput: out of range.
    """
    if not 4 <= options.points <= MOST_POINTS:
        raise BadInput(f"--points {options.points}: from 4 to {MOST_POINTS}")
    if not (math.isfinite(options.seconds) and options.seconds > 0.0):
        raise BadInput(f"--seconds {options.seconds:g}: above 0")
    if options.keep and options.from_run is None:
        raise BadInput("--keep puts the map into a run: name it with --from-run")
    if options.output == "html" and options.out is None:
        raise BadInput("-o html writes a file: name it with --out map.html")
    if options.out is not None and (os.path.isdir(options.out) or not os.path.isdir(options.out.absolute().parent)):
        raise BadInput(f"--out {options.out}: is a folder, or its folder does not exist; name a file")


def check_points(loads: Range, sizes: Range, panels: int) -> None:
    """That the ranges that were asked for make no more points than `--points` may.

    Raises:
        BadInput: they do.
    """
    points = len(loads) * len(sizes) * panels
    if points > MOST_POINTS:
        raise BadInput(
            f"{len(loads)} loads and {len(sizes)} sizes under {panels} policies make {points} points; {MOST_POINTS} at"
            " most: name fewer with --load, --size or --policy"
        )


def grid(points: int, panels: int) -> tuple[int, int]:
    """How many loads and sizes make about so many points over all panels; a few more loads than sizes."""
    each = max(4.0, points / panels)
    sizes = max(2, round(math.sqrt(each * 0.6)))
    return max(2, round(each / sizes)), sizes


def evenly(low: float, high: float, count: int, through: float | None = None) -> Range:
    """`count` values from low to high, rounded to three digits; the one nearest to `through` becomes it."""
    values = [float(f"{low + (high - low) * i / (count - 1):.3g}") for i in range(count)]
    if through is not None:
        values[min(range(count), key=lambda i: abs(values[i] - through))] = through
    return tuple(sorted(set(values)))
