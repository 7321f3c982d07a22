"""How a prediction is told to people: in what order, which rows come first, in which words.

A forecast has some fifteen quantities for each SLO in three windows. Whoever reads it wants to know first whether users
notice, whether anybody is woken, and when it is over; the rest is for those who ask why. So rows are grouped by
subject, and each quantity has one window in which it is a headline, or none. Tried before: all rows in the order of the
file, which was a wall, and the answer to "will it page?" stood in its fortieth line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reports.document import LoadBandPart, PredictionPart
from reports.notation import NOTHING, percent, quantity, seconds, span
from scenarios.slo import MONTH_RULES
from sim.replication.course import EVENTS, METASTABLE, PAGE_TIMES, PAGED, PEAK, RECOVER

WHOLE_MESH = "the mesh"
ORDER = (
    "success_rate",
    "budget_spent",
    PAGED,
    *PAGE_TIMES.values(),
    RECOVER,
    METASTABLE,
    PEAK,
    "p50",
    "p95",
    "p99",
    "attempts_per_request",
    *(f"M{number}" for number in range(1, 11)),
)
_RANK = {name: rank for rank, name in enumerate(ORDER)}
PAGING = tuple(PAGE_TIMES[rule.name] for rule in MONTH_RULES if rule.severity == "page")
"""Times to page of the alerts that wake somebody; the others file a ticket."""
HEADLINES = {
    ("success_rate", "inject"),
    ("success_rate", "recover"),
    ("budget_spent", "all"),
    (PAGED, "all"),
    *((name, "all") for name in PAGING),
    (RECOVER, "recover"),
    (METASTABLE, "recover"),
    ("p95", "inject"),
    ("p99", "inject"),
    ("attempts_per_request", "inject"),
    ("M1", "inject"),
    ("M4", "inject"),
}
"""(quantity, window)."""
WINDOWS = ("inject", "recover", "all")
SERVICES = "services"


def is_headline(row: PredictionPart) -> bool:
    """Whether everybody reads it. An alert that is not expected to fire, and did not, is no news beside `paged`."""
    silent = row.quantity in PAGING and row.arrival is not None and row.arrival.share == 0.0
    fired = row.measured is not None and row.arrival is not None and row.measured < row.arrival.within
    return (row.quantity, row.window) in HEADLINES and (fired or not silent)


def grouped(rows: Iterable[PredictionPart], slos: Iterable[str]) -> list[tuple[str, list[PredictionPart]]]:
    """(title, rows): each SLO in the order of the scenario, then services, then the whole mesh; headlines first."""
    names = list(slos)
    groups: dict[str, list[PredictionPart]] = {name: [] for name in (*names, SERVICES, WHOLE_MESH)}
    for row in rows:
        groups[_group(row, names)].append(row)
    return [(name, sorted(members, key=_place)) for name, members in groups.items() if members]


def _group(row: PredictionPart, slos: list[str]) -> str:
    # Forecasts of runs whose scenario is unknown have SLOs all the same; they stand with the services.
    return row.subject if row.subject in slos else SERVICES if row.subject else WHOLE_MESH


def _place(row: PredictionPart) -> tuple[bool, int, int, str]:
    """Sorting is stable: services stay in the order of the application."""
    window = WINDOWS.index(row.window) if row.window in WINDOWS else len(WINDOWS)
    return not is_headline(row), _RANK.get(row.quantity, len(_RANK)), window, row.quantity


MISSED = "Outside of their 90 % interval"


@dataclass(frozen=True, slots=True)
class Told:
    """A table in two parts: what everybody reads, and what one unfolds."""

    first: list[tuple[str, list[PredictionPart]]]
    rest: list[tuple[str, list[PredictionPart]]]

    @property
    def rest_count(self) -> int:
        return sum(len(rows) for _, rows in self.rest)


def told(rows: Iterable[PredictionPart], slos: Iterable[str]) -> Told:
    """Misses first, whatever they are of, then each group's headlines; what was neither is the rest."""
    groups = grouped(rows, slos)
    missed = [row for _, members in groups for row in members if row.inside is False]
    others = [(title, [row for row in members if row.inside is not False]) for title, members in groups]
    first = [(MISSED, missed), *((title, [r for r in members if is_headline(r)]) for title, members in others)]
    rest = [(title, [row for row in members if not is_headline(row)]) for title, members in others]
    return Told([group for group in first if group[1]], [group for group in rest if group[1]])


def is_event(row: PredictionPart) -> bool:
    """Whether it is forecast as a probability: there is no interval to be inside of."""
    return row.quantity in EVENTS


def subject_name(row: PredictionPart) -> str:
    return row.subject or WHOLE_MESH


def expected(row: PredictionPart) -> str:
    """The middle of the forecast: a median, or of an event its probability, or of a time "82 % in 4.0 s"."""
    if row.arrival is None:
        return quantity(row.quantity, row.median)
    if row.arrival.median is None:
        return _not_within(row.arrival.within)
    when = seconds(row.arrival.median)
    return when if row.arrival.share == 1.0 else f"{percent(row.arrival.share)} in {when}"


def interval(row: PredictionPart) -> str:
    """The 90 % interval; of a time that may not come, of the cases in which it does.

    An event has none, but "metastable" says its probability at a little less and more load.
    """
    if row.load_band is not None:
        return _beside(row.load_band)
    if row.quantity in EVENTS:
        return NOTHING
    if row.arrival is None or row.arrival.share == 1.0:
        return narrow(row.quantity, row.low, row.high)
    if row.arrival.low is None or row.arrival.high is None:
        return _not_within(row.arrival.within)
    shown = narrow(row.quantity, row.arrival.low, row.arrival.high)
    return shown if row.high < row.arrival.within else f"{shown}, or not within {seconds(row.arrival.within)}"


def band(row: PredictionPart, level: float) -> str:
    """A narrower interval, with the times that did not come in it."""
    found = next((b for b in row.bands if b.level == level), None)
    if found is None:
        return NOTHING
    if row.arrival is not None and found.high >= row.arrival.within:
        if found.low >= row.arrival.within:
            return _not_within(row.arrival.within)
        return f"{seconds(found.low)} or more"
    return narrow(row.quantity, found.low, found.high)


def value(row: PredictionPart, measured: float | None) -> str:
    """What was measured, or what "nothing changes" says."""
    if measured is None:
        return NOTHING
    if row.quantity in EVENTS and measured in (0.0, 1.0):
        return "yes" if measured else "no"
    if row.arrival is not None and measured >= row.arrival.within:
        return _not_within(row.arrival.within)
    return "at once" if row.arrival is not None and measured == 0.0 else quantity(row.quantity, measured)


def narrow(name: str, low: float, high: float) -> str:
    """A span, written once where both of its ends read alike."""
    return quantity(name, low) if quantity(name, low) == quantity(name, high) else span(name, low, high)


def _beside(band: LoadBandPart) -> str:
    shown = f"{percent(band.below)} and {percent(band.above)} at load ±{percent(band.half_width)}"
    return f"{shown}: in the band, not counted" if band.splits else shown


def _not_within(limit: float) -> str:
    return f"not within {seconds(limit)}"
