"""`gameday verify` and `run --verify`: the best counterfactual, run for real.

    first run's store ─► the change (the smallest that holds and can be written down); where the search was cut off by
                         the end of the run, it is made again with more time
                      ─► its overrides and files, in <run>/verification/
                      ─► a forecast of the changed scenario from the first run's own baseline; stored with its SHA-256
                         before anything starts
                      ─► a game day of its own, same seed and load, beside the first run's folder
                      ─► measured against that forecast; the first run's report is written again

The second run makes and seals a forecast of its own as every run does; what is judged here is what the first run's
baseline said. Its expectations are replaced: the drill's own speak of a system without the change, so that it is
asked for its SLOs' budgets instead. Whatever ends the second run, the first one's report stays or gets better.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from gameday import rundir
from gameday.errors import BadInput, Exit
from gameday.judge import explain_run
from gameday.run import RunOptions, run_gameday
from gameday.rundir import RunDir
from gameday.worlds.base import WorldOptions
from reports.build import write_reports
from reports.measure import Key, measure_run
from reports.observe import observation
from reports.run import Run, scenario_to
from reports.store import RunStore
from reports.verification import DOCUMENT, PREDICTION, Row, Verification
from scenarios.load import InvalidScenario, load_scenario
from scenarios.model import Scenario
from sim.explain.explanation import UNCHANGED, Explanation, Remedy
from sim.forecast.predict import make_forecast
from sim.knobs.written import FOLDER
from sim.results import Forecast

PREDICTION_SECONDS = 15.0
EXPLAIN_SECONDS = 25.0
QUANTITIES = ("budget_spent", "success_rate", "p50", "p95", "p99", "attempts_per_request")
FOLDER_NAME = "verification"


@dataclass(frozen=True, slots=True)
class Finished:
    """What verifying needs of the first run."""

    run: RunDir
    scenario: Scenario
    overrides: tuple[str, ...]
    seed: int
    world: str
    windows: Mapping[str, tuple[float, float]]
    explanation: Explanation
    forecast: Forecast
    subject: str
    """The SLO that lost most of its budget."""


def verify_run(name: str, *, plain: bool = False, world: WorldOptions | None = None) -> int:
    """Verifies the run called `name`; 0 where the measured budget lies in its interval, 1 where it does not, else the
    second run's exit code.

    Raises:
        BadInput: the run has nothing that can be verified, and why; nothing was started.
        InvalidScenario: its scenario is gone or was changed into none.
    """
    return verify(rundir.find(name), plain=plain, world=world)


def run_and_verify(options: RunOptions) -> int:
    """`gameday run --verify`: a game day, then its best counterfactual. The first one's exit code, unless the second
    could not be measured: then 3 or 4.

    Raises:
        BadInput, InvalidScenario: before anything is started.
    """
    run = options.out or rundir.RUNS / rundir.new_run_id(load_scenario(options.scenario).name)
    code = run_gameday(replace(options, out=run))
    if code not in (Exit.HELD, Exit.NOT_HELD):
        return code
    try:
        second = verify(rundir.find(str(run)), plain=options.plain, world=options.world)
    except (BadInput, InvalidScenario) as reason:
        print(f"\nnot verified: {reason}")
        return code
    return code if second in (Exit.HELD, Exit.NOT_HELD) else second


def verify(run: RunDir, *, plain: bool = False, world: WorldOptions | None = None) -> int:
    """As `verify_run`."""
    first = read_first(run)
    if not first.explanation.complete:
        print(f"asking the twin again for {EXPLAIN_SECONDS:.0f} s: its search was cut off before", flush=True)
        _explain_again(first)
        first = read_first(run)
    remedy = choose(first.explanation)
    changed, options = _applied(first, remedy, plain, world)
    print(f"\nverifying for real: {remedy.change}", flush=True)
    assert options.out is not None
    with RunStore(run.store) as store:
        forecast = _predict(store, first, changed)
        body = msgspec.json.encode(forecast)
        found = Verification(
            change=remedy.change,
            overrides=options.overrides,
            run=options.out.name,
            subject=first.subject,
            sealed_at=time.time(),
            sha256=hashlib.sha256(body).hexdigest(),
            state="begun",
            rows=_rows(forecast, {}),
        )
        store.put_document(PREDICTION, found.sealed_at, body)
        _put(store, found)
        row = found.headline
        if row is not None:
            print(f"predicted {_line(row)}, sha256 {found.sha256[:16]}…", flush=True)
    code = run_gameday(options)
    return _conclude(run, options.out, found, forecast, code)


def _explain_again(first: Finished) -> None:
    windows = {name: list(bounds) for name, bounds in first.windows.items()}
    with RunStore(first.run.store) as store:
        explain_run(store, first.scenario, windows, first.forecast, first.seed, EXPLAIN_SECONDS)


def read_first(run: RunDir) -> Finished:
    """What verifying needs of a run. Raises BadInput."""
    with RunStore(run.store) as store:
        seen = Run(store)
        document, sealed = store.document("explanation"), store.document("forecast")
        if seen.scenario is None or seen.state != "finished" or sealed is None:
            raise BadInput(f"run {run.path.name} did not get to its end; verify one that did")
        if document is None:
            raise BadInput(
                f"run {run.path.name} has no counterfactuals; ask for them with `gameday explain {run.path.name}`"
            )
        scenario = seen.scenario
        burnt = {slo.name: seen.counts(slo, seen.windows["all"]) for slo in scenario.slos}
        objectives = {slo.name: slo.objective for slo in scenario.slos}

        def spent(name: str) -> float:
            counts = burnt[name]
            return (counts.total - counts.good) / max(1.0, counts.total) / max(1.0 - objectives[name], 1e-6)

        return Finished(
            run=run,
            scenario=scenario,
            overrides=tuple(str(text) for text in seen.meta.get("overrides") or ()),
            seed=int(seen.meta.get("seed", 1)),
            world=str(seen.meta.get("world", "local")),
            windows=seen.windows,
            explanation=msgspec.json.decode(document[1], type=Explanation),
            forecast=msgspec.json.decode(sealed[1], type=Forecast),
            subject=max(burnt, key=spent),
        )


def choose(explanation: Explanation) -> Remedy:
    """The smallest change that holds and can be tried for real; where none holds, the one that saves most.

    Raises:
        BadInput: there is none, with the reason for each.
    """
    before = next((r for r in explanation.remedies if r.change == UNCHANGED), None)
    if before is not None and before.holds:
        raise BadInput("the twin holds every SLO with nothing changed: there is nothing to verify")
    changes = [remedy for remedy in explanation.remedies if remedy.change != UNCHANGED]
    able = [remedy for remedy in changes if remedy.unverifiable is None]
    better = [remedy for remedy in able if before is None or _lost(remedy) < _lost(before)]
    holding = [remedy for remedy in able if remedy.holds]
    if holding:
        return min(holding, key=lambda remedy: remedy.size)
    if better:
        return min(better, key=_lost)
    reasons = "; ".join(f"{r.change}: {r.unverifiable}" for r in changes if r.unverifiable)
    raise BadInput(f"no change can be verified: {reasons or explanation.verdict}")


def _lost(remedy: Remedy) -> float:
    return sum(slo.budget_spent_median for slo in remedy.slos)


def _applied(first: Finished, remedy: Remedy, plain: bool, world: WorldOptions | None) -> tuple[Scenario, RunOptions]:
    """The changed scenario, as a user would write it, and the run that tries it. Raises BadInput."""
    scenario = first.scenario
    source = str(scenario.source)
    again = load_scenario(source, variant=scenario.variant, overrides=first.overrides)
    if msgspec.json.encode(scenario_to(again)) != msgspec.json.encode(scenario_to(scenario)):
        raise BadInput(f"{source} was changed since run {first.run.path.name}; run it again, then verify that run")
    folder = first.run.path / FOLDER_NAME
    folder.mkdir(exist_ok=True)
    for name, text in remedy.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    asked = [
        {"text": f"{slo.name} holds with “{remedy.change}”", "expect": f"budget_spent of {slo.name} during all <= 1"}
        for slo in scenario.slos
    ]
    overrides = (
        *first.overrides,
        *(override.replace(FOLDER, str(folder)) for override in remedy.overrides),
        f"expectations={json.dumps(asked, ensure_ascii=False)}",
    )
    changed = load_scenario(source, variant=scenario.variant, overrides=overrides)
    options = WorldOptions(first.world, first.seed) if world is None else replace(world, seed=first.seed)
    return changed, RunOptions(
        scenario=source,
        world=options,
        variant=scenario.variant,
        overrides=overrides,
        out=_beside(first.run.path),
        plain=plain,
        explain=False,
    )


def _beside(path: Path) -> Path:
    """The folder of the verifying run: a new one, by the first run's name."""
    for number in range(1, 1000):
        found = path.with_name(f"{path.name}-verified" + (f"-{number}" if number > 1 else ""))
        if not found.exists():
            return found
    raise BadInput(f"run {path.name} was verified a thousand times; remove some")


