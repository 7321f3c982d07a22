"""One game day, phase by phase.

    plan ─ up ─ warmup ─ baseline ─ seal ─ inject ─ recover ─ judge ─ explain ─ report

The phases are one coroutine that reads top to bottom. Beside it run a scraper (metrics, once a second) and a ticker
(load results, supervisor events, abort guard, progress). Whatever ends the phases (their end, the guard, Ctrl-C, a
failure) leads to the same wind-down: revert faults, stop chaostoolkit, stop load, judge what there is, take the world
down, write the report. No step of it is skipped because an earlier one failed. Faults are applied by chaostoolkit in a
process of its own; the ledger, not this process, knows what to undo.

One file although it is long: it is the order of events, and that is best seen in one place. What the steps do lives in
the modules they call.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from chaos.experiment import command as chaos_command
from chaos.experiment import compile_experiment, late_faults
from chaos.guard import AbortGuard
from chaos.ledger import Ledger
from chaos.plan import Plan, plan
from chaos.processes import record_child
from gameday import judge, rundir
from gameday.arrivals import known_arrivals
from gameday.children import Child
from gameday.errors import BadInput, Exit, WorldFailed, cannot_write
from gameday.ingest import Ingest
from gameday.progress import Progress, for_terminal, say
from gameday.record import RunRecord
from gameday.rundir import RunDir
from gameday.view import snapshot
from gameday.watch import LoadWatch
from gameday.worlds.base import Load, World, WorldOptions
from gameday.worlds.catalogue import make_world
from loadtests.plan import LoadPlan
from reports.build import write_reports
from reports.observe import observation
from reports.store import RunStore
from scenarios.load import load_scenario
from scenarios.model import Scenario
from sim.forecast.patience import LONGEST_SECONDS, Patience
from sim.forecast.predict import Forecaster
from sim.results import Forecast

FORECAST_SECONDS = 11.0
PREPARATION_SECONDS = 5.0
"""From the time at which the forecast is due to the injection: for a late forecast, and for chaostoolkit to start."""
CHAOS_GRACE_SECONDS = 10.0
FIRST_REQUEST_SECONDS = 20.0
GUARD_WINDOW_SECONDS, GUARD_SETTLE_SECONDS = 5.0, 1.0
"""The guard looks at five seconds (an SLO may have one request a second) that ended a second ago."""

_WORDS = {
    Exit.HELD: "PASSED: every expectation held",
    Exit.NOT_HELD: "FAILED: an expectation did not hold",
    Exit.ABORTED: "ABORTED: faults were reverted",
    Exit.HARNESS_FAILED: "ERROR: the harness failed",
}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says."""

    scenario: str
    world: WorldOptions = field(default_factory=WorldOptions)
    variant: str | None = None
    overrides: tuple[str, ...] = ()
    out: Path | None = None
    dry_run: bool = False
    plain: bool = False
    explain: bool = True


def run_gameday(options: RunOptions) -> int:
    """Runs a game day to its report; returns the exit code.

    Raises:
        BadInput, InvalidScenario: before anything is started.
    """
    scenario = load_scenario(options.scenario, variant=options.variant, overrides=options.overrides)
    the_plan = plan(scenario, options.world.name)
    print(the_plan.text(), flush=True)
    if the_plan.problems:
        raise BadInput("; ".join(the_plan.problems))
    if options.dry_run:
        return Exit.HELD
    run = rundir.create(options.out, rundir.new_run_id(scenario.name))
    try:
        world = make_world(scenario, run.path, options.world)
    except BadInput:
        run.discard()
        raise
    with RunStore(run.store, create=True) as store:
        day = GameDay(scenario, options, the_plan, run, world, store, for_terminal(options.plain))
        return asyncio.run(day.run())


