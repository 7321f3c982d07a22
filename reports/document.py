"""What report.json says: plain structs, in the order in which the file has them.

docs/report.schema.json describes the same; a test holds the two together. Times are Unix seconds; `second` is the
drill's clock (0 = begin of the inject phase); durations are seconds, shares 0..1, sizes bytes. null means: this run has
no such figure. Fields are only ever added while `SCHEMA` stays; a change of meaning makes a new version.

One file although it is long: it is one document, and is read from its top to its end beside the file that it describes.
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


class BandPart(msgspec.Struct, kw_only=True):
    """A central interval narrower than the 90 % one."""

    level: float
    low: float
    high: float


class ArrivalPart(msgspec.Struct, kw_only=True):
    """Of a time that may not come: the share of replications in which it did, and when (90 % interval of those)."""

    within: float
    """Seconds watched: a predicted or measured value at it means that long or longer."""
    share: float
    low: float | None
    median: float | None
    high: float | None


class LoadBandPart(msgspec.Struct, kw_only=True):
    """Of `metastable`: its probability at the load less and plus a share of it."""

    half_width: float
    """Of the load: 0.05."""
    below: float
    above: float
    replications: int
    """At each of the two."""
    splits: bool
    """Yes or no differs among the three loads: the forecast's verdict is in the band and not counted."""


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
    bands: list[BandPart] = msgspec.field(default_factory=list)
    """80 % and 50 %."""
    arrival: ArrivalPart | None = None
    """Of `time_to_…` only."""
    load_band: LoadBandPart | None = None
    """Of `metastable` only; None where it was not played."""
    at_pace: float | None = None
    """The median of a latency as it reads at the pace that the machine had (`PacePart`); None where either is not
    known."""


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


class PricePart(msgspec.Struct, kw_only=True):
    """What a change costs without faults: medians over paired replications of the twin, changed minus unchanged."""

    slo: str
    """Whose route the latencies (seconds) are of: the one that they rise most for."""
    p50: float
    p50_change: float
    p99: float
    p99_change: float
    success_change: float
    attempts: float
    attempts_change: float
    work_change: float
    """Share more requests handled, tries and calls included."""
    pods: int
    places: int
    """Workers and places in queues, over all pods."""
    certificates_per_minute: float


class VerificationRowPart(msgspec.Struct, kw_only=True):
    quantity: str
    subject: str
    low: float
    median: float
    high: float
    measured: float | None
    inside: bool | None


class VerificationPart(msgspec.Struct, kw_only=True):
    """A real run of the change, beside what was predicted of it from this run's baseline before it began."""

    run: str
    state: str
    """`begun` (or cut off), `finished`, `aborted`, `failed`."""
    subject: str
    """The SLO in question: the one that lost most of its budget in this run."""
    sha256: str
    """Of the prediction, recorded before the first request of that run."""
    inside: bool | None
    """Whether the measured budget of the SLO in question lies in its 90 % interval."""
    rows: list[VerificationRowPart]


class CounterfactualPart(msgspec.Struct, kw_only=True):
    change: str
    predicted: list[CounterfactualSloPart]
    holds: bool
    verified: str | None
    size: float | None = None
    """How big a step it is (docs/counterfactuals.md); null: not known."""
    price: PricePart | None = None
    apply: list[str] = []
    """As `--set` takes it; files are named by `{folder}`."""
    unverifiable: str | None = None
    """Why it cannot be tried for real."""
    verification: VerificationPart | None = None


class CausePart(msgspec.Struct, kw_only=True):
    """A mechanism switched off alone in the twin: the share of the burn that goes with it. Negative: it protects. The
    shares need not sum to 1."""

    mechanism: str
    kind: Literal["fault", "mechanism"]
    slo: str
    share: float
    low: float
    high: float
    shapley: float | None


class SearchPart(msgspec.Struct, kw_only=True):
    """The search for the smallest change that holds every SLO."""

    verdict: str
    tried: int
    plays: int
    seconds: float
    complete: bool


class PacePart(msgspec.Struct, kw_only=True):
    """CPU seconds that a request cost the load generator, in the baseline and over inject and recover (`reports.pace`);
    a ratio above 1 is a slower machine."""

    before: float
    during: float
    ratio: float
    steady: bool


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
    pace: PacePart | None = None
    """None where nobody counted CPU."""


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
    search: SearchPart | None = None
    causes: list[CausePart] = []
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
