"""How good the forecasts are: scenarios × seeds, each a whole run, scored and set side by side with the naive forecast.

The page is made from the runs' stores alone, so `--reuse` rebuilds it without running anything again. Rows that were
missed are all listed.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from gameday.errors import BadInput, Exit
from gameday.rundir import STORE
from reports.store import RunStore
from scenarios.catalogue import names
from sim.results import Score, Scored

K = TypeVar("K")

DEFAULT_FOLDER = Path("runs/accuracy")
RUN_TIMEOUT_SECONDS = 400.0
EFFECT_SHARE = 0.02
"""A fault has an effect on a success rate when it moves it by more than this, on anything else by more than 20 %."""


@dataclass(frozen=True, slots=True)
class ScoredRun:
    scenario: str
    seed: int
    score: Score


def run_accuracy(seeds: int, scenarios: Sequence[str], out: Path | None, reuse: Path | None) -> int:
    """Runs what is missing, then writes the page; returns an exit code."""
    chosen = tuple(scenarios) or tuple(names())
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        raise BadInput(f"no scenario {unknown[0]!r}; `gameday list` shows them")
    if seeds < 1:
        raise BadInput(f"--seeds {seeds}: at least 1")
    folder = reuse if reuse is not None else DEFAULT_FOLDER
    runs: list[ScoredRun] = []
    failures: list[str] = []
    for seed in range(1, seeds + 1):
        for name in chosen:
            path = folder / f"{name}-{seed}"
            if not (path / STORE).is_file():
                _run_one(name, seed, path)
            score = _read_score(path)
            if score is None:
                failures.append(f"{name}, seed {seed}: the run has no score; see {path}")
            else:
                runs.append(ScoredRun(name, seed, score))
                print(
                    f"{name} seed {seed}: coverage {_percent(score.coverage)}, skill {_number(score.skill)}", flush=True
                )
    page = render(runs, failures)
    if out is None:
        print(page)
    else:
        out.write_text(page)
        print(f"wrote {out}")
    return Exit.HARNESS_FAILED if failures else Exit.HELD


def _run_one(name: str, seed: int, path: Path) -> None:
    command = [sys.executable, "-m", "gameday", "run", name, "--seed", str(seed), "--out", str(path), "--plain"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False, timeout=RUN_TIMEOUT_SECONDS)


def _read_score(path: Path) -> Score | None:
    if not (path / STORE).is_file():
        return None
    with RunStore(path / STORE) as store:
        document = store.document("score")
    return msgspec.json.decode(document[1], type=Score) if document is not None else None


def has_effect(row: Scored) -> bool:
    """Whether the fault moved this quantity away from its baseline by more than run-to-run noise does."""
    if row.measured is None or row.naive is None:
        return False
    if row.quantity == "success_rate":
        return abs(row.measured - row.naive) > EFFECT_SHARE
    return abs(row.measured - row.naive) > 0.2 * max(abs(row.naive), 1e-9)


def render(runs: Sequence[ScoredRun], failures: Sequence[str]) -> str:
    """The page."""
    lines = [
        "# Accuracy of the forecasts",
        "",
        "Made by `make accuracy`: every scenario is run for real with several seeds on the embedded world; each",
        "forecast was sealed before its injection and is scored here against what the run measured. *Inside* is",
        "the share of quantities whose 90 % prediction interval contains the measured value. CRPS is in units of",
        "each quantity's scale (see `sim/score.py`), lower is better; *naive* says that nothing changes from the",
        "baseline; skill is 1 − CRPS / naive. *Effect* counts only the quantities that the fault moved: a success",
        "rate by more than 2 points, anything else by more than 20 %.",
        "",
        f"Machine: {_machine()}. Runs: {len(runs)}.",
        "",
        "## By scenario",
        "",
        "| scenario | runs | quantities | inside 90 % | CRPS | naive | skill | effect: CRPS (n) | effect: naive |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    by_scenario = _grouped((run.scenario, row) for run in runs for row in run.score.rows)
    for name, rows in by_scenario.items():
        count = sum(run.scenario == name for run in runs)
        lines.append(_summary_row(f"{name} | {count}", rows))
    lines.append(_summary_row(f"**all** | {len(runs)}", [row for rows in by_scenario.values() for row in rows]))
    lines += [
        "",
        "## By quantity",
        "",
        "| scenario | quantity | window | n | inside 90 % | CRPS | naive | skill |",
        "|---|---|---|---|---|---|---|---|",
    ]
    by_quantity = _grouped(((run.scenario, row.quantity, row.window), row) for run in runs for row in run.score.rows)
    for (scenario, quantity, window), rows in by_quantity.items():
        crps, naive = _mean_crps(rows)
        lines.append(
            f"| {scenario} | {quantity} | {window} | {len(_scored(rows))} | {_percent(_coverage(rows))} |"
            f" {_number(crps)} | {_number(naive)} | {_number(_skill(crps, naive))} |"
        )
    lines += [
        "",
        "## Misses",
        "",
        "| scenario | seed | quantity | subject | window | low | median | high | measured | naive |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        for row in run.score.rows:
            if row.inside is False:
                cells = (row.low, row.median, row.high, row.measured, row.naive)
                lines.append(
                    f"| {run.scenario} | {run.seed} | {row.quantity} | {row.subject} | {row.window} | "
                    + " | ".join(_number(cell) for cell in cells)
                    + " |"
                )
    if failures:
        lines += ["", "## Runs without a score", ""] + [f"- {failure}" for failure in failures]
    return "\n".join(lines) + "\n"


def _summary_row(head: str, rows: Sequence[Scored]) -> str:
    crps, naive = _mean_crps(rows)
    affected = [row for row in rows if has_effect(row)]
    effect_crps, effect_naive = _mean_crps(affected)
    return (
        f"| {head} | {len(_scored(rows))} | {_percent(_coverage(rows))} | {_number(crps)} | {_number(naive)} |"
        f" {_number(_skill(crps, naive))} | {_number(effect_crps)} ({len(affected)}) | {_number(effect_naive)} |"
    )


def _grouped(pairs: Iterable[tuple[K, Scored]]) -> dict[K, list[Scored]]:
    groups: dict[K, list[Scored]] = defaultdict(list)
    for key, row in pairs:
        groups[key].append(row)
    return groups


def _scored(rows: Sequence[Scored]) -> list[Scored]:
    return [row for row in rows if row.inside is not None]


def _coverage(rows: Sequence[Scored]) -> float | None:
    scored = _scored(rows)
    return sum(bool(row.inside) for row in scored) / len(scored) if scored else None


def _mean_crps(rows: Sequence[Scored]) -> tuple[float | None, float | None]:
    pairs = [(row.crps, row.crps_naive) for row in rows if row.crps is not None and row.crps_naive is not None]
    if not pairs:
        return None, None
    return statistics.fmean(a for a, _ in pairs), statistics.fmean(b for _, b in pairs)


def _skill(crps: float | None, naive: float | None) -> float | None:
    return 1.0 - crps / naive if crps is not None and naive else None


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.0%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