class GameDay:
    """One run from `up` to the report."""

    def __init__(
        self,
        scenario: Scenario,
        options: RunOptions,
        the_plan: Plan,
        run: RunDir,
        world: World,
        store: RunStore,
        progress: Progress,
    ) -> None:
        self._scenario = scenario
        self._options = options
        self._plan = the_plan
        self._run = run
        self._world = world
        self._store = store
        self._progress = progress
        self._record = RunRecord(store, progress)
        self._ledger = Ledger(run.path, create=True)
        self._watch = LoadWatch(scenario, run.requests, store)
        self._ingest = Ingest(run, store, self._ledger)
        self._guard = AbortGuard(scenario.abort)
        self._children: dict[str, Child] = {}
        self._load: Load | None = None
        self._background: list[asyncio.Task[None]] = []
        self._patience = Patience(judge.twin_budget(scenario.phases, FORECAST_SECONDS))
        self._forecast: Forecast | None = None
        self._planned_injection_at: float | None = None
        self._interruptible: asyncio.Future[Any] | None = None
        """What Ctrl-C, the guard or a failure beside the phases ends: the phases, later the judging."""
        self._ended_by: str | Exception | None = None
        self._code = Exit.HELD
        self._reasons: list[str] = []

    # ---- from the first to the last

    async def run(self) -> int:
        """All phases, then the wind-down whatever happened; returns the exit code."""
        options = self._options
        self._record.describe(
            self._scenario,
            self._plan.text(),
            {
                "run_id": self._run.path.name,
                "world": options.world.name,
                "seed": options.world.seed,
                "variant": options.variant,
                "overrides": list(options.overrides),
            },
        )
        record_child(self._run.path, "runner", os.getpid())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        with self._progress:
            await self._guarded(self._interruptibly(self._phases()))
            await self._wind_down()
        say(f"\n{_WORDS[self._code]}")
        for reason in self._reasons:
            say(f"  {reason}")
        report = self._run.path / "report.html"
        say(
            f"\nreport: {_shown(report)}"
            if report.is_file()
            else f"\nno report; what there is lies in {self._run.path}"
        )
        return self._code

    async def _phases(self) -> None:
        phases = self._scenario.phases
        await self._up()
        await self._timed("warmup", phases.warmup, "load on, pools and balancers warm up")
        await self._timed("baseline", phases.baseline, "measuring the healthy system")
        await self._seal()
        await self._timed("inject", phases.inject, self._plan.faults_line(), start=self._planned_injection_at)
        await self._timed("recover", phases.recover, "faults reverted; waiting for recovery")

    # ---- phases

    async def _up(self) -> None:
        self._record.begin("up", "control plane, proxies and apps")
        await self._start("reaper", [sys.executable, "-m", "chaos.reaper", str(self._run.path)], outlive=True)
        await self._world.up(self._progress.note)
        self._beside(self._world.observe(self._store))
        self._load = await self._world.start_load(self._load_plan(), self._run.log("load"))
        self._beside(self._tick_forever())
        deadline = time.monotonic() + FIRST_REQUEST_SECONDS
        while self._watch.total == 0:
            if time.monotonic() > deadline:
                raise WorldFailed(f"no request in {FIRST_REQUEST_SECONDS:.0f} s; see {self._run.log('load')}")
            await asyncio.sleep(0.1)
        self._record.end("up")

    def _load_plan(self) -> LoadPlan:
        load, phases = self._scenario.load, self._scenario.phases
        seconds = (
            phases.warmup + phases.baseline + LONGEST_SECONDS + PREPARATION_SECONDS + phases.inject + phases.recover
        )
        return LoadPlan(
            app=str(self._scenario.app.source),
            proxy=None,
            rate=load.rate,
            mix=dict(load.mix),
            max_in_flight=load.max_in_flight,
            timeout_seconds=load.timeout,
            seed=self._options.world.seed,
            duration_seconds=seconds + 60.0,  # the runner ends it; this only bounds it
            output=str(self._run.requests),
        )

    async def _seal(self) -> None:
        self._record.begin("seal", "the twin forecasts; nothing is injected before the forecast is sealed")
        self._watch.poll()
        self._store.commit()
        start, end = self._record.windows["baseline"]
        seen = observation(self._store, self._scenario, start, end)
        world, seed = self._options.world.name, self._options.world.seed
        twin = await asyncio.to_thread(Forecaster, self._scenario, seen, world=world, seed=seed)
        try:
            seconds = await asyncio.to_thread(twin.seconds_needed, self._patience)
            if seconds > self._patience.usual:
                self._progress.note(f"the twin plays for {seconds:.0f} s: a replication takes long here")
            # Fixed before it plays, so that it can line up certificate phases.
            planned = time.time() + seconds + PREPARATION_SECONDS
            arrivals = known_arrivals(self._store, self._scenario, seed, (start, end), planned)
            forecast = await asyncio.to_thread(twin.forecast, planned, seconds, arrivals)
        finally:
            await asyncio.to_thread(twin.close)
        self._forecast = forecast
        body = msgspec.json.encode(forecast)
        digest = hashlib.sha256(body).hexdigest()
        self._run.forecast.write_bytes(body)
        sealed_at = time.time()
        self._store.put_document("forecast", sealed_at, body)
        self._record.event("seal", f"forecast sealed, sha256 {digest}", {"sha256": digest}, at=sealed_at)
        for line in judge.forecast_lines(forecast):
            self._progress.note(line)
        self._progress.note(f"sealed, sha256 {digest[:16]}…, {forecast.replications} replications")
        if planned < time.time() + 1.0:
            planned = time.time() + 1.0
            self._record.event("note", "the forecast took longer than planned; the injection is late")
        await self._prepare_injection(planned)
        await asyncio.sleep(max(0.0, planned - time.time()))
        self._record.end("seal")

    async def _prepare_injection(self, planned: float) -> None:
        """Starts chaostoolkit, which waits by itself until `planned`."""
        self._planned_injection_at = planned
        self._store.set_meta(planned_injection_at=planned)
        experiment = msgspec.json.format(
            msgspec.json.encode(compile_experiment(self._scenario, self._run.path, planned))
        )
        self._run.experiment.write_bytes(experiment)
        self._store.put_document("experiment", time.time(), experiment)
        await self._start("chaos", chaos_command(self._run.path))

    async def _timed(self, name: str, seconds: float, text: str, start: float | None = None) -> None:
        self._record.begin(name, f"{seconds:.0f} s: {text}", at=start)
        end = self._record.promise(name, seconds)
        await asyncio.sleep(max(0.0, end - time.time()))
        self._record.end(name, at=end)

    async def _start(
        self, name: str, command: list[str], environment: dict[str, str] | None = None, *, outlive: bool = False
    ) -> None:
        self._children[name] = await Child.start(
            name, command, self._run.log(name), self._run.path, environment, outlive=outlive
        )

    # ---- beside the phases

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs until the wind-down. If it fails, the phases end: a run without eyes or guard must not go on."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_background_end)
        self._background.append(task)

    def _on_background_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._end_early(error)

    async def _tick_forever(self) -> None:
        while True:
            self._watch.poll()
            for note in self._ingest.poll():
                self._progress.note(note)
            self._store.commit()
            phase = self._record.phase
            self._progress.tick(
                snapshot(
                    phase,
                    self._record.windows.get(phase),
                    self._scenario,
                    self._watch,
                    self._forecast,
                    self._planned_injection_at,
                    self._ingest.active_faults,
                )
            )
            if self._load is not None and self._load.exit_code is not None:
                raise WorldFailed(f"the load driver ended by itself; see {self._run.log('load')}")
            if phase in ("inject", "recover"):
                self._check_guard()
            await asyncio.sleep(1.0)

    def _check_guard(self) -> None:
        now = time.time()
        end = now - GUARD_SETTLE_SECONDS
        for name, series in self._watch.series.items():
            counts = series.window(end - GUARD_WINDOW_SECONDS, end)
            self._guard.observe(now, name, counts.good, counts.bad, series.spec.objective)
        if self._guard.tripped is not None:
            self._end_early(f"abort guard: {self._guard.tripped}")

    # ---- ends that were not planned

    def _on_signal(self, number: int) -> None:
        if self._ended_by is None:
            self._end_early("interrupted by Ctrl-C" if number == signal.SIGINT else "told to end (SIGTERM)")
        else:
            self._progress.note("already winding down; faults are being reverted, please wait")

    def _end_early(self, why: str | Exception) -> None:
        """Ends the phases, or the judging, for a reason (exit 3) or an error (exit 4). The first one counts."""
        if self._ended_by is None:
            self._ended_by = why
            if self._interruptible is not None:
                self._interruptible.cancel()

    async def _interruptibly(self, work: Awaitable[Any]) -> Any:
        """Awaits `work` so that `_end_early` can end it."""
        self._interruptible = asyncio.ensure_future(work)
        if self._ended_by is not None:
            self._interruptible.cancel()
        try:
            return await self._interruptible
        except asyncio.CancelledError:
            if isinstance(self._ended_by, Exception):
                raise self._ended_by from None
            if self._ended_by is None:
                raise
            self._code = Exit.ABORTED
            self._reasons.append(self._ended_by)
            self._record.event("abort", self._ended_by)
            self._progress.note(f"{self._ended_by}; reverting faults and winding down")
            return None
        finally:
            self._interruptible = None

    async def _guarded(self, work: Awaitable[Any]) -> None:
        """One step that may fail without keeping the next ones from being done; the run then ends with exit 4."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - whatever it is, faults must still be reverted; it is said and logged
            self._code = Exit.HARNESS_FAILED
            if cannot_write(error):
                reason = f"{self._run.path}: cannot be written any more; make room on its disk, and run again"
            elif isinstance(error, WorldFailed):
                reason = str(error)
            else:
                reason = f"{type(error).__name__}: {error}"
                _log_traceback(error, self._run.log("runner"))
            if reason not in self._reasons:
                self._reasons.append(reason)
                self._progress.note(f"{reason}; winding down")

    # ---- the end

    async def _wind_down(self) -> None:
        """Leaves nothing behind, judges what was measured, writes the report."""
        complete = self._code is Exit.HELD
        ended_in = self._record.phase
        await self._guarded(self._end_faults(complete))
        await self._guarded(self._end_load(complete))
        await self._guarded(asyncio.to_thread(self._ledger.close_run))
        down = asyncio.ensure_future(self._guarded(self._world.down()))
        if complete and self._code is Exit.HELD and self._forecast is not None:
            await self._guarded(self._interruptibly(self._judge(self._forecast)))
        else:
            await self._guarded(_called(self._record.event, "note", f"the run ended in phase {ended_in}"))
        await down
        await self._guarded(_called(self._ingest.poll))
        if "reaper" in self._children:
            await self._guarded(self._children["reaper"].stop(3.0))
        await self._guarded(_called(self._record.finish, self._code, self._reasons))
        await self._guarded(_called(self._write_report))

    async def _end_faults(self, complete: bool) -> None:
        chaos = self._children.get("chaos")
        if chaos is not None:
            if complete:
                await chaos.wait(CHAOS_GRACE_SECONDS)
            await chaos.stop(2.0)
        if await asyncio.to_thread(self._ledger.revert_all):
            self._progress.note("all faults reverted")
        if complete:
            self._check_injections()

    def _check_injections(self) -> None:
        records = [record for record in self._ledger.records() if record.injected_at is not None]
        missing = {fault.name for fault in self._scenario.faults} - {record.name for record in records}
        if missing:
            raise WorldFailed(f"never injected: {', '.join(sorted(missing))}; see {self._run.log('chaos')}")
        late = late_faults(self._scenario.faults, records, self._planned_injection_at or 0.0)
        for name, (seconds, over) in late.items():
            if over:
                raise WorldFailed(
                    f"{name} went in {seconds:.0f} s late, when it was to be over: a busy machine, or see"
                    f" {self._run.log('chaos')}"
                )
            text = f"{name} went in {seconds:.1f} s late: the forecast is of the plan"
            self._record.event("note", text)
            self._progress.note(text)

    async def _end_load(self, complete: bool) -> None:
        if self._load is not None:
            await self._load.stop(self._scenario.load.timeout + 3.0 if complete else 2.0)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._watch.poll()
        self._ingest.poll()

    async def _judge(self, forecast: Forecast) -> None:
        self._record.begin("judge", "scoring the forecast, asking what would have saved the SLOs")
        verdict = await asyncio.to_thread(
            judge.judge,
            self._store,
            self._scenario,
            self._record.windows,
            forecast,
            self._options.world.seed,
            explained=self._options.explain,
        )
        for note in verdict.notes:
            self._record.event("note", note)
        for line in verdict.told:
            self._progress.note(line)
        if not verdict.held:
            self._code = Exit.NOT_HELD
        self._reasons += verdict.reasons
        self._record.end("judge")

    def _write_report(self) -> None:
        if self._run.journal.is_file():
            self._store.put_document("journal", time.time(), self._run.journal.read_bytes())
        write_reports(self._store, self._run.path)


async def _called(function: Callable[..., Any], *arguments: Any) -> None:
    """A plain call as something that can be awaited."""
    function(*arguments)


def _log_traceback(error: Exception, log: Path) -> None:
    try:
        with log.open("a") as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError as full:
        print(f"{log}: {full.strerror}; the error was {error!r}", file=sys.stderr)


def _shown(path: Path) -> str:
    """`path` relative to here where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
