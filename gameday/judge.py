"""After the run: what was measured, whether the expectations held, how good the forecast was, what would have helped.

The verdict comes from the client's requests and the scraped counters, never from chaostoolkit's own status. Score and
counterfactuals go into the run store as documents, so that a report needs nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from gameday import ledger
from gameday.accuracy.evidence import NoEvidence, record_of
from reports.comparison import prediction_part
from reports.judgement import judge_expectation, reasons
from reports.measure import Key, measure
from reports.notation import quantity_name
from reports.observe import observation
from reports.pace import pace, unsteady
from reports.reading import PAGING, expected, is_headline
from reports.run import Run
from reports.store import RunStore
from scenarios.model import Phases, Scenario
from sim.explain.counterfactual import explain
from sim.explain.explanation import Explanation
from sim.replication.course import METASTABLE, PAGED, RECOVER
from sim.results import Forecast
from sim.scoring.score import score

EXPLAIN_BUDGET_SECONDS = 10.0
FEWEST_BUDGET_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Verdict:
    held: bool
    reasons: list[str]
    notes: list[str]
    """What a reader must know and changes no verdict: what did not work, and a machine that was not steady."""
    told: list[str]
    """What the explanation says, in a line or two."""


def twin_budget(phases: Phases, most: float) -> float:
    """Seconds that the twin may compute, at most `most`: a short drill costs it little, and nobody waits for more
    replications than such a drill deserves."""
    return min(most, max(FEWEST_BUDGET_SECONDS, (phases.inject + phases.recover) / 5.0))


def judge(
    store: RunStore,
    scenario: Scenario,
    windows: Mapping[str, list[float]],
    forecast: Forecast,
    seed: int,
    *,
    explained: bool = True,
) -> Verdict:
    """Measures, scores, writes to the ledger and (`explained`) explains one finished run."""
    measured = measure(store, scenario, windows)
    judged = [judge_expectation(expectation, measured, complete=True) for expectation in scenario.expectations]
    store.put_document("score", time.time(), msgspec.json.encode(score(forecast, measured)))
    notes = [*_to_ledger(store, forecast, measured), *_of_machine(store)]
    explanation = explain_run(store, scenario, windows, forecast, seed) if explained else None
    told = explanation_lines(explanation) if explanation is not None else []
    return Verdict(all(part.held for part in judged), reasons("finished", [], judged), notes, told)


def explain_run(
    store: RunStore,
    scenario: Scenario,
    windows: Mapping[str, list[float]],
    forecast: Forecast,
    seed: int,
    seconds: float | None = None,
) -> Explanation | None:
    """Asks the twin why the run burned and what would have saved it, and stores the answer; None where there is
    nothing to ask. `seconds`: how long; None: as long as somebody waits for after such a drill."""
    start, end = windows["baseline"]
    explanation = explain(
        scenario,
        observation(store, scenario, start, end),
        seed=seed,
        planned_injection_at=forecast.planned_injection_at,
        time_budget_seconds=seconds if seconds is not None else twin_budget(scenario.phases, EXPLAIN_BUDGET_SECONDS),
    )
    if explanation is not None:
        store.put_document("explanation", time.time(), msgspec.json.encode(explanation))
    return explanation


def _to_ledger(store: RunStore, forecast: Forecast, measured: Mapping[Key, float]) -> list[str]:
    """Adds the run to the track record. A ledger that cannot be written costs the track record, not the run."""
    try:
        ledger.append(record_of(store, forecast, measured, time.time()))
    except OSError as error:
        return [f"the ledger {ledger.default_path()} was not written: {error.strerror}"]
    except NoEvidence as none:
        return [f"nothing for the ledger: {none}"]
    return []


def _of_machine(store: RunStore) -> list[str]:
    found = pace(Run(store), "all")
    return [unsteady(found.before, found.during)] if found is not None and not found.is_steady else []


def explanation_lines(found: Explanation) -> list[str]:
    """The explanation in a line or two, for the progress view."""
    lines = [f"twin      {found.verdict}"]
    fed = [cause for cause in found.causes if cause.kind == "mechanism" and cause.low > 0.0 and cause.share >= 0.05]
    if fed:
        shares = ", ".join(f"{cause.mechanism} {cause.share:.0%}" for cause in fed[:3])
        lines.append(f"twin      share of the burn of {fed[0].slo} that goes without: {shares}")
    return lines


COURSE = ((PAGED, "all"), *((name, "all") for name in PAGING), (RECOVER, "recover"), (METASTABLE, "recover"))
"""What the progress view tells of how a fault goes on."""


def forecast_lines(forecast: Forecast) -> list[str]:
    """The forecast in a few lines, for the progress view: how bad each SLO gets, whether it pages, for how long."""
    rows = {(row.quantity, row.subject, row.window): prediction_part(row) for row in forecast.predictions}
    lines = [] if forecast.predictions else [f"forecast  {limit}" for limit in forecast.limits[:1]]
    for row in forecast.predictions:
        if row.quantity == "success_rate" and row.window == "all":
            naive = f"; before the fault {row.naive:.2%}" if row.naive is not None else ""
            interval = f"90 % interval {row.low:.2%} – {row.high:.2%}"
            lines.append(f"forecast  {row.subject}: {row.median:.2%} good, {interval}{naive}")
            course = [
                f"{quantity_name(name)} {expected(found)}".replace(", probability", "")
                for name, window in COURSE
                if (found := rows.get((name, row.subject, window))) is not None and is_headline(found)
            ]
            if course:
                lines.append(f"forecast  {row.subject}: {'; '.join(course)}")
    return lines
