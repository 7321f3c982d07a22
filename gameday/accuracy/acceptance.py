"""The acceptance lines, each computed from runs and printed as met, missed, or not measurable with these runs.

    protocol      at least five seeds of every case and load; of tuning, every kind of fault at two loads
    coverage      90 % intervals contain 85–95 % of what was measured, by the part of each PIT that lies inside
    success       within 1 pp of the median, or two binomial standard errors
    latency       p50, p95, p99 within 5, 10, 15 % of the median, windows with at least 5,000 requests only; beside it
                  the same of windows in which the machine was as fast as in the baseline, and of the forecasts as they
                  read at the pace that it had (`reports.pace`, `sim.forecast.elasticity`)
    moments       time to page and recovery within 10 % or 2 s of the number that the forecast gives the best odds
    metastable    yes or no as measured, where it is the same at 95 % and 105 % of the load; told by runs of both kinds
    skill         CRPS skill over naive above 0.5 for every family with an effect, over the quantities that it moved
    controls      no effect invented: the interval contains "nothing changes", or the median is within noise of it

A line of the form "within" asks for 95 % of its quantities: two standard errors are passed by chance once in twenty,
and a perfect model would fail a line that asks for all. Beside it stands the same of the quantities that the fault
moved, since it is easy to be right about the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from gameday.accuracy.evidence import Evidence
from reports.notation import quantity_name
from sim.scoring.coverage import Share, bootstrap, share_of
from sim.scoring.rules import inside
from sim.scoring.score import LEVELS, SHARES, Detail, is_event, moment_tolerance

ENOUGH_REQUESTS = 5_000
REQUIRED = 0.95
LATENCY_BOUNDS = {"p50": 0.05, "p95": 0.10, "p99": 0.15}
SUCCESS_POINTS = 0.01
EFFECT_SHARE = 0.02
"""A fault moves a success rate when it moves it by more than this, and anything else when by more than 20 %."""
EFFECT_RATIO = 0.2
COUNTING_ERRORS = 2.0
FEWEST_SEEDS = 5
FEWEST_LOADS = 2
FEWEST_MOVED = 3
"""A family has an effect when so many of its quantities were moved; one may be chance."""
SKILL = 0.5


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the acceptance table."""

    name: str
    asked: str
    found: str
    met: bool | None
    """None: nothing in these runs can tell."""


def lines(evidence: Sequence[Evidence]) -> list[Line]:
    """All lines over these runs."""
    return [
        _protocol(evidence),
        _coverage(evidence),
        _success(evidence),
        *(_latency(evidence, quantity, bound) for quantity, bound in LATENCY_BOUNDS.items()),
        _moments(evidence),
        _metastable(evidence),
        _skill(evidence),
        _controls(evidence),
    ]


def coverage(
    evidence: Iterable[Evidence], level: int = 2, *, moved_only: bool = False, ranges_only: bool = False
) -> Share:
    """Of the intervals of `LEVELS[level]`, with its band over runs. A value that many replications share counts as the
    part of its PIT that lies inside, so that a success rate of 100 % is not evidence for wide intervals.

    `ranges_only`: without forecasts whose 90 % interval is one value. Those count as exactly 90 % where they come true,
    which would hide what the others do; and since it is the forecast that chooses, a perfect one keeps its coverage.
    """
    clusters = []
    for run in evidence:
        rows = [row for row in (run.moved_rows if moved_only else run.rows) if not is_event(row.quantity)]
        if ranges_only:
            rows = [row for row in rows if row.width > 0.0]
        clusters.append((math.fsum(covered(row, level) for row in rows), len(rows)))
    return share_of(clusters)


def covered(row: Detail, level: int) -> float:
    """How much of the row counts as inside the interval of `LEVELS[level]`: 0 or 1, or a part where values are tied."""
    return inside(row.pit, LEVELS[level])