def _predict(store: RunStore, first: Finished, changed: Scenario) -> Forecast:
    """What the first run's baseline says of the changed scenario, on the first run's clock."""
    start, end = first.windows["baseline"]
    return make_forecast(
        changed,
        observation(store, first.scenario, start, end),
        world=first.world,
        seed=first.seed,
        planned_injection_at=first.forecast.planned_injection_at,
        time_budget_seconds=PREDICTION_SECONDS,
    )


def _rows(forecast: Forecast, measured: Mapping[Key, float]) -> tuple[Row, ...]:
    rows = []
    for row in forecast.predictions:
        if row.window == "all" and row.quantity in QUANTITIES:
            value = measured.get((row.quantity, row.subject, "all"))
            inside = row.low <= value <= row.high if value is not None else None
            rows.append(
                Row(
                    quantity=row.quantity,
                    subject=row.subject,
                    low=row.low,
                    median=row.median,
                    high=row.high,
                    measured=value,
                    inside=inside,
                )
            )
    return tuple(sorted(rows, key=lambda row: QUANTITIES.index(row.quantity)))


def _conclude(run: RunDir, second: Path, found: Verification, forecast: Forecast, code: int) -> int:
    """Measures the second run, writes the first one's report anew, says what came of it."""
    if code in (Exit.HELD, Exit.NOT_HELD):
        with RunStore(second / rundir.STORE) as store:
            seen = Run(store)
            assert seen.scenario is not None
            measured = measure_run(seen, seen.scenario, seen.windows)
        found = msgspec.structs.replace(found, state="finished", rows=_rows(forecast, measured))
    else:
        found = msgspec.structs.replace(found, state="aborted" if code == Exit.ABORTED else "failed")
    with RunStore(run.store) as store:
        _put(store, found)
        write_reports(store, run.path)
    row = found.headline
    if row is None or row.measured is None:
        print(f"\nnot verified: the second run {found.state}; the report of the first one is as it was")
        return code
    within = sum(r.inside is True for r in found.rows)
    known = sum(r.inside is not None for r in found.rows)
    print(f"\nverified  {found.change}")
    print(
        f"          predicted {_line(row)}; measured {row.measured:.2f}× the budget: "
        + ("inside" if row.inside else "OUTSIDE")
    )
    print(f"          {within} of {known} figures over the whole window inside their 90 % intervals")
    print(f"report: {run.path / 'report.html'}")
    return Exit.HELD if row.inside else Exit.NOT_HELD


def _line(row: Row) -> str:
    return f"{row.subject} spends {row.median:.2f}× its budget (90 % interval {row.low:.2f}–{row.high:.2f})"


def _put(store: RunStore, found: Verification) -> None:
    store.put_document(DOCUMENT, time.time(), msgspec.json.encode(found))
