"""What the twin says: forecasts, their scores, counterfactuals. Plain data, written to JSON as it stands.

Quantities and their units:

    success_rate          share of good requests of an SLO's route, 0..1
    p50, p95, p99         seconds from intended send to the end of the answer, over answered requests
    attempts_per_request  requests that reached a service, over requests that its callers meant to send it
    budget_spent          bad requests over the bad requests that the objective allows in the window (1 = all spent)
    peak_burn             highest burn rate over five seconds
    paged, metastable     events: 0 or 1 in each replication, so that the ensemble's mean is the probability
    time_to_page R        seconds from the first injection until burn alert R fires; that long or longer where the value
    time_to_recover       is the window's length: there it is censored (`sim.replication.course`, `Arrival` says how)
    M1 … M5               the guide's, over the whole mesh, subject "" (`sim.replication.mesh_figures`)

Windows: `inject`, `recover`, and `all` (both).
"""

from __future__ import annotations

import msgspec


class Band(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A central interval narrower than the 90 % one."""

    level: float
    """0.8 or 0.5."""
    low: float
    high: float


class Arrival(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of a time that may not come at all within its window: how often it does, and when if it does. Seconds."""

    within: float
    """How long one watched: ensemble values at it mean that long or longer."""
    share: float
    """Of replications in which it came, 0..1."""
    low: float | None
    """5 % quantile of those that came; None where it never did."""
    median: float | None
    high: float | None


class LoadBand(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of `metastable` only: its probability a little below and above the load, on the forecast's own random streams."""

    half_width: float
    """Share of the load, 0.05."""
    below: float
    """Probability at the load less that share."""
    above: float
    replications: int
    """At each of the two."""

    def splits(self, probability: float) -> bool:
        """Whether yes (a probability of a half or more) and no both occur among the three loads: "in the band"."""
        return len({p >= 0.5 for p in (self.below, probability, self.above)}) > 1


class Prediction(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=False):
    """A prediction interval for one quantity of one subject over one window."""

    quantity: str
    subject: str
    """An SLO's name, or a service's for `attempts_per_request`."""
    window: str
    low: float
    """5 % quantile of the ensemble."""
    median: float
    high: float
    """95 % quantile."""
    naive: float | None
    """What "nothing changes" predicts: the same quantity measured over the baseline."""
    ensemble: tuple[float, ...]
    """One value for each replication that has one, ascending."""
    bands: tuple[Band, ...] = ()
    """80 % and 50 %. None of events, whose median is a probability; of fewer than 40 values, whose quantiles lie too
    near to each other; in forecasts of older runs."""
    arrival: Arrival | None = None
    """Of `time_to_…` only."""
    load_band: LoadBand | None = None
    """Of `metastable` only; None where there was no time for it, and in forecasts of older runs."""
    elasticity: float | None = None
    """Of latencies only: by how many per cent they change where the machine takes one per cent longer for everything
    (`sim.forecast.elasticity`); None where there was no time for it, and in forecasts of older runs."""

    def at_pace(self, ratio: float) -> float | None:
        """The median, were the machine to take `ratio` times as long as in the baseline."""
        return read_at_pace(self.median, self.elasticity, ratio)


def read_at_pace(median: float, elasticity: float | None, ratio: float) -> float | None:
    """A latency's median, were the machine to take `ratio` times as long as in the baseline."""
    return None if elasticity is None else median * ratio**elasticity


class FanBand(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A narrower interval of each step of a fan."""

    level: float
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


class Fan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A quantity over time. Second 0 is the begin of the inject phase; each list has one entry a step."""

    quantity: str
    subject: str
    step_seconds: float
    at: tuple[float, ...]
    """Begin of each step."""
    low: tuple[float | None, ...]
    median: tuple[float | None, ...]
    high: tuple[float | None, ...]
    """None where no replication had a request in the step. `low` to `high` is the 90 % interval."""
    bands: tuple[FanBand, ...] = ()
    """80 % and 50 %; none in forecasts of older runs."""


class Forecast(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A whole forecast, as sealed in forecast.json."""

    schema: str
    scenario: str
    variant: str | None
    world: str
    seed: int
    made_at: float
    """Unix seconds. The time of sealing is the event's, not the file's."""
    planned_injection_at: float
    replications: int
    compute_seconds: float
    calibration: dict[str, float | str | None]
    """What was estimated from the baseline, for the reader."""
    predictions: tuple[Prediction, ...]
    fans: tuple[Fan, ...]
    limits: tuple[str, ...]
    """What this forecast does not represent."""


class Scored(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A prediction beside what was measured."""

    quantity: str
    subject: str
    window: str
    low: float
    median: float
    high: float
    naive: float | None
    measured: float | None
    """None: the run has no such value (no request was answered, say); such a row is not scored."""
    inside: bool | None
    crps: float | None
    crps_naive: float | None


class Score(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The forecast as a whole."""

    rows: tuple[Scored, ...]
    coverage: float | None
    """Share of scored rows whose 90 % interval contains the measured value."""
    crps: float | None
    """Mean over rows, each divided by its scale (see sim.scoring.score) so that units may be mixed."""
    crps_naive: float | None
    skill: float | None
    """1 - crps / crps_naive."""


class CounterfactualSlo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    budget_spent_low: float
    budget_spent_median: float
    budget_spent_high: float
    probability_held: float


class Counterfactual(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What one change of policy would have done, according to the calibrated twin."""

    change: str
    """One line for people: `retry limit 3 → 1 at payment`."""
    slos: tuple[CounterfactualSlo, ...]
    holds: bool
    """Every SLO held in at least nine replications of ten."""
    verified: str | None = None
    """The run that tried it for real, or None: model output only."""
