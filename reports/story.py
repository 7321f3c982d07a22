"""The sentences of a report, made from its figures: TL;DR, surprises, what to do next, limits, what is missing.

Plain rules over the document, each with the figure that made it speak; nothing is said that the figures do not carry.
Misses come before successes, and the naive forecast is named wherever it was the better one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reports.document import ActionPart, Document, FaultPart, PredictionPart, SloPart
from reports.notation import THIN, count, listing, objective, percent, quantity, quantity_name, seconds, times
from reports.pace import unsteady
from reports.reading import is_event, narrow
from sim.explain.explanation import UNCHANGED

NO_WIDTH = 1e3
"""Distance of a value outside an interval that has no width."""
MOST_SURPRISES = 12
CLEARLY_WORSE = 1.25
"""By how much the twin's CRPS must exceed that of the naive forecast to be called a surprise."""
MATERIAL_POINTS, MATERIAL_SHARE = 0.02, 0.2
"""How far the twin's median must be off for anybody to care: points of a success rate or a probability, else a share of
the measured value. Smaller ones are a machine's noise from minute to minute."""


def tldr(document: Document) -> list[str]:
    """What was broken, what it cost, what had been forecast, whether that was right, how fast it was seen and over."""
    lines = [_broken(document.faults)]
    if document.slos:
        lines.append(_cost(document.slos))
    foretold = _foretold(document)
    if foretold:
        lines.append(foretold)
    right = _right(document)
    if right:
        lines.append(right)
    detection = document.detection
    if detection.fault_at is not None:
        lines.append(_noticed(document))
    return lines


def _broken(faults: Sequence[FaultPart]) -> str:
    injected = [fault for fault in faults if fault.injected_at is not None]
    if not injected:
        return "Nothing was broken: no fault was injected."
    parts = []
    for fault in injected:
        replicas = fault.targets.get("replicas")
        target = " ".join(str(value) for name, value in fault.targets.items() if name != "replicas")
        if replicas is not None:
            target += f", {replicas} {'replica' if replicas == 1 else 'replicas'}"
        length = (
            f"for {seconds(fault.reverted_at - fault.injected_at)}"
            if fault.reverted_at is not None and fault.injected_at is not None
            else "and not reverted while the run was watched"
        )
        parts.append(f"{fault.name} ({fault.kind}{f' on {target}' if target else ''}) {length}")
    return f"Broken: {listing(parts)}."


def _cost(slos: Sequence[SloPart]) -> str:
    parts = []
    for slo in sorted(slos, key=lambda slo: -(slo.budget_spent or 0.0)):
        if not slo.total:
            parts.append(f"{slo.name} had no request")
        elif slo.good < slo.total:
            verb = "kept its objective" if slo.held else "missed its objective"
            parts.append(
                f"{slo.name} {verb} of {objective(slo.objective)} with {percent(slo.ratio)} good"
                f" ({count(slo.total - slo.good)} of {count(slo.total)} lost,"
                f" {times(slo.budget_spent)} the drill's error budget)"
            )
    untouched = [slo.name for slo in slos if slo.total and slo.good == slo.total]
    if untouched:
        parts.append(f"{listing(untouched)} lost no request")
    return f"Cost: {'; '.join(parts)}."


def _foretold(document: Document) -> str:
    rows = [row for row in document.predictions if row.quantity == "success_rate" and row.window == "all"]
    if not rows:
        rows = [row for row in document.predictions if row.quantity == "success_rate" and row.window == "inject"]
    parts = []
    for row in rows:
        told = f"{row.subject} {narrow('success_rate', row.low, row.high)} good"
        if row.measured is not None:
            told += f" (measured {percent(row.measured)}, {'inside' if row.inside else 'outside'})"
        parts.append(told)
    return f"Forecast: sealed before the injection, {'; '.join(parts)}." if parts else ""


def _right(document: Document) -> str:
    score = document.score
    if score is None or not score.scored:
        return ""
    text = f"Accuracy: {score.inside} of {score.scored} of the 90{THIN}% intervals contain the measured value"
    if score.skill is not None:
        if score.skill >= 0:
            text += f"; the error is {percent(score.skill)} smaller than that of “nothing changes”"
        else:
            text += "; “nothing changes” would have been the better forecast"
    return text + "."


def _noticed(document: Document) -> str:
    found = document.detection
    page = (
        f"the first page rule ({found.alert_rule}, compressed) fired"
        f" {seconds(found.seconds_to_alert)} after the injection"
        if found.first_alert_at is not None
        else "no page rule fired"
    )
    if found.reverted_at is None:
        end = "the fault was not reverted within the run"
    elif found.onset_at is None:
        end = f"{found.slo} never burned faster than its objective allows"
    elif found.recovered_at is None:
        end = f"{found.slo} had not recovered when the run ended"
    elif not found.recovery_seconds:
        end = f"{found.slo} met its objective at the moment of the revert"
    else:
        end = f"{found.slo} was back {seconds(found.recovery_seconds)} after the revert"
    return f"Noticed: {page}; {end}."


