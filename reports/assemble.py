"""From a run to its document: every figure that a report prints, computed once.

The HTML and Markdown reports print the document and draw charts from the run; they compute no figure of their own.
"""

from __future__ import annotations

import shlex

from reports import story
from reports.comparison import forecast_part, prediction_parts, score_part
from reports.document import (
    SCHEMA,
    AlertPart,
    DetectionPart,
    Document,
    FailureModePart,
    FaultPart,
    LoadPart,
    MetricPart,
    PacePart,
    ReproducePart,
    RunPart,
    SloPart,
    SloWindow,
    TimelinePart,
    VerdictPart,
)
from reports.explanation import cause_parts, counterfactual_parts, search_part
from reports.guide import FAILURE_MODES
from reports.judgement import is_complete, judge_expectation, outcome, reasons
from reports.material import Material
from reports.mesh_metrics import figures
from reports.notation import by_unit, iso
from reports.pace import pace
from reports.recovery import Course
from reports.run import Run
from reports.store import Event
from scenarios.model import FaultSpec, SloSpec
from scenarios.slo import SHORTEST_LONG_WINDOW, budget_spent, held, month_equivalent

DRILL_WINDOWS = ("inject", "recover", "all")


def assemble(material: Material) -> Document:
    """The whole document."""
    run = material.run
    scenario = run.scenario
    expectations = [
        judge_expectation(expectation, material.measured, is_complete(run.state))
        for expectation in (scenario.expectations if scenario is not None else ())
    ]
    slos = [_slo(run, slo) for slo in (scenario.slos if scenario is not None else ())]
    detections = [_detection(run, name, found) for name, found in material.courses.items()]
    metrics = _metrics(run)
    document = Document(
        schema=SCHEMA,
        run=_run(run),
        verdict=VerdictPart(
            outcome=outcome(run.state, expectations),
            reasons=reasons(run.state, [str(reason) for reason in run.meta.get("reasons") or []], expectations),
            tldr=[],
            missing=[],
        ),
        expectations=expectations,
        slos=slos,
        alerts=[alert for name, found in material.courses.items() for alert in _alerts(run, name, found)],
        metrics=metrics,
        failure_modes=_failure_modes(run, metrics),
        faults=[_fault(run, fault) for fault in (scenario.faults if scenario is not None else ())],
        timeline=[
            TimelinePart(
                at=event.at, second=run.clock(event.at), source=event.source, kind=event.kind, text=text_of(event)
            )
            for event in run.events
        ],
        forecast=forecast_part(material),
        predictions=prediction_parts(material),
        score=None,
        surprises=[],
        counterfactuals=counterfactual_parts(material),
        search=search_part(material),
        causes=cause_parts(material),
        load=_load(run),
        detection=_worst(slos, detections),
        detections=detections,
        actions=[],
        limits=[],
        reproduce=_reproduce(run),
    )
    document.score = score_part(material, document.predictions)
    document.verdict.missing = story.missing(document)
    document.verdict.tldr = story.tldr(document)
    document.surprises = story.surprises(document)
    document.actions = story.actions(document, scenario.actions if scenario is not None else ())
    document.limits = story.limits(document, material.forecast.limits if material.forecast else ())
    return document


def text_of(event: Event) -> str:
    """An event's line; a phase's name with what it was about."""
    more = (event.data or {}).get("text") if event.kind == "phase" else None
    return f"{event.text}: {more}" if more else event.text


def _run(run: Run) -> RunPart:
    meta, scenario = run.meta, run.scenario
    started = meta.get("started_at")
    return RunPart(
        id=str(meta.get("run_id", run.store.path.parent.name)),
        scenario=scenario.name if scenario is not None else "unknown",
        title=scenario.title if scenario is not None else "A run without a scenario",
        description=scenario.description if scenario is not None else "",
        variant=meta.get("variant"),
        world=str(meta.get("world", "unknown")),
        seed=meta.get("seed"),
        state=run.state,
        exit_code=meta.get("exit_code"),
        started=iso(float(started)) if started is not None else None,
        versions={str(name): str(version) for name, version in sorted((meta.get("versions") or {}).items())},
        config_sha256=meta.get("config_sha256"),
        windows={name: [start, end] for name, (start, end) in run.windows.items()},
        timings={str(name): float(value) for name, value in sorted((meta.get("timings") or {}).items())},
    )


