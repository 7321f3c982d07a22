"""`gameday verify --seeds N SCENARIO`: are counterfactuals right? Runs and verifies over seeds; a table at the end.

Each seed is a pair of runs in a folder of its own. What is finished there is not run again, so that the whole may be
stopped and gone on with. A seed whose twin finds no change that holds is verified with the one that saves most, and
the table says so; one without any change that can be tried counts as not agreed.

A first run may also come from `gameday accuracy`: one of the very same scenario, load and seed is taken, and its twin
asked what would have helped. Seeds that are played side by side have cores of their own and print into their own files;
each is a process in a session of its own, so that Ctrl-C reaches the caller alone, which tells each once and waits.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import msgspec

from gameday import rundir
from gameday.accuracy.runner import hold, interrupt_no_more, share_cores
from gameday.accuracy.suite import config_of
from gameday.errors import BadInput, Exit
from gameday.explaining import explain_again
from gameday.run import RunOptions, run_gameday
from gameday.rundir import RunDir
from gameday.verify import EXPLAIN_SECONDS, verify
from gameday.worlds.base import WorldOptions
from reports.notation import span, times
from reports.store import RunStore
from reports.verification import DOCUMENT, Verification
from scenarios.load import InvalidScenario, load_scenario
from scenarios.model import Scenario
from sim.explain.explanation import Explanation
from sim.replication.workers import end_with_parent

AGREED = 0.8
"""Share of seeds whose measured budget must lie in its interval (acceptance 4 of the twin)."""
WORLD = "local"
INTERRUPTED = "interrupted"
OVERHEAD_SECONDS = 45.0
"""Of a pair of runs, beside its phases: two starts, forecasts, judging, an explanation."""


@dataclass(frozen=True, slots=True)
class SeedOptions:
    """What the command line says."""

    scenario: str
    seeds: int
    overrides: tuple[str, ...] = ()
    variant: str | None = None
    reuse: Path | None = None
    out: Path | None = None
    minutes: float | None = None
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Pair:
    """One seed's outcome; `verification` None: no pair was finished, `note` says why."""

    seed: int
    verification: Verification | None
    holds: bool = False
    note: str = ""

    @property
    def inside(self) -> bool | None:
        return self.verification.inside if self.verification is not None else None


def verify_seeds(options: SeedOptions) -> int:
    """Runs what is missing, writes the table. 0 where enough seeds agreed, 1 where not, 4 where runs failed.

    Raises:
        BadInput, InvalidScenario: nothing was started.
    """
    if options.seeds < 1:
        raise BadInput(f"--seeds {options.seeds}: name one at least")
    scenario = load_scenario(options.scenario, variant=options.variant, overrides=options.overrides)
    if options.out is not None:
        rundir.check_writable("--out", options.out)
    folder = (options.reuse or rundir.RUNS / f"verify-{scenario.name}").absolute()
    until = time.monotonic() + 60.0 * options.minutes if options.minutes is not None else None
    cores = share_cores(options.jobs)
    pairs: list[Pair] = []
    missing: list[int] = []
    for seed in range(1, options.seeds + 1):
        known = _known(folder, seed, config_of(scenario, WORLD, seed))
        pair = next((pair for run in known if (pair := _finished(seed, run)) is not None), None)
        if pair is not None:
            pairs.append(pair)
        else:
            missing.append(seed)
    if missing:
        with hold(folder):
            if options.jobs == 1:
                pairs += _one_by_one(missing, scenario, folder, options, until)
            else:
                pairs += _side_by_side(missing, scenario, folder, options, until, cores)
    pairs.sort(key=lambda pair: pair.seed)
    text = table(scenario, pairs)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
        print(f"\n{options.out}")
    else:
        print(f"\n{text}")
    if any(pair.note == INTERRUPTED for pair in pairs):
        print("stopped; the same command goes on from here", flush=True)
        return Exit.ABORTED
    if any(pair.note.startswith("failed") for pair in pairs):
        return Exit.HARNESS_FAILED
    agreed = sum(pair.inside is True for pair in pairs)
    return Exit.HELD if agreed >= AGREED * options.seeds - 1e-9 else Exit.NOT_HELD