def surprises(document: Document) -> list[str]:
    """What the forecast did not see coming, worst first."""
    lines = []
    machine = document.load.pace if document.load is not None else None

    def at_pace(row: PredictionPart) -> str:
        if row.at_pace is None or machine is None or machine.steady:
            return ""
        return f" At the machine's pace the forecast reads {quantity(row.quantity, row.at_pace)}."

    missed = [row for row in document.predictions if row.inside is False and not _reads_as_inside(row)]
    for row in sorted(missed, key=_distance, reverse=True):
        assert row.measured is not None
        side = "below" if row.measured < row.low else "above"
        far = f" by {_distance(row):.1f} interval widths" if _distance(row) < NO_WIDTH else ""
        lines.append(
            f"{row.subject}, {quantity_name(row.quantity)}, {row.window}: measured"
            f" {quantity(row.quantity, row.measured)}, {side} the forecast's"
            f" {narrow(row.quantity, row.low, row.high)}{far}.{at_pace(row)}"
        )
    worse = [
        row
        for row in document.predictions
        if row.crps is not None
        and row.crps_naive is not None
        and row.crps > row.crps_naive * CLEARLY_WORSE
        and _off(row) > 1.0
        # What reads the same is no surprise to anybody.
        and quantity(row.quantity, row.naive) != quantity(row.quantity, row.median)
    ]
    lines.extend(
        f"{row.subject}, {quantity_name(row.quantity)}, {row.window}: “nothing changes”"
        f" ({quantity(row.quantity, row.naive)}) came closer to the measured {quantity(row.quantity, row.measured)}"
        f" than the twin's median ({quantity(row.quantity, row.median)})."
        for row in sorted(worse, key=_off, reverse=True)
    )
    if len(lines) > MOST_SURPRISES:
        lines[MOST_SURPRISES:] = [f"And {len(lines) - MOST_SURPRISES} smaller ones: see the table above."]
    score = document.score
    if score is not None and score.coverage is not None and score.scored >= 10 and score.coverage < 0.7:
        lines.append(
            f"Only {percent(score.coverage)} of the intervals contain the measured value; they promise 90{THIN}%."
            " Read this forecast's other intervals as too narrow."
        )
    if machine is not None and not machine.steady:
        lines.insert(0, unsteady(machine.before, machine.during))
    return lines


def _reads_as_inside(row: PredictionPart) -> bool:
    """Outside by less than anybody is shown: 1.00 times, where 1.00 to 1.00 was forecast."""
    assert row.measured is not None
    nearest = row.low if row.measured < row.low else row.high
    return quantity(row.quantity, row.measured) == quantity(row.quantity, nearest)


def _off(row: PredictionPart) -> float:
    """How far the twin's median lies from the measured value, in steps that somebody would care about."""
    if row.measured is None:
        return 0.0
    material = (
        MATERIAL_POINTS if row.quantity == "success_rate" or is_event(row) else MATERIAL_SHARE * abs(row.measured)
    )
    off = abs(row.median - row.measured)
    return off / material if material > 0 else NO_WIDTH if off else 0.0


def _distance(row: PredictionPart) -> float:
    """How far outside the measured value lies, in widths of the interval."""
    if row.measured is None:
        return 0.0
    outside = max(row.low - row.measured, row.measured - row.high, 0.0)
    width = row.high - row.low
    return outside / width if width > 0 else NO_WIDTH if outside else 0.0


