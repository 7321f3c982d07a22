"""`gameday accuracy --learn FILE`: the discrepancy from a suite's runs, checked by leaving each run out in turn.

Held-out runs teach nothing. What is printed, for them and for each tuning run left out, is how often the intervals
would have held with what the (other) tuning runs teach, and their interval scores, beside the same of what the
forecasts used; the file is for sim/forecast/discrepancy.json, or for nobody if the first are no better.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from gameday.accuracy.evidence import Evidence, machine
from gameday.errors import BadInput
from sim.forecast.discrepancy import CONFIG_DIGITS, Learned
from sim.scoring.coverage import share_of
from sim.scoring.learning import FEWEST_RUNS, Intervals, Residual, Served, learn, leave_one_out, residual_of, serve
from sim.scoring.score import LEVELS


def learn_discrepancy(evidence: Sequence[Evidence], path: Path, world: str, say: Callable[[str], None]) -> None:
    """Writes the data file and says how it would have served.

    Raises:
        BadInput: too few runs, or none whose forecast states its discrepancy.
    """
    tuning = [run for run in evidence if run.part == "tuning"]
    residuals = residuals_of(tuning)
    entries = learn(residuals)
    if not entries:
        stated = len({residual.run for residual in residuals})
        raise BadInput(
            f"--learn: {stated} tuning runs whose forecast states its discrepancy; {FEWEST_RUNS} with faults of the"
            " same kinds are needed (--reforecast makes older forecasts anew)"
        )
    names = sorted({f"{_name(run)} {run.config[:CONFIG_DIGITS]}" for run in tuning})
    learned = Learned(
        learned_at=time.strftime("%Y-%m-%d"), machine=machine(), world=world, runs=tuple(names), entries=tuple(entries)
    )
    path.write_bytes(msgspec.json.format(msgspec.json.encode(learned), indent=1) + b"\n")
    for line in check_lines("each tuning run left out in turn", leave_one_out(residuals)):
        say(line)
    held_out = residuals_of([run for run in evidence if run.part == "held-out"])
    if held_out:
        for line in check_lines("held-out runs", serve(held_out, entries)):
            say(line)
    say(f"wrote {path}: {len(entries)} entries from {len(names)} runs")


def residuals_of(evidence: Sequence[Evidence]) -> list[Residual]:
    """What there is to learn from, over all these runs."""
    found = (residual_of(_name(run), run.kinds, row) for run in evidence for row in run.rows)
    return [residual for residual in found if residual is not None]


def check_lines(runs: str, served: Mapping[str, Sequence[Served]]) -> list[str]:
    """A heading, and a line for each quantity."""
    levels = "/".join(f"{100 * level:.0f}" for level in LEVELS)
    lines = [f"{runs}, inside {levels} % (band of the last) and mean interval score: learned | as used"]
    for quantity, found in served.items():
        sizes = [run.quantities for run in found]
        learned, used = _fared([run.learned for run in found], sizes), _fared([run.used for run in found], sizes)
        lines.append(f"  {quantity:22} {learned:30} | {used}  of {sum(sizes)}")
    return lines


def _fared(runs: Sequence[Intervals], sizes: Sequence[int]) -> str:
    shares = [
        share_of([(run.inside[index], size) for run, size in zip(runs, sizes, strict=True)])
        for index in range(len(LEVELS))
    ]
    low, high = shares[-1].low, shares[-1].high
    band = f" ({100 * low:.0f}–{100 * high:.0f})" if low is not None and high is not None else ""
    score = sum(run.score for run in runs) / sum(sizes)
    return "/".join(f"{100 * (share.value or 0.0):.0f}" for share in shares) + f"{band} {score:.3g}"


def _name(run: Evidence) -> str:
    return f"{run.name}-{run.load.replace('/', 'p')}-{run.seed}"