def is_moved(row: Detail) -> bool:
    """Whether the fault moved this quantity away from its baseline: by enough to matter, and by more than two standard
    errors of counting. The p95 of ten requests is their slowest one, and differs between any two windows."""
    if row.naive is None or (row.apart is not None and abs(row.apart) <= COUNTING_ERRORS):
        return False
    return _differ(row.quantity, row.measured, row.naive)


def mark_moved(evidence: Sequence[Evidence]) -> list[Evidence]:
    """The same runs, each with the quantities that its case's fault moves: in most of the case's runs at that load.

    Deciding it run by run would pick the outliers of the others, and call a sound forecast of "no change" a miss.
    """
    votes: dict[tuple[str, str, str, str, str], list[bool]] = {}
    for run in evidence:
        for row in run.rows:
            votes.setdefault(_place(run, row), []).append(is_moved(row))
    moved = {key for key, some in votes.items() if 2 * sum(some) > len(some)}
    return [
        replace(
            run,
            moved_rows=() if run.control else tuple(row for row in run.rows if _place(run, row) in moved),
        )
        for run in evidence
    ]


def _place(run: Evidence, row: Detail) -> tuple[str, str, str, str, str]:
    return run.name, run.load, row.quantity, row.subject, row.window


def invents(row: Detail) -> bool:
    """Whether the forecast says that something will happen: its interval leaves "nothing changes" out, and its median
    is further from it than noise, and than two standard errors of counting. Who has seen four requests does not know
    their percentiles, and to forecast others is no claim that something changes."""
    if row.naive is None or row.low <= row.naive <= row.high:
        return False
    if row.foretold is not None and abs(row.foretold) <= COUNTING_ERRORS:
        return False
    return _differ(row.quantity, row.median, row.naive)


def _differ(quantity: str, one: float, other: float) -> bool:
    if quantity.endswith(SHARES):
        return abs(one - other) > EFFECT_SHARE
    if quantity == "M3":  # a count: by more than chance has it
        return abs(one - other) > COUNTING_ERRORS * math.sqrt(max(one, other, 1.0))
    if quantity in ("budget_spent", "attempts_per_request"):
        return abs(one - other) > EFFECT_RATIO * max(abs(other), 1.0)
    return abs(one - other) > EFFECT_RATIO * max(abs(other), 1e-9)


def mean_crps(rows: Iterable[Detail]) -> tuple[float | None, float | None, int]:
    """(own, naive, n) over rows that have a naive forecast; where none has, (own, None, 0) over all."""
    rows = tuple(rows)
    pairs = [(row.crps, row.crps_naive) for row in rows if row.crps_naive is not None]
    if not pairs:
        return (math.fsum(row.crps for row in rows) / len(rows) if rows else None), None, 0
    return math.fsum(a for a, _ in pairs) / len(pairs), math.fsum(b for _, b in pairs) / len(pairs), len(pairs)


def skill(rows: Iterable[Detail]) -> float | None:
    own, naive, _ = mean_crps(rows)
    return 1.0 - own / naive if own is not None and naive else None


def skill_band(evidence: Sequence[Evidence], *, moved_only: bool = True) -> tuple[float | None, float | None]:
    """90 % band of the skill from resampled runs."""
    runs = [run.moved_rows if moved_only else run.rows for run in evidence]
    return bootstrap([rows for rows in runs if rows], lambda some: skill(row for rows in some for row in rows))


def closed_skill(rows: Iterable[Detail]) -> tuple[float | None, int]:
    """Skill over the closed-form formulas, and on how many quantities one applied."""
    pairs = [(row.crps, row.crps_closed) for row in rows if row.crps_closed is not None]
    below = math.fsum(closed for _, closed in pairs)
    return (1.0 - math.fsum(own for own, _ in pairs) / below if below else None), len(pairs)


def by_family(evidence: Iterable[Evidence]) -> dict[str, list[Evidence]]:
    found: dict[str, list[Evidence]] = {}
    for run in evidence:
        found.setdefault(run.family, []).append(run)
    return found


# ---- the lines