def actions(document: Document, runbook: Iterable[str]) -> list[ActionPart]:
    """The runbook's steps, then what this run's figures ask for."""
    found = [ActionPart(text=text, why="the scenario's runbook", source="runbook") for text in runbook]
    metrics = {metric.id: metric for metric in document.metrics}

    def add(text: str, why: str) -> None:
        found.append(ActionPart(text=text, why=why, source="run"))

    for fault in document.faults:
        if fault.outcome == "not reverted":
            add(f"Make sure that {fault.name} is gone: `gameday recover`.", "the store has no revert of it")
    lost = [slo for slo in document.slos if slo.held is False]
    fired = {alert.slo for alert in document.alerts if alert.severity == "page" and alert.fired_at is not None}
    for slo in lost:
        if slo.name not in fired and document.detection.fault_at is not None:
            add(
                f"Give {slo.name} an alert that would have seen this.",
                f"it spent {times(slo.budget_spent)} its budget and no page rule fired",
            )
    holding = [change for change in document.counterfactuals if change.holds and change.change != UNCHANGED]
    for change in holding if lost else ():
        if change.verified is None:
            how = f" (`gameday verify {document.run.id}`)" if change is holding[0] and change.apply else ""
            add(
                f"Try “{change.change}” in a real run{how}.",
                "the twin says that every SLO would have held; not verified",
            )
        elif change.verification is not None and change.verification.inside is False:
            add(
                f"Find out what the twin lacks before you rely on “{change.change}”.",
                f"a real run did not do as predicted: {change.verified}",
            )
        else:
            add(f"Adopt “{change.change}”.", f"verified: {change.verified}")
    m9 = metrics.get("M9")
    if m9 is not None and m9.held is False:
        add(
            "Alert on control_identity_cert_expiration_timestamp_seconds at a quarter of the leaf's life.",
            f"a leaf was down to {percent(m9.measured)} of its life ({m9.detail})",
        )
    amplified = [
        row for row in document.predictions if row.quantity == "attempts_per_request" and (row.measured or 0.0) > 1.3
    ]
    for row in {row.subject: row for row in sorted(amplified, key=lambda row: row.measured or 0.0)}.values():
        add(
            f"Hold retries to {row.subject} with a budget, or lower their limit.",
            f"it was asked {times(row.measured)} for each request in {row.window}",
        )
    m10 = metrics.get("M10")
    if m10 is not None and m10.held is False:
        add("Find out why scrapes failed before trusting gaps in the charts.", f"M10: {m10.detail} failed")
    if document.load is not None and document.load.dropped:
        add(
            "Raise the load's maxInFlight, or accept that drops are part of the loss.",
            f"{count(document.load.dropped)} arrivals were dropped at the in-flight cap and counted as bad",
        )
    if document.score is not None and (document.score.coverage or 1.0) < 0.7:
        add(
            "Recalibrate the twin before relying on its counterfactuals.",
            f"coverage {percent(document.score.coverage)}",
        )
    return found


def limits(document: Document, forecast_limits: Iterable[str]) -> list[str]:
    """What this report cannot show, the forecast's own limits last."""
    length = document.load.seconds if document.load is not None else None
    found = [
        "One run with one seed. It can show that something breaks, not that it never does.",
        f"SLOs are judged over {seconds(length)} from the begin of the inject phase, not over 30 days; alert windows"
        f" are compressed by the same factor, to no less than 5{THIN}s and 1{THIN}s, so that the shortest rules let"
        " more of the budget pass.",
        "Client figures count each request from its intended send; a dropped or unanswered request is bad and has no"
        " latency, so percentiles are over answered requests.",
        "Proxy and process figures come from scrapes a second apart; what begins and ends between two can be missed.",
    ]
    if document.run.world == "local":
        found.append(
            "World local: all processes share one machine and its loopback interface. No network delay or loss, no"
            " kubelet, and CPU contention between pods that separate nodes would not have."
        )
    if any(change.verified is None for change in document.counterfactuals):
        found.append("Counterfactuals that are not marked verified are the calibrated twin's output, not measurements.")
    return found + [f"Forecast: {text}" for text in forecast_limits]


def missing(document: Document) -> list[str]:
    """Parts that this report would have and this run does not give."""
    found = []
    if document.run.scenario == "unknown":
        found.append("The store holds no scenario: SLOs, expectations and faults are unknown.")
    if document.run.state in ("running", "interrupted", "aborted", "failed"):
        reached = [name for name in document.run.windows if name != "all"]
        where = f"in phase {reached[-1]}" if reached else "before its first phase"
        found.append(f"The run ended {where} (state: {document.run.state}); expectations were not judged.")
    if document.forecast is None:
        found.append("No forecast was sealed: nothing to compare with.")
    elif not document.forecast.replications:
        found.append("The sealed forecast says nothing, since too few replications were played: see the limits.")
    elif document.score is None:
        found.append("The forecast was not scored: the run did not reach its end.")
    if document.detection.fault_at is None:
        found.append("No fault was injected.")
    if document.load is None:
        injected = document.detection.fault_at is not None
        found.append(f"The inject phase was {'cut off as it began' if injected else 'not reached'}: no SLO window.")
    elif not document.load.offered:
        found.append("No request was made in the SLO window: no ratio, no latency, no budget.")
    if document.metrics and all(metric.measured is None for metric in document.metrics):
        found.append("No metrics were scraped: M1 to M10 are empty.")
    if document.forecast is not None and not document.counterfactuals:
        found.append(document.search.verdict if document.search is not None else "No counterfactual was computed.")
    return found