def _one_by_one(
    seeds: Iterable[int], scenario: Scenario, folder: Path, options: SeedOptions, until: float | None
) -> list[Pair]:
    pairs: list[Pair] = []
    for seed in seeds:
        try:
            pairs.append(_in_time(seed, scenario, folder, options, until))
        except KeyboardInterrupt:
            pairs.append(Pair(seed, None, note=INTERRUPTED))
        if pairs[-1].note == INTERRUPTED:
            break
    return pairs


def _side_by_side(
    seeds: Iterable[int],
    scenario: Scenario,
    folder: Path,
    options: SeedOptions,
    until: float | None,
    cores: Sequence[frozenset[int] | None],
) -> list[Pair]:
    """The same, as many at a time as there are shares of the cores. After an interruption none begins any more."""
    coming, under_way, pairs = iter(seeds), list[_Playing](), list[Pair]()
    free = list(cores)
    try:
        while True:
            while free and (seed := next(coming, None)) is not None:
                log = folder / f"seed-{seed}.log"
                print(f"seed {seed}: {log}", flush=True)
                with _interrupts_later():  # it is born deaf to them, and none gets between its birth and our list
                    under_way.append(_Playing.start(free.pop(), log, seed, scenario, folder, options, until))
            if not under_way:
                return pairs
            ended = connection.wait([playing.result for playing in under_way])
            for playing in [playing for playing in under_way if playing.result in ended]:
                under_way.remove(playing)
                free.append(playing.cores)
                pairs.append(playing.told())
                if pairs[-1].note == INTERRUPTED:  # alone, by whatever: the others come to their end
                    coming = iter(())
    except KeyboardInterrupt:
        interrupt_no_more()
        for playing in under_way:
            playing.interrupt()
        print("winding down what is under way: faults are reverted first", flush=True)
        return pairs + [playing.told() for playing in under_way]


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    resource_tracker.ensure_running()  # its start unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, slots=True)
class _Playing:
    """A seed in a process of its own."""

    process: SpawnProcess
    seed: int
    cores: frozenset[int] | None
    result: Connection

    @classmethod
    def start(cls, cores: frozenset[int] | None, log: Path, seed: int, *what: Any) -> _Playing:
        context = multiprocessing.get_context("spawn")
        result, there = context.Pipe(duplex=False)
        process = context.Process(target=_apart, args=(there, cores, log, _in_time, seed, *what))
        process.start()
        there.close()
        return cls(process, seed, cores, result)

    def interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self.process.pid or 0, signal.SIGINT)

    def told(self) -> Pair:
        """What came of it, which is awaited and printed."""
        try:
            pair: Pair = self.result.recv()
        except EOFError:
            pair = Pair(self.seed, None, note="failed: its process ended early; see its log")
        self.process.join()
        came = pair.note or ("inside its interval" if pair.inside else "not inside its interval")
        print(f"seed {self.seed}: {came}", flush=True)
        return pair