def _protocol(evidence: Sequence[Evidence]) -> Line:
    asked = f"≥ {FEWEST_SEEDS} seeds of every case; tuning at ≥ {FEWEST_LOADS} loads"
    seeds: dict[tuple[str, str], set[int]] = {}
    loads: dict[str, set[str]] = {}
    for run in evidence:
        seeds.setdefault((run.name, run.load), set()).add(run.seed)
        if run.part == "tuning" and run.kinds != "none":
            loads.setdefault(run.kinds, set()).add(run.load)
    if not seeds:
        return Line("protocol", asked, "no run", None)
    fewest = min(len(some) for some in seeds.values())
    found = f"{fewest} seeds at least, {len(seeds)} cases and loads"
    at_one = sorted(kinds for kinds, some in loads.items() if len(some) < FEWEST_LOADS)
    if at_one:
        found += f"; at one load only: {', '.join(at_one)}"
    return Line("protocol", asked, found, fewest >= FEWEST_SEEDS and not at_one)


def _coverage(evidence: Sequence[Evidence]) -> Line:
    share = coverage(evidence)
    asked = "85–95 % inside"
    if share.value is None:
        return Line("90 % intervals", asked, "no quantity", None)
    band = f", {share.low:.0%}–{share.high:.0%} over resampled runs" if share.low is not None else ""
    found = f"{share.value:.1%} of {share.total} quantities in {share.runs} runs{band}"
    ranges = coverage(evidence, ranges_only=True)
    if ranges.value is not None:
        found += f"; {ranges.value:.1%} of the {ranges.total} told as more than one value"
    return Line("90 % intervals", asked, found, 0.85 <= share.value <= 0.95)


def _success(evidence: Sequence[Evidence]) -> Line:
    judged: list[bool] = []
    moved: list[bool] = []
    for row, is_effect in _marked(evidence):
        if row.quantity != "success_rate":
            continue
        error = abs(row.measured - row.median)
        deviation = 2.0 * math.sqrt(row.median * (1.0 - row.median) / row.requests) if row.requests else 0.0
        judged.append(error <= max(SUCCESS_POINTS, deviation))
        if is_effect:
            moved.append(judged[-1])
    line = _within("success rate", "within 1 pp or 2 SE", judged)
    return replace(line, found=line.found + _of_moved(moved))


def _latency(evidence: Sequence[Evidence], quantity: str, bound: float) -> Line:
    rows = [
        (run, row)
        for run in evidence
        for row in run.rows
        if row.quantity == quantity and (row.requests or 0) >= ENOUGH_REQUESTS and row.measured > 0
    ]
    errors = [_off(row.median, row.measured) for _, row in rows]
    asked = f"within {bound:.0%}, windows of ≥ {ENOUGH_REQUESTS:,} requests"
    line = _within(quantity, asked, [error <= bound for error in errors])
    if not rows:
        return line
    found = f"{line.found}; worst off by {max(errors):.0%}"
    paces = [run.paces.get(row.window) for run, row in rows]
    steady = [error <= bound for error, pace in zip(errors, paces, strict=True) if pace is not None and pace.is_steady]
    if steady and len(steady) < len(rows):
        found += f"; {sum(steady)} of the {len(steady)} in which the machine is known to have kept its pace"
    at_pace = [_off(median, row.measured) for run, row in rows if (median := run.at_pace(row)) is not None]
    if at_pace:
        within = sum(error <= bound for error in at_pace)
        found += f"; read at the machine's pace {within} of {len(at_pace)}, worst off by {max(at_pace):.0%}"
    return Line(line.name, line.asked, found, line.met)


def _off(median: float, measured: float) -> float:
    return abs(median - measured) / measured


def _moments(evidence: Sequence[Evidence]) -> Line:
    rows = [(row, row.moment, is_effect) for row, is_effect in _marked(evidence) if row.moment is not None]
    judged = [_is_near(row.measured, number) for row, (number, _), _ in rows]
    moved = [right for right, (_, _, is_effect) in zip(judged, rows, strict=True) if is_effect]
    line = _within("time to page, recovery", "within 10 % or 2 s", judged)
    if not rows:
        return line
    odds = math.fsum(chance for _, (_, chance), _ in rows)
    medians = sum(_is_near(row.measured, row.median) for row, _, _ in rows)
    return Line(
        line.name,
        line.asked,
        f"{line.found}{_of_moved(moved)}; {odds:.0f} by the forecasts' own odds, {medians} of their medians",
        line.met,
    )


