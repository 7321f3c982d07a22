"""The page: docs/accuracy.md. Made from evidence alone, so the same runs give the same page; misses included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from gameday.accuracy.acceptance import (
    by_family,
    closed_skill,
    coverage,
    covered,
    invents,
    is_moved,
    lines,
    mark_moved,
    mean_crps,
    skill,
    skill_band,
)
from gameday.accuracy.evidence import Evidence
from reports.notation import quantity_name
from sim.scoring.coverage import binomial_band
from sim.scoring.score import LEVELS, Detail, is_event

K = TypeVar("K")
MOST_MISSES = 60
DISTURBED_CORES = 0.5

INTRO = """\
# Accuracy of the forecasts

Every forecast was sealed before its injection and is scored here against what the run measured. *Inside* is the share
of quantities whose prediction interval contains the measured value. The quantities of one run move together, so bands
come from resampling whole runs. CRPS is on each quantity's scale (`sim/scoring/score.py`), lower is better; *naive*
says that nothing changes from the baseline; skill is 1 − CRPS / naive, over the quantities that the fault *moved* in
most runs of the case at that load: a success rate by more than 2 points, anything else by more than 20 %, and what is
counted in requests by more than two standard errors of counting as well."""

ANEW = """
**Not sealed: recomputed.** These forecasts were made anew by the twin of today from the stored baselines, after the
outcomes were known. They judge a change of the model; they prove nothing about forecasting."""


def render(
    evidence: Sequence[Evidence],
    failures: Sequence[str],
    impossible: Sequence[str],
    command: str,
    figures: Sequence[tuple[str, str]] = (),
) -> str:
    """The page. `failures`, `impossible`: one line each. `figures`: (file beside the page, caption)."""
    evidence = mark_moved(evidence)
    tuning = [run for run in evidence if run.part == "tuning"]
    held_out = [run for run in evidence if run.part == "held-out"]
    text = [INTRO]
    if any(not run.sealed for run in evidence):
        text.append(ANEW)
    seeds = len({run.seed for run in evidence})
    systems = "; ".join(sorted({run.system for run in evidence if run.system})) or "unknown"
    text.append(
        f"\nMade by `{command}`. Machine: {systems}. Runs: {len(evidence)} ({len(tuning)} tuning and controls,"
        f" {len(held_out)} held out), {seeds} seeds{_cores(evidence)}."
    )
    disturbed = sum((run.others or 0.0) > DISTURBED_CORES for run in evidence)
    if disturbed:
        text.append(f"**In {disturbed} of them other programs used more than {DISTURBED_CORES:g} cores** (see Runs).")
    text += ["", "## Acceptance", "", *_acceptance(tuning, held_out)]
    text += ["", "## Coverage and sharpness", "", *_coverage(tuning, held_out)]
    text += [line for file, caption in figures for line in ("", f"{caption}:", "", f"![{caption}]({file})")]
    text += ["", "## By family", "", *_families(tuning, held_out)]
    text += ["", "## By quantity", "", *_quantities(tuning, held_out)]
    text += ["", "## By family, quantity and window", "", *_details(tuning, held_out)]
    text += ["", "## Runs", "", *_runs(evidence)]
    text += ["", "## Misses", "", *_misses(evidence)]
    if failures:
        text += ["", "## Runs without a score", "", *(f"- {failure}" for failure in failures)]
    if impossible:
        text += ["", "## Not run: this world cannot", "", *(f"- {reason}" for reason in impossible)]
    limits = dict.fromkeys(limit for run in evidence for limit in run.limits)
    if limits:
        text += ["", "## What the forecasts said they do not represent", "", *(f"- {limit}" for limit in limits)]
    return "\n".join(text) + "\n"


def _cores(evidence: Sequence[Evidence]) -> str:
    """On how many cores they ran, where the stores say so."""
    sizes = Counter(run.cores for run in evidence if run.cores is not None)
    parts = [
        f"{count} on {cores} {'core' if cores == 1 else 'cores'} of {'its' if count == 1 else 'their'} own"
        for cores, count in sorted(sizes.items())
    ]
    return f"; {', '.join(parts)}" if parts else ""


def _acceptance(tuning: Sequence[Evidence], held_out: Sequence[Evidence]) -> list[str]:
    both = {"tuning": tuning, "held out": held_out}
    parts = {name: lines(runs) for name, runs in both.items() if runs or not (tuning or held_out)}
    rows = [
        (f"{some[0].name}: {some[0].asked}", *(cell for line in some for cell in (_verdict(line.met), line.found)))
        for some in zip(*parts.values(), strict=True)
    ]
    return _table(("asked", *(cell for name in parts for cell in (name, ""))), rows)


def _coverage(tuning: Sequence[Evidence], held_out: Sequence[Evidence]) -> list[str]:
    rows = []
    for name, runs in (("tuning", tuning), ("held out", held_out)):
        for kind in ("all quantities", "told as more than one value", "moved quantities"):
            if not runs:
                continue
            moved, ranges = kind.startswith("moved"), kind.startswith("told")
            shares = [coverage(runs, index, moved_only=moved, ranges_only=ranges) for index in range(len(LEVELS))]
            rows_of = [
                row
                for run in runs
                for row in (run.moved_rows if moved else run.rows)
                if not is_event(row.quantity) and (row.width > 0.0 or not ranges)
            ]
            widths = [row.width for row in rows_of]
            scores = [row.interval for row in rows_of]
            last = shares[-1]
            low, high = binomial_band(0.9, last.effective)
            rows.append(
                (
                    f"{name}, {kind}",
                    str(last.total),
                    *(_share(share.value, share.low, share.high) for share in shares),
                    f"{low:.0%}–{high:.0%}" if last.total else "–",
                    _number(_median(widths)),
                    _number(_mean(scores)),
                )
            )
    head = ("", "n", "in 50 %", "in 80 %", "in 90 %", "90 % expects", "median width", "interval score")
    return [
        *_table(head, rows),
        "",
        "In brackets: 90 % band over resampled runs. *90 % expects*: what a perfectly calibrated forecaster would show",
        "in nine suites of ten, for as many independent quantities as these runs are worth. Where replications tie",
        "with the measured value (a success rate of 100 %), the part of the PIT that lies inside is counted",
        "(docs/scoring.md). A forecast of one value that comes true counts as exactly 50, 80 and 90 %, and draws the",
        "share towards that; the second line is without those, the third of what the faults moved: the sharper tests.",
    ]


def _families(tuning: Sequence[Evidence], held_out: Sequence[Evidence]) -> list[str]:
    rows = []
    for part, runs in (("tuning", tuning), ("held out", held_out)):
        for family, some in sorted(by_family(runs).items()):
            details = [row for run in some for row in run.rows]
            moved = [row for run in some for row in run.moved_rows]
            own, naive, count = mean_crps(moved)
            low, high = skill_band(some)
            closed, applied = closed_skill(details)
            rows.append(
                (
                    part,
                    family,
                    str(len(some)),
                    str(len(details)),
                    _percent(coverage(some).value),
                    str(count),
                    _number(own),
                    _number(naive),
                    _banded(skill(moved), low, high),
                    f"{_number(closed)} ({applied})" if applied else "–",
                    str(sum(invents(row) for row in details if not is_moved(row))),
                )
            )
    head = ("part", "family", "runs", "n", "in 90 %", "moved", "CRPS", "naive", "skill", "over formula (n)", "invented")
    return [
        *_table(head, rows),
        "",
        "*Over formula*: skill over a closed-form formula, where one applies (`sim/scoring/closed_form.py`).",
        "*Invented*: the forecast left “nothing changes” out of its interval by more than noise, and the quantity did",
        "not move.",
    ]


def _quantities(tuning: Sequence[Evidence], held_out: Sequence[Evidence]) -> list[str]:
    """Over all families and windows, so that one that is always too narrow cannot hide among the others."""
    rows = []
    for part, runs in (("tuning", tuning), ("held out", held_out)):
        groups = _grouped((row.quantity, row) for run in runs for row in run.rows)
        rows += [(part, quantity_name(quantity), *_scores(details)) for quantity, details in sorted(groups.items())]
    return _table(("part", "quantity", "n", "in 50 / 80 / 90 %", "CRPS", "naive", "skill"), rows)


def _details(tuning: Sequence[Evidence], held_out: Sequence[Evidence]) -> list[str]:
    rows = []
    for part, runs in (("tuning", tuning), ("held out", held_out)):
        groups = _grouped(((run.family, row.quantity, row.window), row) for run in runs for row in run.rows)
        rows += [
            (part, family, quantity_name(quantity), window, *_scores(details))
            for (family, quantity, window), details in sorted(groups.items())
        ]
    return _table(("part", "family", "quantity", "window", "n", "in 50 / 80 / 90 %", "CRPS", "naive", "skill"), rows)


def _scores(details: Sequence[Detail]) -> tuple[str, ...]:
    own, naive, _ = mean_crps(details)
    shares = [sum(covered(row, index) for row in details) / len(details) for index in range(len(LEVELS))]
    inside = " / ".join(_percent(share) for share in shares)
    return str(len(details)), inside, _number(own), _number(naive), _number(skill(details))


def _runs(evidence: Sequence[Evidence]) -> list[str]:
    rows = [
        (
            run.name,
            str(run.seed),
            run.load,
            run.part + (", control" if run.control else ""),
            _percent(coverage([run]).value),
            _number(skill(run.moved_rows)),
            str(run.replications),
            f"{run.compute_seconds:.1f}",
            str(run.cores or "–"),
            _number(run.others),
            _pace(run, "all"),
        )
        for run in evidence
    ]
    head = (
        "case",
        "seed",
        "load",
        "part",
        "in 90 %",
        "skill, moved",
        "replications",
        "twin, s",
        "cores",
        "others, cores",
        "machine",
    )
    return [
        *_table(head, rows),
        "",
        "*Cores*: those that run and twin had, shared with no other run. *Others*: how much of them other programs",
        "took meanwhile, as far as the machine tells. The twin cannot know of it, so what such runs miss is",
        "as much the machine's as the model's. *Machine*: CPU time of a request at the load generator, which does the",
        "same for each, as a multiple of the baseline's: above 1, the machine was slower during the fault than before",
        "it, as a virtual machine is whose host has other guests (docs/model.md). No forecast can know; but what that",
        "does to a latency is sealed with it, so that it can be read at the pace that the machine had (*at its pace*,",
        "below).",
    ]


def _misses(evidence: Sequence[Evidence]) -> list[str]:
    missed = [(run, row) for run in evidence for row in run.rows if not row.inside[2] and not is_event(row.quantity)]
    if not missed:
        return ["None."]
    groups = _grouped(((run.name, row.quantity, row.window), row) for run, row in missed)
    counts = sorted(groups.items(), key=lambda item: -len(item[1]))[:12]
    total = len({id(run) for run, _ in missed})
    text = [f"{len(missed)} in {total} runs, most of them in:", ""]
    text += [
        f"- {name}, {quantity_name(quantity)} in {window}: {len(some)}" for (name, quantity, window), some in counts
    ]
    worst = sorted(missed, key=lambda pair: -pair[1].crps)[:MOST_MISSES]
    rows = [
        (
            run.name,
            str(run.seed),
            run.load,
            quantity_name(row.quantity),
            row.subject,
            row.window,
            *(_number(value) for value in (row.low, row.median, row.high, row.measured, row.naive)),
            str(row.requests or "–"),
            _pace(run, row.window),
            _number(run.at_pace(row)),
        )
        for run, row in worst
    ]
    head = (
        "case",
        "seed",
        "load",
        "quantity",
        "of",
        "window",
        "5 %",
        "median",
        "95 %",
        "measured",
        "naive",
        "requests",
        "machine",
        "at its pace",
    )
    title = "All of them" if len(missed) <= MOST_MISSES else f"The {MOST_MISSES} that cost most"
    return [*text, "", f"{title}, by CRPS:", "", *_table(head, rows)]


def _pace(run: Evidence, window: str) -> str:
    found = run.paces.get(window)
    return "–" if found is None else f"{found.ratio:.2f}"


# ---- how things are written


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _grouped(pairs: Iterable[tuple[K, Detail]]) -> dict[K, list[Detail]]:
    groups: dict[K, list[Detail]] = {}
    for key, row in pairs:
        groups.setdefault(key, []).append(row)
    return groups


def _verdict(met: bool | None) -> str:
    return "cannot tell" if met is None else "met" if met else "**missed**"


def _share(value: float | None, low: float | None, high: float | None) -> str:
    return _banded(value, low, high, _percent)


def _banded(
    value: float | None, low: float | None, high: float | None, show: Callable[[float | None], str] | None = None
) -> str:
    write = show if show is not None else _number
    return write(value) if low is None or value is None else f"{write(value)} ({write(low)}–{write(high)})"


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.0%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
