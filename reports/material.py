"""What a report is made from: the run, what was measured in it, and the documents that it left."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from reports.measure import Key, measure_run
from reports.recovery import Course, course
from reports.run import Run
from reports.verification import Verification
from sim.explain.explanation import Explanation
from sim.results import Counterfactual, Forecast, Score
from sim.sweep.phase_map import PhaseMap


@dataclass(slots=True)
class Material:
    """What the parts are made from."""

    run: Run
    measured: dict[Key, float]
    courses: dict[str, Course]
    forecast: Forecast | None
    score: Score | None
    counterfactuals: list[Counterfactual]
    """Of runs that were explained before there were explanations."""
    phase_map: PhaseMap | None = None
    """Where `gameday phase-map --keep` left one."""
    explanation: Explanation | None = None
    verification: Verification | None = None


def gather(run: Run) -> Material:
    """Reads the documents and measures once."""
    scenario = run.scenario
    forecast = run.store.document("forecast")
    score = run.store.document("score")
    counterfactuals = run.store.document("counterfactuals")
    phase_map = run.store.document("phase_map")
    explanation = run.store.document("explanation")
    verification = run.store.document("verification")
    return Material(
        run,
        measure_run(run, scenario, run.windows) if scenario is not None else {},
        {slo.name: course(run, slo) for slo in scenario.slos} if scenario is not None else {},
        msgspec.json.decode(forecast[1], type=Forecast) if forecast else None,
        msgspec.json.decode(score[1], type=Score) if score else None,
        msgspec.json.decode(counterfactuals[1], type=list[Counterfactual]) if counterfactuals else [],
        msgspec.json.decode(phase_map[1], type=PhaseMap) if phase_map else None,
        msgspec.json.decode(explanation[1], type=Explanation) if explanation else None,
        msgspec.json.decode(verification[1], type=Verification) if verification else None,
    )
