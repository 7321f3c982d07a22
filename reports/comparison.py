"""Forecast beside measurement: the seal, each prediction with its measured value, the score."""

from __future__ import annotations

import hashlib

from reports.document import ArrivalPart, BandPart, ForecastPart, LoadBandPart, PredictionPart, ScorePart
from reports.judgement import is_complete
from reports.material import Material
from reports.pace import pace
from sim.replication.course import EVENTS
from sim.results import Prediction, Scored


def forecast_part(material: Material) -> ForecastPart | None:
    run, forecast = material.run, material.forecast
    stored = run.store.document("forecast")
    if forecast is None or stored is None:
        return None
    seals = run.events_of("seal")
    announced = (seals[-1].data or {}).get("sha256") if seals else None
    recomputed = hashlib.sha256(stored[1]).hexdigest()
    sealed_at = seals[-1].at if seals else None
    injections = run.events_of("inject")
    first = injections[0].at if injections else None
    return ForecastPart(
        sealed_at=sealed_at,
        sha256=announced,
        sha256_recomputed=recomputed,
        intact=announced == recomputed if announced is not None else None,
        planned_injection_at=forecast.planned_injection_at,
        first_injection_at=first,
        sealed_before_injection=sealed_at < first if sealed_at is not None and first is not None else None,
        replications=forecast.replications,
        compute_seconds=forecast.compute_seconds,
        calibration={name: forecast.calibration[name] for name in sorted(forecast.calibration)},
    )


def prediction_parts(material: Material) -> list[PredictionPart]:
    if material.forecast is None:
        return []
    scored = {(row.quantity, row.subject, row.window): row for row in material.score.rows} if material.score else {}
    paces = {prediction.window: pace(material.run, prediction.window) for prediction in material.forecast.predictions}
    parts = []
    for prediction in material.forecast.predictions:
        key = (prediction.quantity, prediction.subject, prediction.window)
        row = scored.get(key)
        # A run that ended early has shorter windows than were predicted: nothing in it can be compared.
        comparable = is_complete(material.run.state)
        value = row.measured if row is not None else material.measured.get(key) if comparable else None
        found = paces[prediction.window] if comparable else None
        at_pace = prediction.at_pace(found.ratio) if found is not None else None
        parts.append(prediction_part(prediction, value, row, at_pace))
    return parts


def prediction_part(
    prediction: Prediction,
    measured: float | None = None,
    row: Scored | None = None,
    at_pace: float | None = None,
) -> PredictionPart:
    """A prediction for people, beside what was measured of it, how it was scored, and how it reads at the pace that the
    machine had."""
    inside = None if measured is None else prediction.low <= measured <= prediction.high
    arrival, beside = prediction.arrival, prediction.load_band
    return PredictionPart(
        quantity=prediction.quantity,
        subject=prediction.subject,
        window=prediction.window,
        low=prediction.low,
        median=prediction.median,
        high=prediction.high,
        naive=prediction.naive,
        measured=measured,
        inside=row.inside if row is not None else inside,
        crps=row.crps if row is not None else None,
        crps_naive=row.crps_naive if row is not None else None,
        bands=[BandPart(level=band.level, low=band.low, high=band.high) for band in prediction.bands],
        arrival=None
        if arrival is None
        else ArrivalPart(
            within=arrival.within, share=arrival.share, low=arrival.low, median=arrival.median, high=arrival.high
        ),
        load_band=None
        if beside is None
        else LoadBandPart(
            half_width=beside.half_width,
            below=beside.below,
            above=beside.above,
            replications=beside.replications,
            splits=beside.splits(prediction.median),
        ),
        at_pace=at_pace,
    )


def score_part(material: Material, predictions: list[PredictionPart]) -> ScorePart | None:
    # As `sim.scoring.score` counts coverage: an event has no interval to be inside of.
    judged = [p.inside for p in predictions if p.inside is not None and p.quantity not in EVENTS]
    if material.score is None:
        return None
    return ScorePart(
        scored=len(judged),
        inside=sum(judged),
        coverage=material.score.coverage,
        crps=material.score.crps,
        crps_naive=material.score.crps_naive,
        skill=material.score.skill,
    )
