"""What would have saved the SLO, and why it burned: the parts of the document made from a run's explanation."""

from __future__ import annotations

import msgspec

from reports.document import (
    CausePart,
    CounterfactualPart,
    CounterfactualSloPart,
    PricePart,
    SearchPart,
    VerificationPart,
    VerificationRowPart,
)
from reports.material import Material
from reports.notation import seconds, span, times
from reports.verification import Verification
from sim.explain.explanation import Price
from sim.results import Counterfactual, CounterfactualSlo

LEAST_LATENCY, LEAST_SHARE = 0.0005, 0.03
"""Seconds, and share of what it was, from which a latency counts as changed."""
LEAST_SUCCESS, LEAST_ATTEMPTS, LEAST_CERTIFICATES = 0.0005, 0.002, 0.05


def counterfactual_parts(material: Material) -> list[CounterfactualPart]:
    """Changes in the order of the explanation; of an older run, its counterfactuals."""
    if material.explanation is None:
        return [_older(found) for found in material.counterfactuals]
    tried = material.verification
    return [
        CounterfactualPart(
            change=remedy.change,
            predicted=_predicted(remedy.slos),
            holds=remedy.holds,
            verified=_verified(tried) if tried is not None and tried.change == remedy.change else None,
            size=remedy.size,
            price=_price(remedy.price),
            apply=list(remedy.overrides),
            unverifiable=remedy.unverifiable,
            verification=_verification(tried) if tried is not None and tried.change == remedy.change else None,
        )
        for remedy in material.explanation.remedies
    ]


def search_part(material: Material) -> SearchPart | None:
    found = material.explanation
    if found is None:
        return None
    return SearchPart(
        verdict=found.verdict, tried=found.tried, plays=found.plays, seconds=found.seconds, complete=found.complete
    )


def cause_parts(material: Material) -> list[CausePart]:
    return [
        CausePart(
            mechanism=cause.mechanism,
            kind=cause.kind,
            slo=cause.slo,
            share=cause.share,
            low=cause.low,
            high=cause.high,
            shapley=cause.shapley,
        )
        for cause in (material.explanation.causes if material.explanation is not None else ())
    ]


def price_words(price: Price | PricePart) -> list[str]:
    """What a change costs without faults, in a few words each; empty where the twin can tell no difference."""
    words = []
    if price.pods:
        words.append(f"{_signed(price.pods)} pod{'s' if abs(price.pods) > 1 else ''}")
    if price.places and not price.pods:
        words.append(f"{_signed(price.places)} workers and queue places")
    for name, value, change in (("p50", price.p50, price.p50_change), ("p99", price.p99, price.p99_change)):
        before = value - change
        if abs(change) >= max(LEAST_LATENCY, LEAST_SHARE * before):
            words.append(f"{name} {seconds(before)} → {seconds(value)}")
    if abs(price.success_change) >= LEAST_SUCCESS:
        words.append(f"success {price.success_change * 100:+.2f} points".replace("-", "−"))
    if abs(price.attempts_change) >= LEAST_ATTEMPTS:
        words.append(f"tries {price.attempts - price.attempts_change:.3f} → {price.attempts:.3f} a request")
    if abs(price.work_change) >= LEAST_ATTEMPTS:
        words.append(f"{price.work_change * 100:+.1f} % requests handled".replace("-", "−"))
    if abs(price.certificates_per_minute) >= LEAST_CERTIFICATES:
        words.append(f"{price.certificates_per_minute:+.1f} certificates a minute".replace("-", "−"))
    return words


def _signed(value: int) -> str:
    return f"{value:+d}".replace("-", "−")


def _predicted(slos: tuple[CounterfactualSlo, ...]) -> list[CounterfactualSloPart]:
    return [
        CounterfactualSloPart(
            slo=slo.name,
            budget_spent_low=slo.budget_spent_low,
            budget_spent_median=slo.budget_spent_median,
            budget_spent_high=slo.budget_spent_high,
            probability_held=slo.probability_held,
        )
        for slo in slos
    ]


def _price(price: Price | None) -> PricePart | None:
    if price is None:
        return None
    figures = msgspec.structs.asdict(price)
    del figures["replications"]
    return PricePart(**figures)


def _verified(found: Verification) -> str | None:
    """In one line; None while there is nothing measured."""
    row = found.headline
    if found.state != "finished" or row is None or row.measured is None:
        return None
    where = "inside" if row.inside else "outside"
    return (
        f"run {found.run}: {found.subject} spent {times(row.measured)} its budget, {where} the predicted"
        f" {span('budget_spent', row.low, row.high)}"
    )


def _verification(found: Verification) -> VerificationPart:
    return VerificationPart(
        run=found.run,
        state=found.state,
        subject=found.subject,
        sha256=found.sha256,
        inside=found.inside,
        rows=[
            VerificationRowPart(
                quantity=row.quantity,
                subject=row.subject,
                low=row.low,
                median=row.median,
                high=row.high,
                measured=row.measured,
                inside=row.inside,
            )
            for row in found.rows
        ],
    )


def _older(found: Counterfactual) -> CounterfactualPart:
    return CounterfactualPart(
        change=found.change, predicted=_predicted(found.slos), holds=found.holds, verified=found.verified
    )
