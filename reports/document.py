"""What report.json says: plain structs, in the order in which the file has them.

docs/report.schema.json describes the same; a test holds the two together. Times are Unix seconds; `second` is the
drill's clock (0 = begin of the inject phase); durations are seconds, shares 0..1, sizes bytes. null means: this run has
no such figure. Fields are only ever added while `SCHEMA` stays; a change of meaning makes a new version.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SCHEMA = "gameday.report/v1"
Outcome = Literal["passed", "failed", "aborted", "error"]


class RunPart(msgspec.Struct, kw_only=True):
    id: str
    scenario: str
    title: str
    description: str
    variant: str | None
    world: str
    seed: int | None
    state: str
    exit_code: int | None
    started: str | None
    versions: dict[str, str]
    config_sha256: str | None
    windows: dict[str, list[float]]
    timings: dict[str, float]


class VerdictPart(msgspec.Struct, kw_only=True):
    outcome: Outcome
    reasons: list[str]
    tldr: list[str]
    missing: list[str]
    """What this report cannot say because the run has nothing of it."""


class ExpectationPart(msgspec.Struct, kw_only=True):
    text: str
    quantity: str
    subject: str | None
    phase: str
    op: str
    value: float
    measured: float | None
    held: bool | None
    """None: the run ended before it could be judged."""


class SloWindow(msgspec.Struct, kw_only=True):
    window: str
    good: int
    total: int
    ratio: float | None
    budget_spent: float | None


class SloPart(msgspec.Struct, kw_only=True):
    """Over inject and recover together; `windows` has each phase."""

    name: str
    route: str | None
    objective: float
    threshold_seconds: float | None
    good: int
    total: int
    ratio: float | None
    budget_spent: float | None
    budget_spent_month: float | None
    """The same bad requests over the budget of 30 days of this traffic."""
    peak_burn: float | None
    peak_burn_at: float | None
    peak_burn_window_seconds: float
    held: bool | None
    windows: list[SloWindow]


class AlertPart(msgspec.Struct, kw_only=True):
    """A burn rule, compressed to this drill, and as it stands for 30 days."""

    slo: str
    rule: str
    severity: str
    factor: float
    long_seconds: float
    short_seconds: float
    budget_share: float
    """Share of the drill's budget that is gone when a burn at the factor fills the long window."""
    fired_at: float | None
    seconds_after_fault: float | None
    month_long_seconds: float
    month_short_seconds: float
    month_seconds_after_fault: float | None
    """When the uncompressed rule would have fired, after a past as healthy as the baseline."""


class MetricPart(msgspec.Struct, kw_only=True):
    id: str
    name: str
    unit: str
    target: float | None
    target_text: str
    measured: float | None
    baseline: float | None
    held: bool | None
    detail: str


class FaultPart(msgspec.Struct, kw_only=True):
    name: str
    kind: str
    targets: dict[str, str | int]
    parameters: dict[str, float | str]
    planned_second: float
    planned_duration: float
    ttl: float
    injected_at: float | None
    reverted_at: float | None
    outcome: Literal["reverted", "not reverted", "not injected"]


class TimelinePart(msgspec.Struct, kw_only=True):
    at: float
    second: float
    source: str
    kind: str
    text: str


class ForecastPart(msgspec.Struct, kw_only=True):
    sealed_at: float | None
    sha256: str | None
    """As announced when it was sealed."""
    sha256_recomputed: str
    intact: bool | None
    """The stored forecast still has the announced hash."""
    planned_injection_at: float | None
    first_injection_at: float | None
    sealed_before_injection: bool | None
    replications: int
    compute_seconds: float
    calibration: dict[str, float | str | None]


class PredictionPart(msgspec.Struct, kw_only=True):
    quantity: str
    subject: str
    window: str
    low: float
    median: float
    high: float
    naive: float | None
    measured: float | None
    inside: bool | None
    crps: float | None
    crps_naive: float | None


class ScorePart(msgspec.Struct, kw_only=True):
    scored: int
    inside: int
    coverage: float | None
    crps: float | None
    crps_naive: float | None
    skill: float | None


class CounterfactualSloPart(msgspec.Struct, kw_only=True):
    slo: str
    budget_spent_low: float
    budget_spent_median: float
    budget_spent_high: float
    probability_held: float


class CounterfactualPart(msgspec.Struct, kw_only=True):
    change: str
    predicted: list[CounterfactualSloPart]
    holds: bool
    verified: str | None


class LoadPart(msgspec.Struct, kw_only=True):
    """Requests over inject and recover."""

    seconds: float
    offered: int
    sent: int
    dropped: int
    completed: int
    unanswered: int
    offered_per_second: float | None
    completed_per_second: float | None


class DetectionPart(msgspec.Struct, kw_only=True):
    """How the SLO that lost most of its budget went through the fault; `slos` has all."""

    slo: str | None
    fault_at: float | None
    onset_at: float | None
    first_alert_at: float | None
    alert_rule: str | None
    seconds_to_alert: float | None
    reverted_at: float | None
    recovered_at: float | None
    recovery_seconds: float | None


class FailureModePart(msgspec.Struct, kw_only=True):
    id: str
    name: str
    symptom: str
    signal: str
    exercised: bool
    observed: str | None


class ActionPart(msgspec.Struct, kw_only=True):
    text: str
    why: str
    source: Literal["runbook", "run"]


class ReproducePart(msgspec.Struct, kw_only=True):
    run: str
    report: str


class Document(msgspec.Struct, kw_only=True):
    """report.json as a whole."""

    schema: str
    run: RunPart
    verdict: VerdictPart
    expectations: list[ExpectationPart]
    slos: list[SloPart]
    alerts: list[AlertPart]
    metrics: list[MetricPart]
    failure_modes: list[FailureModePart]
    faults: list[FaultPart]
    timeline: list[TimelinePart]
    forecast: ForecastPart | None
    predictions: list[PredictionPart]
    score: ScorePart | None
    surprises: list[str]
    counterfactuals: list[CounterfactualPart]
    load: LoadPart | None
    detection: DetectionPart
    detections: list[DetectionPart]
    actions: list[ActionPart]
    limits: list[str]
    reproduce: ReproducePart


def to_json(document: Document) -> bytes:
    """The file's bytes: keys in order of declaration, numbers rounded to six decimals, two spaces, a last newline."""
    return msgspec.json.format(msgspec.json.encode(rounded(msgspec.to_builtins(document))), indent=2) + b"\n"


def rounded(value: Any) -> Any:
    """Floats to six decimals, so that the last bits of a sum never decide about a byte; what is not finite to None."""
    if isinstance(value, float):
        return round(value, 6) if value - value == 0 else None
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
