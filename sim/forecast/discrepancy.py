"""What a model that is right in everything would still miss: two windows of one machine differ without a cause.

Each replication's quantities are spread by it before they become a forecast: latencies and tries are multiplied by a
log-normal factor, shares of bad requests move on the logit scale. Its width is a standard deviation for each quantity
and window, from one of two sources, and the forecast says which (`calibration["discrepancy"]`):

    constants   how much the baseline's own blocks differ beyond sampling, with a floor (`sim.calibration.calibrate`)
    learned     from the errors of past runs with faults of the same kinds (`sim.scoring.learning`), where there were
                enough; the constants for whatever there were not, and for what this baseline says is wider

The learned ones lie in `discrepancy.json` beside this file, with the runs that they come from. They hold for the world
that these were made in; elsewhere, and without the file, the constants do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from scenarios.model import FaultSpec
from sim.calibration.calibrate import Calibration
from sim.calibration.noise import LATENCY_FLOOR
from sim.model.draws import Streams
from sim.model.setup import Setup
from sim.replication.quantities import PERCENTILES, Floats, Key
from sim.replication.replicate import Outcome

ERROR_SIGMA = 0.10
"""Overdispersion of the share of bad requests, on the logit scale."""
SHARED = 0.7
"""Correlation of the discrepancy between windows and SLOs: it is one machine."""
SHIPPED = Path(__file__).with_name("discrepancy.json")
SCHEMA = "gameday.dev/discrepancy/v1"
CONFIG_DIGITS = 16
WINDOWS = ("inject", "recover", "all")
SPREAD = (*PERCENTILES, "attempts_per_request", "success_rate")
"""Quantities that have a discrepancy; budgets follow their success rates."""


LIKE = {"M1": "success_rate", "M2": "p95"}
"""What is spread as something else is."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One learned standard deviation, on the scale of `sim.scoring.score.transformed`."""

    family: str
    """Kinds of faults, joined by +; empty: of all of them together."""
    quantity: str
    window: str
    sigma: float
    runs: int
    quantities: int


class Learned(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The data file."""

    schema: str = SCHEMA
    learned_at: str
    """The day, as ISO 8601 has it."""
    machine: str
    world: str
    runs: tuple[str, ...]
    """What it was learned from: each run's name and the first digits of its configuration's SHA-256."""
    entries: tuple[Entry, ...]

    def knows(self, config: str) -> bool:
        """Whether a run with this SHA-256 of its configuration is among those that it was learned from."""
        return config[:CONFIG_DIGITS] in {run.rpartition(" ")[2] for run in self.runs}


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Standard deviations for one forecast."""

    name: str
    sigmas: Mapping[tuple[str, str], float]
    """By (quantity, window)."""

    def sigma(self, quantity: str, window: str) -> float:
        return self.sigmas.get((quantity, window), 0.0)

    def statement(self) -> str:
        """For the forecast: the source, and each sigma, once where it is the same in all windows."""
        parts = []
        for quantity in SPREAD:
            values = [f"{self.sigma(quantity, window):.4g}" for window in WINDOWS]
            if len(set(values)) == 1:
                parts.append(f"{quantity} {values[0]}")
            else:
                parts += [f"{quantity} {window} {value}" for window, value in zip(WINDOWS, values, strict=True)]
        return f"{self.name}: {', '.join(parts)}"


def read_statement(text: str) -> dict[tuple[str, str], float]:
    """(quantity, window) → sigma, from what a forecast states; empty where it states nothing."""
    found: dict[tuple[str, str], float] = {}
    for part in text.rpartition(": ")[2].split(", "):
        match = re.fullmatch(r"(\w+)(?: (\w+))? ([-+.e\d]+)", part)
        if match:
            for window in (match[2],) if match[2] else WINDOWS:
                found[match[1], window] = float(match[3])
    return found


def load(path: Path = SHIPPED) -> Learned | None:
    """What was learned; None without a file.

    Raises:
        msgspec.DecodeError: the file is none of ours.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Learned)
    except FileNotFoundError:
        return None


def family_of(faults: Iterable[FaultSpec]) -> str:
    """What discrepancies are grouped by: the kinds of the faults, `none` without one."""
    return "+".join(dict.fromkeys(fault.kind for fault in faults)) or "none"


def constants(calibration: Calibration) -> Discrepancy:
    """From the baseline alone. Of tries there is none: how proxies' counters are cut at the edges of a window is played
    (`sim.replication.quantities`)."""
    sigma = {**calibration.residual, "attempts_per_request": 0.0, "success_rate": ERROR_SIGMA}
    return Discrepancy("constants", {(quantity, window): sigma[quantity] for quantity in SPREAD for window in WINDOWS})


def choose(calibration: Calibration, setup: Setup, world: str, learned: Learned | None) -> Discrepancy:
    """The learned one where it applies, the constants elsewhere."""
    base = constants(calibration)
    if learned is None or learned.world != world:
        return base
    family = family_of(setup.faults)
    known = {(entry.family, entry.quantity, entry.window): entry.sigma for entry in learned.entries}
    sigmas = dict(base.sigmas)
    for quantity, window in base.sigmas:
        for group in (family, ""):
            if (group, quantity, window) in known:
                sigmas[quantity, window] = beside(
                    known[group, quantity, window], quantity, base.sigma(quantity, window)
                )
                break
    return Discrepancy(f"learned {learned.learned_at} from {len(learned.runs)} runs, for {family}", sigmas)


def beside(learned: float, quantity: str, baseline: float) -> float:
    """The learned sigma, or the baseline's own where that is wider and above the floor: its blocks differed, or it had
    too few requests to tell, and what quiet machines taught does not make up for it."""
    return max(learned, baseline) if baseline > LATENCY_FLOOR.get(quantity, baseline) else learned


def with_discrepancy(
    outcome: Outcome, setup: Setup, discrepancy: Discrepancy, seed: int
) -> tuple[dict[Key, float], dict[tuple[str, str], Floats]]:
    """An outcome as it might be measured: (quantities, fans). The same replication always gets the same noise."""
    streams = Streams(seed, outcome.replication)
    generator = streams.generator("discrepancy")
    shared = {quantity: streams.even_normal(quantity) for quantity in (*PERCENTILES, "bad")}
    objectives = {slo.name: slo.objective for slo in setup.slos}
    values = dict(outcome.values)
    for key, value in outcome.values.items():
        name, subject, window = key
        quantity = LIKE.get(name, name)
        sigma = discrepancy.sigma(quantity, window)
        z = float(generator.standard_normal())
        if quantity in PERCENTILES:
            mixed = SHARED * shared[quantity] + math.sqrt(1 - SHARED**2) * z
            values[key] = value * math.exp(sigma * mixed)
        elif quantity == "attempts_per_request":
            values[key] = value * math.exp(sigma * z)
        elif quantity == "success_rate" and 0.0 < value < 1.0:
            mixed = SHARED * shared["bad"] + math.sqrt(1 - SHARED**2) * z
            logit = math.log(value / (1.0 - value)) + sigma * mixed
            values[key] = 1.0 / (1.0 + math.exp(-logit))
            spent = ("budget_spent", subject, window)
            before = outcome.values.get(spent)
            if before is not None and name == quantity and objectives[subject] < 1.0:
                values[spent] = before * (1.0 - values[key]) / (1.0 - value)
    fans = dict(outcome.fans)
    for slo in setup.slos:
        if ("p95", slo.name) in fans:
            factor = math.exp(discrepancy.sigma("p95", "all") * shared["p95"])
            fans["p95", slo.name] = fans["p95", slo.name] * factor
    return values, fans
