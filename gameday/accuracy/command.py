"""`gameday accuracy`: without a suite the track record; with one, run what is missing and write the page."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from gameday.accuracy.acceptance import lines, mark_moved
from gameday.accuracy.evidence import Evidence, NoEvidence, read_evidence
from gameday.accuracy.figures import write_figures
from gameday.accuracy.learn import learn_discrepancy
from gameday.accuracy.page import render
from gameday.accuracy.runner import Runner, hold, share_cores
from gameday.accuracy.suite import PlannedRun, Suite, read_suite
from gameday.accuracy.track import print_track_record
from gameday.errors import BadInput, Exit
from gameday.rundir import check_writable
from mesh import native

DEFAULT_FOLDER = Path("runs/accuracy")
WORLD = "local"


@dataclass(frozen=True, slots=True)
class AccuracyOptions:
    """What the command line says."""

    suite: str | None = None
    seeds: int = 5
    only: tuple[str, ...] = ()
    out: Path | None = None
    reuse: Path | None = None
    minutes: float | None = None
    again: bool = False
    reforecast: bool = False
    dry_run: bool = False
    jobs: int = 1
    learn: Path | None = None


def run_accuracy(options: AccuracyOptions) -> int:
    """Does what the options say; returns an exit code.

    Raises:
        BadInput: before anything is started.
    """
    if options.suite is None:
        if options != AccuracyOptions():
            raise BadInput("these options need --suite; `local` is the acceptance protocol of the embedded world")
        return print_track_record()
    if options.seeds < 1:
        raise BadInput(f"--seeds {options.seeds}: at least 1")
    if options.minutes is not None and options.minutes <= 0:
        raise BadInput(f"--minutes {options.minutes:g}: more than 0")
    share_cores(options.jobs)
    suite = read_suite(options.suite, options.seeds, options.only, WORLD)
    for option, path in (("--out", options.out), ("--learn", options.learn)):
        if path is not None:
            check_writable(option, path)
    folder = options.reuse if options.reuse is not None else DEFAULT_FOLDER
    runner = Runner(folder, _say, again=options.again)
    if options.dry_run:
        return _print_plan(suite, runner, options.jobs)
    try:
        if not options.reforecast:
            with hold(folder):
                _run_missing(suite, runner, options.minutes, options.jobs)
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        _write(suite, runner, folder, options)
        return Exit.ABORTED
    return _write(suite, runner, folder, options)


def _print_plan(suite: Suite, runner: Runner, jobs: int) -> int:
    missing = [run for run in suite.runs if not runner.is_done(run)]
    for run in suite.runs:
        known = runner.ended(run)
        state = "to run" if known is None else "finished" if known.is_scored else f"failed: {known.why}"
        part = run.case.part + (", control" if run.case.control else "")
        print(f"{run.name:28} {run.family:28} {part:18} ~{runner.expected_seconds(run):3.0f} s  {state}")
    for reason in suite.impossible:
        print(f"cannot here: {reason}")
    print(f"{len(missing)} of {len(suite.runs)} runs to go, about {_left(missing, runner, jobs)}")
    return Exit.HELD


def _run_missing(suite: Suite, runner: Runner, minutes: float | None, jobs: int) -> None:
    began = time.monotonic()
    missing = [run for run in suite.runs if not runner.is_done(run)]
    there = len(suite.runs) - len(missing)
    _say(f"{there} of {len(suite.runs)} runs are there; the rest takes {_left(missing, runner, jobs)}")
    if missing and not native.compiled():
        _say("the twin is interpreted, so few replications fit the time of a forecast; `make native` first is better")
    to_start = list(missing)

    def in_time() -> Iterator[PlannedRun]:
        while to_start:
            expected = time.monotonic() - began + runner.expected_seconds(to_start[0])
            if minutes is not None and expected > 60.0 * minutes:
                _say(f"{minutes:g} minutes are over; {len(to_start)} runs are left for another time")
                return
            yield to_start.pop(0)

    with closing(runner.run_all(in_time(), jobs)) as under_way:
        for number, (run, ended) in enumerate(under_way, 1):
            came = "scored" if ended.is_scored else f"FAILED with exit code {ended.exit_code}: {ended.why}"
            _say(
                f"{number}/{len(missing)}  {run.name} ({run.family}): {came} in {ended.seconds:.0f} s;"
                f" {_left(to_start, runner, jobs)} to go"
            )


def _left(runs: Sequence[PlannedRun], runner: Runner, jobs: int) -> str:
    return f"{sum(runner.expected_seconds(run) for run in runs) / jobs / 60:.0f} min"


def _write(suite: Suite, runner: Runner, folder: Path, options: AccuracyOptions) -> int:
    evidence: list[Evidence] = []
    failures: list[str] = []
    for run in suite.runs:
        ended = runner.ended(run)
        if ended is None:
            continue
        if not ended.is_scored:
            failures.append(f"{run.name}: exit code {ended.exit_code}: {ended.why}")
            continue
        try:
            found = read_evidence(
                folder / run.folder,
                name=run.case.name,
                family=run.family,
                seed=run.seed,
                part=run.case.part,
                control=run.case.control,
                load=run.load,
                anew=options.reforecast,
            )
        except NoEvidence as none:
            failures.append(f"{run.name}: {none}")
            continue
        except sqlite3.DatabaseError as error:
            failures.append(
                f"{run.name}: {folder / run.folder}: its store is damaged ({error}); remove it to run it anew"
            )
            continue
        found = replace(found, others=ended.others)
        if options.reforecast:
            inside = sum(row.inside[2] for row in found.rows)
            _say(f"{run.name}: {inside} of {len(found.rows)} inside 90 %, {found.replications} replications")
        evidence.append(found)
    if not evidence and not failures:
        _say(f"nothing to score in {folder}")
        return Exit.HELD
    if options.learn is not None:
        learn_discrepancy(evidence, options.learn, WORLD, _say)
    if options.out is None:
        print(render(evidence, failures, suite.impossible, _command(options)))
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        figures = write_figures(options.out, evidence)
        options.out.write_text(render(evidence, failures, suite.impossible, _command(options), figures))
        _say(f"wrote {options.out}: {len(evidence)} runs")
    if failures:
        _say(f"{len(failures)} without a score; `--again` runs those once more that failed")
    missed = _print_acceptance(mark_moved(evidence))
    return Exit.HARNESS_FAILED if failures else Exit.NOT_HELD if missed else Exit.HELD


def _print_acceptance(evidence: Sequence[Evidence]) -> bool:
    """Prints the acceptance lines of both halves; whether one was missed."""
    missed = False
    for part in ("tuning", "held-out"):
        runs = [run for run in evidence if run.part == part]
        for line in lines(runs) if runs else ():
            missed |= line.met is False
            verdict = "cannot tell" if line.met is None else "met" if line.met else "MISSED"
            _say(f"{part:9} {verdict:12} {line.name} ({line.asked}): {line.found}")
    return missed


def _command(options: AccuracyOptions) -> str:
    parts = [f"gameday accuracy --suite {options.suite} --seeds {options.seeds}"]
    parts += [f"--only '{pattern}'" for pattern in options.only]
    if options.jobs > 1:
        parts.append(f"--jobs {options.jobs}")
    if options.reforecast:
        parts.append("--reforecast")
    return " ".join(parts)


def _say(text: str) -> None:
    print(text, flush=True)
