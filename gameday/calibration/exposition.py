"""Two text snapshots of /metrics, Prometheus or OpenMetrics, as a window.

When a snapshot was taken: from the timestamps of its samples, else from `--at`, once for each file. Not from the file's
date: a copied file has the date of the copy, and a rate from it would be a confident number about nothing.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from gameday.calibration.telemetry import Telemetry
from gameday.errors import BadInput
from reports.series import parse_labels

_EXEMPLAR = re.compile(r" # \{.*$")
LATEST_SECONDS = 1e11
"""A larger timestamp is in milliseconds, as Prometheus's format has it; OpenMetrics has seconds."""


def read_snapshots(paths: tuple[Path, Path], at: tuple[float, ...]) -> Telemetry:
    """Counters between two snapshots.

    Raises:
        BadInput: not readable, no metrics, no times, or not in order.
    """
    if at and len(at) != 2:
        raise BadInput(f"--at: two snapshots need two times, not {len(at)}")
    snapshots = [_parse(path) for path in paths]
    times = list(at) or [_time_of(path, samples) for path, (samples, _) in zip(paths, snapshots, strict=True)]
    if times[1] <= times[0]:
        raise BadInput(
            f"{paths[1]}: taken at {times[1]:.0f}, not after {paths[0]} at {times[0]:.0f}: swapped, or the clock jumped"
        )
    first, second = ({(n, labels): v for n, labels, v, _ in samples} for samples, _ in snapshots)
    telemetry = Telemetry()
    for (name, labels), value in second.items():
        before = first.get((name, labels))
        samples = [(times[1], value)] if before is None else [(times[0], before), (times[1], value)]
        telemetry.add(name, dict(labels), samples)
    for (name, labels), value in first.items():
        if (name, labels) not in second:
            telemetry.add(name, dict(labels), [(times[0], value)])
    skipped = sum(bad for _, bad in snapshots)
    if skipped:
        telemetry.notes.append(f"{skipped} lines of the snapshots are no samples: left out")
    return telemetry


_Sample = tuple[str, tuple[tuple[str, str], ...], float, float | None]


def _parse(path: Path) -> tuple[list[_Sample], int]:
    """(samples, lines that are none)."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    found: list[_Sample] = []
    bad = 0
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        sample = _sample(line)
        if sample is None:
            bad += 1
        else:
            found.append(sample)
    if not found:
        raise BadInput(f"{path}: no metrics in it; the text of a /metrics page is expected")
    return found, bad


def _sample(line: str) -> _Sample | None:
    line = _EXEMPLAR.sub("", line)
    brace, close = line.find("{"), line.rfind("}")
    if 0 <= brace < close:
        name, labels = line[:brace].strip(), line[brace + 1 : close]
        rest = line[close + 1 :].split()
    else:
        name, *rest = line.split()
        labels = ""
    try:
        value = float(rest[0])
        stamp = float(rest[1]) if len(rest) > 1 else None
    except (ValueError, IndexError):
        return None
    if not name or not math.isfinite(value):
        return None
    if stamp is not None and stamp > LATEST_SECONDS:
        stamp /= 1_000.0
    return name, tuple(sorted(parse_labels(labels).items())), value, stamp


def _time_of(path: Path, samples: list[_Sample]) -> float:
    stamps = sorted(stamp for *_, stamp in samples if stamp is not None)
    if not stamps:
        raise BadInput(f"{path}: its samples have no timestamps; say when both were taken: --at TIME --at TIME")
    return stamps[len(stamps) // 2]
