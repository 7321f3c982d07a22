"""`gameday accuracy --learn FILE`: the discrepancy from a suite's runs, checked by leaving each run out in turn.

Held-out runs take no part. What is printed is how often the intervals would have held with what the other runs teach,
beside how often they did with what the forecasts used; the file is for sim/forecast/discrepancy.json, or for nobody if
the first are no better.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gameday.accuracy.evidence import Evidence, machine
from gameday.errors import BadInput
from sim.forecast.discrepancy import CONFIG_DIGITS, Learned
from sim.scoring.coverage import share_of
from sim.scoring.learning import FEWEST_RUNS, Residual, learn, leave_one_out, residual_of
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
    for line in check_lines(residuals):
        say(line)
    say(f"wrote {path}: {len(entries)} entries from {len(names)} runs")


def residuals_of(evidence: Sequence[Evidence]) -> list[Residual]:
    """What there is to learn from, over all these runs."""
    found = (residual_of(_name(run), run.kinds, row) for run in evidence for row in run.rows)
    return [residual for residual in found if residual is not None]


def check_lines(residuals: Sequence[Residual]) -> list[str]:
    """The leave-one-run-out check, a line for each quantity."""
    levels = "/".join(f"{100 * level:.0f}" for level in LEVELS)
    lines = [f"leaving each run out in turn, inside {levels} % (band of the last): learned from the others | as used"]
    for quantity, runs in leave_one_out(residuals).items():
        texts = []
        for hits in ([run.learned for run in runs], [run.used for run in runs]):
            pairs = [(own, run.quantities) for own, run in zip(hits, runs, strict=True)]
            shares = [share_of([(own[index], count) for own, count in pairs]) for index in range(len(LEVELS))]
            low, high = shares[-1].low, shares[-1].high
            band = f" ({100 * low:.0f}–{100 * high:.0f})" if low is not None and high is not None else ""
            texts.append("/".join(f"{100 * (share.value or 0.0):.0f}" for share in shares) + band)
        lines.append(f"  {quantity:22} {texts[0]:22} | {texts[1]}  of {sum(run.quantities for run in runs)}")
    return lines


def _name(run: Evidence) -> str:
    return f"{run.name}-{run.load.replace('/', 'p')}-{run.seed}"
