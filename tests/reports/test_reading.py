"""What people are told of predictions: words for events and times that may not come, headlines and their order."""

from __future__ import annotations

import pytest

from reports.document import ArrivalPart, BandPart, LoadBandPart, PredictionPart
from reports.notation import THIN
from reports.reading import MISSED, SERVICES, WHOLE_MESH, band, expected, interval, told, value

WITHIN = 30.0


def row(quantity: str, window: str = "all", subject: str = "checkout", **changes: object) -> PredictionPart:
    fields: dict[str, object] = {
        "quantity": quantity, "subject": subject, "window": window, "low": 0.1, "median": 0.2, "high": 0.3,
        "naive": 0.0, "measured": None, "inside": None, "crps": None, "crps_naive": None,
    }  # fmt: skip
    return PredictionPart(**{**fields, **changes})  # type: ignore[arg-type]


def page(share: float, *, rule: str = "1h/5m", measured: float | None = None) -> PredictionPart:
    came = share > 0.0
    arrival = ArrivalPart(
        within=WITHIN, share=share, low=5.0 if came else None, median=9.0 if came else None, high=13.0 if came else None
    )
    ends = (13.0 if share == 1.0 else WITHIN, [BandPart(level=0.5, low=8.0 if came else WITHIN, high=WITHIN)])
    return row(
        f"time_to_page {rule}",
        low=5.0 if came else WITHIN, median=9.0, high=ends[0], bands=ends[1], arrival=arrival, naive=WITHIN,
        measured=measured,
    )  # fmt: skip


def plain(text: str) -> str:
    return text.replace(THIN, " ")


def test_an_event_has_a_probability_and_is_measured_as_yes_or_no() -> None:
    paged = row("paged", low=0.0, median=0.648, high=1.0, measured=1.0)
    assert (plain(expected(paged)), interval(paged)) == ("64.8 %", "—")
    assert (value(paged, paged.measured), value(paged, paged.naive)) == ("yes", "no")


@pytest.mark.parametrize(("splits", "end"), [(True, ": in the band, not counted"), (False, "")])
def test_metastability_is_shown_with_what_a_little_less_and_more_load_would_do(splits: bool, end: str) -> None:
    beside = LoadBandPart(half_width=0.05, below=0.25, above=0.75, replications=20, splits=splits)
    shown = plain(interval(row("metastable", "recover", median=0.6, load_band=beside)))
    assert shown == f"25.0 % and 75.0 % at load ±5.0 %{end}"


@pytest.mark.parametrize(
    ("share", "middle", "ends", "half"),
    [
        (1.0, "9.00 s", "5.00–13.0 s", "8.00 s or more"),
        (0.65, "65.0 % in 9.00 s", "5.00–13.0 s, or not within 30.0 s", "8.00 s or more"),
        (0.0, "not within 30.0 s", "not within 30.0 s", "not within 30.0 s"),
    ],
)
def test_a_time_that_may_not_come_says_how_often_it_does(share: float, middle: str, ends: str, half: str) -> None:
    found = page(share)
    assert (plain(expected(found)), plain(interval(found)), plain(band(found, 0.5))) == (middle, ends, half)
    assert plain(value(found, found.naive)) == "not within 30.0 s"
    assert value(found, 0.0) == "at once"


def test_an_interval_without_width_is_written_once() -> None:
    assert plain(interval(row("success_rate", low=1.0, median=1.0, high=1.0))) == "100 %"


def test_misses_come_first_then_headlines_by_slo_services_and_mesh() -> None:
    rows = [
        row("M1", "inject", ""),
        row("attempts_per_request", "inject", "payment"),
        row("p50", "inject"),
        row("success_rate", "recover"),
        row("p99", "recover", inside=False),
        row("success_rate", "inject"),
        row("success_rate", "inject", "browse"),
    ]
    found = told(rows, ["browse", "checkout"])
    assert [(title, [(r.quantity, r.window) for r in members]) for title, members in found.first] == [
        (MISSED, [("p99", "recover")]),
        ("browse", [("success_rate", "inject")]),
        ("checkout", [("success_rate", "inject"), ("success_rate", "recover")]),
        (SERVICES, [("attempts_per_request", "inject")]),
        (WHOLE_MESH, [("M1", "inject")]),
    ]
    assert [(title, [r.quantity for r in members]) for title, members in found.rest] == [("checkout", ["p50"])]
    assert found.rest_count == 1


def test_an_alert_that_is_not_expected_and_did_not_fire_is_no_headline() -> None:
    silent, likely, surprise = page(0.0, measured=WITHIN), page(0.65), page(0.0, rule="6h/30m", measured=7.0)
    found = told([silent, likely, surprise], ["checkout"])
    assert [r for _, members in found.first for r in members] == [likely, surprise]
    assert [r for _, members in found.rest for r in members] == [silent]