def _slo(run: Run, slo: SloSpec) -> SloPart:
    windows = [
        SloWindow(
            window=name,
            good=counts.good,
            total=counts.total,
            ratio=counts.ratio,
            budget_spent=budget_spent(counts, slo.objective),
        )
        for name, window in run.windows.items()
        if name in ("baseline", *DRILL_WINDOWS)
        for counts in (run.counts(slo, window),)
    ]
    window = run.windows.get("all", (run.zero, run.zero))
    counts = run.counts(slo, window)
    spent = budget_spent(counts, slo.objective)
    peak = run.meter(slo).peak(run.clock(window[0]), run.clock(window[1])) if counts.total else None
    return SloPart(
        name=slo.name,
        route=slo.route,
        objective=slo.objective,
        threshold_seconds=slo.threshold,
        good=counts.good,
        total=counts.total,
        ratio=counts.ratio,
        budget_spent=spent,
        budget_spent_month=month_equivalent(spent, window[1] - window[0]) if spent is not None else None,
        peak_burn=peak[0] if peak else None,
        peak_burn_at=run.zero + peak[1] if peak else None,
        peak_burn_window_seconds=SHORTEST_LONG_WINDOW,
        held=held(counts, slo.objective),
        windows=windows,
    )


def _alerts(run: Run, slo: str, found: Course) -> list[AlertPart]:
    def after(at: float | None) -> float | None:
        return at - found.fault_at if at is not None and found.fault_at is not None else None

    return [
        AlertPart(
            slo=slo,
            rule=firing.rule.name,
            severity=firing.rule.severity,
            factor=firing.rule.factor,
            long_seconds=firing.rule.long,
            short_seconds=firing.rule.short,
            budget_share=firing.budget_share,
            fired_at=run.zero + firing.fired_at if firing.fired_at is not None else None,
            seconds_after_fault=after(firing.fired_at),
            month_long_seconds=firing.month_rule.long,
            month_short_seconds=firing.month_rule.short,
            month_seconds_after_fault=after(firing.month_fired_at),
        )
        for firing in found.firings
    ]


def _detection(run: Run, slo: str, found: Course) -> DetectionPart:
    def unix(second: float | None) -> float | None:
        return run.zero + second if second is not None else None

    return DetectionPart(
        slo=slo,
        fault_at=unix(found.fault_at),
        onset_at=unix(found.onset_at),
        first_alert_at=unix(found.page_at),
        alert_rule=found.page_rule,
        seconds_to_alert=found.seconds_to_page,
        reverted_at=unix(found.reverted_at),
        recovered_at=unix(found.recovered_at),
        recovery_seconds=found.recovery_seconds,
    )


def _worst(slos: list[SloPart], detections: list[DetectionPart]) -> DetectionPart:
    spent = {slo.name: slo.budget_spent or 0.0 for slo in slos}
    nothing = DetectionPart(
        slo=None, fault_at=None, onset_at=None, first_alert_at=None, alert_rule=None, seconds_to_alert=None,
        reverted_at=None, recovered_at=None, recovery_seconds=None,
    )  # fmt: skip
    return max(detections, key=lambda found: spent.get(found.slo or "", 0.0), default=nothing)