def _apart(
    result: Connection, cores: frozenset[int] | None, log: Path, play: Callable[..., Pair], seed: int, *what: Any
) -> None:
    """One seed in its process, which takes its cores, as all that it starts does, and whose output goes into a file."""
    try:
        os.setsid()
        end_with_parent()
        if cores is not None:
            os.sched_setaffinity(0, cores)
        with log.open("ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        pair = play(seed, *what)
    except KeyboardInterrupt:
        pair = Pair(seed, None, note=INTERRUPTED)
    except (BadInput, InvalidScenario) as reason:
        pair = Pair(seed, None, note=f"failed: {_in_one_line(reason)}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.flush()
    result.send(pair)


def _in_one_line(reason: Exception) -> str:
    return "; ".join(str(reason).splitlines())


def _in_time(seed: int, scenario: Scenario, folder: Path, options: SeedOptions, until: float | None) -> Pair:
    """A seed's pair of runs, where there is time for it."""
    if until is not None and time.monotonic() + _pair_seconds(scenario) > until:
        return Pair(seed, None, note="not run: no time left")
    return _run(seed, _known(folder, seed, config_of(scenario, WORLD, seed)), folder, options)


def _pair_seconds(scenario: Scenario) -> float:
    phases = scenario.phases
    once = phases.warmup + phases.baseline + phases.inject + phases.recover + 16.0
    return 2.0 * once + OVERHEAD_SECONDS


def _finished(seed: int, first: RunDir) -> Pair | None:
    """The pair, where it is in the folder. Raises BadInput: a damaged store."""
    if not rundir.has_store(first.path):
        return None
    rundir.find(str(first.path))
    with RunStore(first.store) as store:
        verification, explanation = store.document(DOCUMENT), store.document("explanation")
    if verification is None or explanation is None:
        return None
    found = msgspec.json.decode(verification[1], type=Verification)
    if found.state != "finished":
        return None
    remedies = msgspec.json.decode(explanation[1], type=Explanation).remedies
    return Pair(seed, found, any(r.holds and r.change == found.change for r in remedies))


def _known(folder: Path, seed: int, config: str) -> list[RunDir]:
    """First runs of the seed, finished or not, the newest last; those of a suite come first. `config`: SHA-256 of what
    is run, which a suite's folders carry."""
    if not os.path.isdir(folder):  # or may not be entered: `hold` says so
        return []
    again = sorted(folder.glob(f"seed-{seed}-again-*"), key=lambda path: (len(path.name), path.name))
    paths = sorted(path for path in folder.glob(f"*-{seed}-{config[:8]}") if path.is_dir())
    paths += [folder / f"seed-{seed}", *(path for path in again if "-verified" not in path.name)]
    return [RunDir(path) for path in paths if path.exists()]


def _run(seed: int, known: Sequence[RunDir], folder: Path, options: SeedOptions) -> Pair:
    """The runs of one seed that are missing. A first run that did not get to its end is made again beside it."""
    run = next((run for run in known if _is_whole(run)), None)
    if run is None:
        run = RunDir(folder / (f"seed-{seed}" if not known else f"seed-{seed}-again-{len(known) + 1}"))
        world = WorldOptions(WORLD, seed)
        code = run_gameday(
            RunOptions(options.scenario, world, options.variant, options.overrides, run.path, plain=True)
        )
        if code == Exit.ABORTED:
            return Pair(seed, None, note=INTERRUPTED)
        if code == Exit.HARNESS_FAILED:
            return Pair(seed, None, note="failed: the first run")
    try:
        with RunStore(run.store) as store:
            unasked = store.document("explanation") is None
        if unasked:
            explain_again(str(run.path), EXPLAIN_SECONDS)
        code = verify(run, plain=True)
    except (BadInput, InvalidScenario) as reason:
        return Pair(seed, None, note=_in_one_line(reason))
    if code == Exit.ABORTED:
        return Pair(seed, None, note=INTERRUPTED)
    return _finished(seed, run) or Pair(seed, None, note="failed: the second run")


def _is_whole(run: RunDir) -> bool:
    if not rundir.has_store(run.path):
        return False
    with RunStore(run.store) as store:
        return rundir.state(store) == "finished"


def table(scenario: Scenario, pairs: Iterable[Pair]) -> str:
    """Markdown: each seed with its change, what was predicted, what was measured."""
    pairs = list(pairs)
    agreed = sum(pair.inside is True for pair in pairs)
    known = sum(pair.inside is not None for pair in pairs)
    variant = f", variant {scenario.variant}" if scenario.variant else ""
    lines = [
        f"# Counterfactuals of {scenario.name}{variant}, verified",
        "",
        f"{agreed} of {known} measured budgets lie inside the 90 % interval that was predicted from the first run's"
        " baseline before the second run began. “All figures” counts budgets, success rates, latencies and tries of"
        " every SLO and service over inject and recover together.",
        "",
        "| seed | change | twin says | SLO | predicted budget spent, 90 % | measured | inside | all figures inside |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for pair in pairs:
        found = pair.verification
        row = found.headline if found is not None else None
        if found is None or row is None:
            lines.append(f"| {pair.seed} | – | – | – | – | – | – | {pair.note or 'nothing measured'} |")
            continue
        figures = [r.inside for r in found.rows if r.inside is not None]
        lines.append(
            f"| {pair.seed} | {found.change} | {'holds' if pair.holds else 'does not hold'} | {found.subject} |"
            f" {times(row.median)} ({span('budget_spent', row.low, row.high)}) | {times(row.measured)} |"
            f" {'yes' if row.inside else '**no**'} | {sum(figures)} of {len(figures)} |"
        )
    return "\n".join(lines) + "\n"