def _is_near(measured: float, number: float) -> bool:
    return abs(measured - number) <= moment_tolerance(measured)


def _metastable(evidence: Sequence[Evidence]) -> Line:
    rows = list(_rows(evidence, "metastable"))
    judged = [row for row in rows if not row.in_load_band]
    right = [(row.median >= 0.5) == (row.measured >= 0.5) for row in judged]
    line = _within("metastable or not", "as measured, outside a ±5 % load band", right, required=1.0)
    if not rows:
        return line
    yes = sum(row.measured >= 0.5 for row in judged)
    found = f"{line.found}, {yes} of them yes, {len(rows) - len(judged)} more inside the band"
    unknown = sum(row.load_band is None for row in rows)
    if unknown:
        found += f", {unknown} counted without a known band"
    met = line.met if line.met is False or 0 < yes < len(judged) else None
    return Line(line.name, line.asked, f"{found}; mean Brier score of all {mean_crps(rows)[0] or 0.0:.2f}", met)


def _skill(evidence: Sequence[Evidence]) -> Line:
    asked = f"> {SKILL} in every family with an effect"
    found: list[tuple[str, float]] = []
    for family, runs in sorted(by_family(run for run in evidence if not run.control).items()):
        moved = [row for run in runs for row in run.moved_rows]
        value = skill(moved) if len(moved) >= FEWEST_MOVED else None
        if value is not None:
            found.append((family, value))
    if not found:
        return Line("CRPS skill over naive", asked, "no family with an effect", None)
    text = ", ".join(f"{family} {value:.2f}" for family, value in found)
    return Line("CRPS skill over naive", asked, text, all(value > SKILL for _, value in found))


def _controls(evidence: Sequence[Evidence]) -> Line:
    rows = [(run, row) for run in evidence if run.control for row in run.rows]
    if not rows:
        return Line("controls", "no invented effect", "no control was run", None)
    invented = [
        f"{run.name} {quantity_name(row.quantity)} of {row.subject or 'the mesh'}" for run, row in rows if invents(row)
    ]
    runs = sum(run.control for run in evidence)
    text = f"{len(invented)} of {len(rows)} quantities in {runs} runs"
    if invented:
        text += f" ({'; '.join(dict.fromkeys(invented[:3]))}{'; …' if len(invented) > 3 else ''})"
    return Line("controls", "no invented effect", text, not invented)


def _within(name: str, asked: str, judged: Sequence[bool], required: float = REQUIRED) -> Line:
    asked = f"{asked}, {required:.0%} of them"
    if not judged:
        return Line(name, asked, "no such quantity in these runs", None)
    share = sum(judged) / len(judged)
    return Line(name, asked, f"{sum(judged)} of {len(judged)} ({share:.0%})", share >= required)


def _of_moved(judged: Sequence[bool]) -> str:
    return (
        f"; of those that a fault moved {sum(judged)} of {len(judged)} ({sum(judged) / len(judged):.0%})"
        if judged
        else ""
    )


def _marked(evidence: Iterable[Evidence]) -> Iterator[tuple[Detail, bool]]:
    """Every row, and whether it is one of those that its case's fault moves."""
    for run in evidence:
        moved = {(row.quantity, row.subject, row.window) for row in run.moved_rows}
        for row in run.rows:
            yield row, (row.quantity, row.subject, row.window) in moved


def _rows(evidence: Iterable[Evidence], quantity: str) -> Iterator[Detail]:
    return (row for run in evidence for row in run.rows if row.quantity == quantity)


__all__ = ["LEVELS", "Line", "coverage", "invents", "is_moved", "lines", "mean_crps", "skill"]