def _metrics(run: Run) -> list[MetricPart]:
    window = run.windows.get("all") or run.windows.get("baseline")
    if window is None:
        return []
    return [
        MetricPart(
            id=figure.metric.id,
            name=figure.metric.name,
            unit=figure.metric.unit,
            target=figure.target,
            target_text=figure.metric.target_text,
            measured=figure.measured,
            baseline=figure.baseline,
            held=figure.held,
            detail=figure.detail,
        )
        for figure in figures(run, window, run.windows.get("baseline"))
    ]


def _failure_modes(run: Run, metrics: list[MetricPart]) -> list[FailureModePart]:
    kinds = {fault.kind for fault in run.scenario.faults} if run.scenario is not None else set()
    named = set(run.scenario.guide) if run.scenario is not None else set()
    injected = bool(run.events_of("inject"))
    by_id = {metric.id: metric for metric in metrics}
    parts = []
    for mode in FAILURE_MODES:
        exercised = injected and (mode.id in named or bool(kinds & set(mode.kinds)))
        seen = [
            f"{_inside(by_id[id].name)} {by_unit(by_id[id].unit, by_id[id].measured)}"
            for id in mode.metrics
            if id in by_id and by_id[id].measured is not None
        ]
        restarts = len(run.events_of("restart"))
        if exercised and mode.id in ("F1", "F2") and restarts:
            seen.append(f"{restarts} restart{'s' if restarts > 1 else ''}")
        parts.append(
            FailureModePart(
                id=mode.id,
                name=mode.name,
                symptom=mode.symptom,
                signal=mode.signal,
                exercised=exercised,
                observed="; ".join(seen) or "no figure for it in this run" if exercised else None,
            )
        )
    return parts


def _inside(name: str) -> str:
    """A metric's name within a sentence."""
    return name if name.startswith("mTLS") else name[0].lower() + name[1:]


def _fault(run: Run, fault: FaultSpec) -> FaultPart:
    def when(kind: str) -> float | None:
        found = [event.at for event in run.events_of(kind) if (event.data or {}).get("fault") == fault.name]
        return found[-1 if kind == "revert" else 0] if found else None

    injected, reverted = when("inject"), when("revert")
    return FaultPart(
        name=fault.name,
        kind=fault.kind,
        targets=dict(fault.targets),
        parameters=dict(fault.parameters),
        planned_second=fault.at,
        planned_duration=fault.duration,
        ttl=fault.ttl,
        injected_at=injected,
        reverted_at=reverted,
        outcome="not injected" if injected is None else "not reverted" if reverted is None else "reverted",
    )


def _load(run: Run) -> LoadPart | None:
    window = run.windows.get("all")
    if window is None:
        return None
    requests = run.requests(window)
    length = window[1] - window[0]
    sent = sum(request.sent_at is not None for request in requests)
    completed = sum(request.status is not None for request in requests)
    return LoadPart(
        seconds=length,
        offered=len(requests),
        sent=sent,
        dropped=len(requests) - sent,
        completed=completed,
        unanswered=sent - completed,
        offered_per_second=len(requests) / length if length > 0 else None,
        completed_per_second=completed / length if length > 0 else None,
        pace=pace_part(run),
    )


def pace_part(run: Run) -> PacePart | None:
    """Of the whole SLO window."""
    found = pace(run, "all")
    if found is None:
        return None
    return PacePart(before=found.before, during=found.during, ratio=found.ratio, steady=found.is_steady)


def _reproduce(run: Run) -> ReproducePart:
    scenario = run.scenario
    words = [
        "gameday",
        "run",
        scenario.name if scenario is not None else "SCENARIO",
        "--world",
        str(run.meta.get("world", "local")),
    ]
    if run.meta.get("variant"):
        words += ["--variant", str(run.meta["variant"])]
    for override in run.meta.get("overrides") or ():
        words += ["--set", str(override)]
    if run.meta.get("seed") is not None:
        words += ["--seed", str(run.meta["seed"])]
    return ReproducePart(
        run=shlex.join(words),
        report=shlex.join(["gameday", "report", str(run.meta.get("run_id", run.store.path.parent.name))]),
    )
