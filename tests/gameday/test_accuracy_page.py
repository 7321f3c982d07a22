"""Acceptance lines and the page, from made-up evidence.

One file although it is long: each line is tested with the same few made-up rows, which stand at its top.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from gameday.accuracy import evidence
from gameday.accuracy.acceptance import Line, coverage, invents, is_moved, lines, mark_moved
from gameday.accuracy.evidence import (
    Evidence,
    NoEvidence,
    counted_apart,
    foretold_apart,
    read_evidence,
    sealed_forecast,
)
from gameday.accuracy.figures import write_figures
from gameday.accuracy.page import render
from gameday.judge import forecast_lines
from mesh.control.registry.manifests import InvalidManifest, Problem
from reports.pace import Pace
from reports.store import Event, Request, RunStore
from scenarios.model import SloSpec
from sim.results import LoadBand, Prediction
from sim.scoring.score import Detail, detail
from tests.reports.synthetic import BASE, SyntheticRun


def row(
    quantity: str = "success_rate",
    measured: float = 0.5,
    naive: float | None = 1.0,
    *,
    ensemble: tuple[float, ...] = (0.4, 0.45, 0.5, 0.55, 0.6),
    requests: int | None = 1_000,
    closed: float | None = None,
) -> Detail:
    prediction = Prediction(
        quantity=quantity, subject="checkout", window="inject", low=ensemble[0], median=ensemble[len(ensemble) // 2],
        high=ensemble[-1], naive=naive, ensemble=ensemble,
    )  # fmt: skip
    return detail(prediction, measured, requests=requests, closed=closed)


def run(*rows: Detail, **changes: object) -> Evidence:
    base = Evidence(
        name="storm", config="c", seed=1, family="app-degrade", kinds="app-degrade", part="tuning", control=False,
        load="60/s", sealed=True, rows=rows, limits=(), discrepancy="", compute_seconds=4.0, replications=100,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def found(evidence: list[Evidence], name: str) -> Line:
    return next(line for line in lines(mark_moved(evidence)) if line.name.startswith(name))


def test_success_may_be_off_by_a_point_or_two_standard_errors() -> None:
    assert found([run(row(measured=0.53, requests=1_000))], "success").met  # 2 SE of 0.5 are 3.2 points
    assert not found([run(row(measured=0.54, requests=1_000))], "success").met
    assert found([run(row(measured=0.509, requests=1_000_000))], "success").met


def test_latencies_are_judged_on_large_windows_only_and_their_number_is_said() -> None:
    close = row("p95", 1.05, ensemble=(0.9, 1.0, 1.1), requests=6_000)
    far = row("p95", 1.30, ensemble=(0.9, 1.0, 1.1), requests=600)
    assert found([run(close, far)], "p95").met
    assert found([run(close, far)], "p95").found.startswith("1 of 1")
    assert found([run(far)], "p95").met is None
    assert not found([run(dataclass_like(far, requests=6_000))], "p95").met


def test_beside_large_windows_stand_those_in_which_the_machine_kept_its_pace() -> None:
    close = row("p50", 1.04, ensemble=(0.9, 1.0, 1.1), requests=6_000)
    far = row("p50", 1.30, ensemble=(0.9, 1.0, 1.1), requests=6_000)
    steady, slower = ({"inject": Pace(0.001, 0.001 * ratio, 0.01)} for ratio in (1.05, 1.4))
    line = found([run(close, paces=steady), run(far, paces=slower)], "p50")
    assert line.met is False, "who missed has missed"
    assert (
        line.found == "1 of 2 (50%); worst off by 23%; 1 of the 1 in which the machine is known to have kept its pace"
    )
    assert "pace" not in found([run(close, paces=steady)], "p50").found
    page = render([run(far, paces=slower)], [], [], "gameday accuracy")
    assert "| 6000 | 1.40 | – |" in page


def test_forecasts_that_know_what_the_pace_does_are_read_at_it_beside_the_verdict() -> None:
    sealed = msgspec.structs.replace(row("p50", 1.18, ensemble=(0.9, 1.0, 1.1), requests=6_000), elasticity=0.5)
    slower = {"inject": Pace(0.001, 0.0014, 0.01)}
    line = found([run(sealed, paces=slower)], "p50")
    assert line.met is False, "the verdict is of the forecast as it was sealed"
    assert line.found.endswith("; read at the machine's pace 1 of 1, worst off by 0%")
    assert "| 6000 | 1.40 | 1.18 |" in render([run(sealed, paces=slower)], [], [], "gameday accuracy")
    assert "read at" not in found([run(sealed)], "p50").found, "nobody counted"


def dataclass_like(base: Detail, requests: int) -> Detail:
    return row(base.quantity, base.measured, base.naive, ensemble=(0.9, 1.0, 1.1), requests=requests)


def test_moments_may_be_off_by_two_seconds_or_a_tenth() -> None:
    assert found([run(row("recovery_seconds", 5.9, None, ensemble=(3.0, 4.0, 5.0)))], "time to page").met
    assert not found([run(row("recovery_seconds", 6.1, None, ensemble=(3.0, 4.0, 5.0)))], "time to page").met
    assert found([run(row("recovery_seconds", 40.0, None, ensemble=(36.0, 36.5, 37.0)))], "time to page").met


def test_a_moment_that_may_not_come_is_judged_by_the_number_of_the_best_odds_and_these_are_said() -> None:
    """Most replications page, but at any time; the median is a time at which few do."""
    fork = (3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0, 30.0, 30.0, 30.0)
    line = found([run(*(row("time_to_page 1h/5m", 30.0, None, ensemble=fork) for _ in range(10)))], "time to page")
    assert line.met
    assert line.found == "10 of 10 (100%); 3 by the forecasts' own odds, 0 of their medians"


def test_every_family_with_an_effect_needs_its_skill() -> None:
    good = run(row(), row(), row())
    bad = run(*(row("p95", 2.0, 1.0, ensemble=(0.9, 1.0, 1.1)) for _ in range(3)), family="pod-kill")
    assert found([good], "CRPS").met
    line = found([good, bad], "CRPS")
    assert line.met is False
    assert "pod-kill 0.0" in line.found
    assert "app-degrade 0.9" in line.found


def test_a_control_invents_an_effect_when_its_interval_leaves_out_that_nothing_changes() -> None:
    assert invents(row(measured=1.0))
    assert not invents(row(measured=1.0, ensemble=(0.5, 0.6, 1.0)))
    assert not invents(row("p95", 0.1, 0.1, ensemble=(0.101, 0.105, 0.11)))  # a tenth of noise is no effect
    assert found([run(row(measured=1.0), control=True)], "controls").met is False
    assert found([run(row(measured=1.0))], "controls").met is None


def test_a_forecast_that_counting_alone_keeps_from_its_baseline_invents_nothing() -> None:
    other = row("p95", 0.02, 0.1, ensemble=(0.02, 0.021, 0.022))
    assert invents(changed(other, foretold=-2.5))
    assert not invents(changed(other, foretold=-1.5))
    slo = SloSpec("rare", "inventory", "GET", "/stock", 0.9)
    told = Prediction(
        quantity="p50", subject="rare", window="inject", low=0.006, median=0.008, high=0.01, naive=0.0166, ensemble=()
    )
    slow = [request(0.007), request(0.0166), request(0.0166), request(0.02)]
    few = foretold_apart(told, slo, 9, slow, 10.0)
    assert few is not None
    assert -2.0 < few < 0.0  # 4.5 of 9 beyond the forecast's median where 3 of 4 were
    many = foretold_apart(told, slo, 900, slow * 100, 10.0)
    assert many is not None
    assert many < -4.0
    rate = msgspec.structs.replace(told, quantity="success_rate", median=0.5)
    bad = foretold_apart(rate, slo, 10, [request(0.01)] * 40, 10.0)
    assert bad is not None
    assert bad > 4.0
    assert foretold_apart(msgspec.structs.replace(told, quantity="peak_burn"), slo, 9, slow, 10.0) is None


def test_a_fault_has_an_effect_when_it_moves_a_quantity_beyond_noise() -> None:
    assert is_moved(row(measured=0.95, naive=1.0))
    assert not is_moved(row(measured=0.99, naive=1.0))
    assert is_moved(row("p95", 0.065, 0.05))
    assert not is_moved(row("p95", 0.055, 0.05))
    assert not is_moved(row("budget_spent", 0.1, 0.0))  # a tenth of one budget
    assert not is_moved(row("p95", 0.065, None))
    assert is_moved(row("M3", 9.0, 0.0))
    assert not is_moved(row("M3", 2.0, 0.0))


def test_what_counting_alone_explains_is_no_effect() -> None:
    slow = row("p95", 0.1, 0.01, requests=10)
    assert is_moved(changed(slow, apart=2.5))
    assert not is_moved(changed(slow, apart=-0.8))


def test_a_percentile_is_as_far_from_its_baseline_as_the_shares_beyond_it() -> None:
    slo = SloSpec("checkout", "checkout", "POST", "/", 0.99)
    before = [request(0.010 + 0.001 * (index % 10)) for index in range(100)]
    told = Prediction(
        quantity="p95", subject="checkout", window="inject", low=0.01, median=0.02, high=0.03, naive=0.0185,
        ensemble=(),
    )  # fmt: skip
    assert counted_apart(told, slo, before[:40], before, 10.0) == pytest.approx(0.0)
    few = counted_apart(told, slo, [request(0.002)] * 9 + [request(0.5)], before, 10.0)
    assert few is not None
    assert abs(few) < 2.0
    many = counted_apart(told, slo, [request(0.5)] * 30 + [request(0.01)] * 30, before, 10.0)
    assert many is not None
    assert many > 4.0
    rate = msgspec.structs.replace(told, quantity="success_rate")
    late = counted_apart(rate, slo, [request(11.0)] * 5 + [request(0.01)] * 5, before, 10.0)
    assert late is not None
    assert late > 4.0
    assert counted_apart(msgspec.structs.replace(told, quantity="peak_burn"), slo, before, before, 10.0) is None


def request(latency: float) -> Request:
    return Request("POST checkout /", "all", 0.0, 0.0, latency, 200)


def changed(base: Detail, **changes: float) -> Detail:
    return msgspec.structs.replace(base, **changes)


def test_the_same_case_at_another_load_is_judged_by_itself() -> None:
    still, hit = row("p99", 0.1, 0.1, ensemble=(0.09, 0.1, 0.11)), row("p99", 0.3, 0.1, ensemble=(0.09, 0.1, 0.11))
    marked = mark_moved([run(hit, load="60/s"), run(still, load="120/s"), run(still, load="120/s")])
    assert [len(r.moved_rows) for r in marked] == [1, 0, 0]


def test_a_quantity_counts_as_moved_where_most_runs_of_its_case_moved_it() -> None:
    still, chance = row("p99", 0.1, 0.1, ensemble=(0.09, 0.1, 0.11)), row("p99", 0.13, 0.1, ensemble=(0.09, 0.1, 0.11))
    marked = mark_moved([run(still), run(still), run(chance)])
    assert [len(r.moved_rows) for r in marked] == [0, 0, 0]
    marked = mark_moved([run(chance), run(still), run(chance), run(chance, control=True)])
    assert [len(r.moved_rows) for r in marked] == [1, 1, 1, 0]


def test_events_have_a_probability_and_no_interval() -> None:
    event = row("metastable", 1.0, 0.0, ensemble=(0.0, 1.0, 1.0, 1.0))
    assert coverage([run(event)]).total == 0
    still = row("metastable", 0.0, 0.0, ensemble=(0.0, 0.0, 0.0, 0.0))
    line = found([run(event), run(still)], "metastable")
    assert line.met
    assert "2 of 2 (100%), 1 of them yes" in line.found
    assert "Brier score" in line.found
    assert found([run(row("metastable", 0.0, 0.0, ensemble=(0.0, 1.0, 1.0, 1.0)))], "metastable").met is False


@pytest.mark.parametrize("measured", [0.0, 1.0])
def test_verdicts_that_are_all_alike_tell_nothing_of_who_always_says_so(measured: float) -> None:
    event = row("metastable", measured, 0.0, ensemble=(measured,) * 4)
    assert found([run(event, event)], "metastable").met is None


def test_a_verdict_that_hangs_on_five_per_cent_of_load_is_said_and_not_counted() -> None:
    def stuck(measured: float, below: float, above: float) -> Evidence:
        band = LoadBand(half_width=0.05, below=below, above=above, replications=20)
        event = row("metastable", measured, 0.0, ensemble=(0.0, 1.0, 1.0, 1.0))
        return run(msgspec.structs.replace(event, median=0.75, load_band=band))

    inside, right, wrong = stuck(0.0, 0.4, 1.0), stuck(1.0, 0.5, 1.0), stuck(0.0, 0.6, 1.0)
    back = run(row("metastable", 0.0, 0.0, ensemble=(0.0, 0.0)))
    line = found([inside, right, back], "metastable")
    assert line.met
    assert line.found.startswith("2 of 2 (100%), 1 of them yes, 1 more inside the band,")
    assert found([inside, wrong], "metastable").met is False
    alone = found([inside], "metastable")
    assert alone.met is None
    assert "1 more inside the band" in alone.found
    unknown = row("metastable", 1.0, 0.0, ensemble=(1.0, 1.0))
    assert "1 counted without a known band" in found([run(unknown)], "metastable").found


def test_the_protocol_is_five_seeds_of_every_case_and_two_loads_of_every_fault() -> None:
    five = [run(row(), seed=seed, load=load) for seed in range(5) for load in ("60/s", "120/s")]
    assert found(five, "protocol").met
    assert found(five[:-1], "protocol").met is False  # four seeds at one of the loads
    one_load = [run(row(), seed=seed) for seed in range(5)]
    assert found(one_load, "protocol").met is False
    assert "at one load only: app-degrade" in found(one_load, "protocol").found
    assert found([run(row(), seed=seed, part="held-out") for seed in range(5)], "protocol").met


def test_what_a_fault_moved_is_counted_apart_where_most_of_it_is_easy() -> None:
    still = row(measured=1.0, ensemble=(1.0, 1.0, 1.0))
    line = found(
        [run(msgspec.structs.replace(still, subject=str(n))) for n in range(39)] + [run(row(measured=0.9))], "success"
    )
    assert line.met
    assert line.found == "39 of 40 (98%); of those that a fault moved 0 of 1 (0%)"


def test_forecasts_of_one_value_do_not_hide_what_the_others_do() -> None:
    sure, missed = row(measured=1.0, ensemble=(1.0, 1.0, 1.0)), row(measured=0.9)
    assert coverage([run(sure, missed)]).total == 2
    apart = coverage([run(sure, missed)], ranges_only=True)
    assert apart.total == 1
    assert apart.value == coverage([run(missed)]).value


def test_held_out_runs_are_reported_apart() -> None:
    page = render([run(row()), run(row(measured=0.9), part="held-out")], [], [], "gameday accuracy")
    first = next(text for text in page.splitlines() if text.startswith("| 90 % intervals"))
    assert "100.0% of 1 quantities" in first
    assert "0.0% of 1 quantities" in first


def test_a_miss_is_listed_with_all_its_numbers_and_a_failure_with_its_reason() -> None:
    page = render(
        [run(row("p95", 0.9, 0.05, ensemble=(0.1, 0.2, 0.3)), seed=3)], ["kill: exit code 4: no request"],
        ["oom: not here"], "gameday accuracy",
    )  # fmt: skip
    assert "| storm | 3 | 60/s | p95 latency | checkout | inject | 0.1 | 0.2 | 0.3 | 0.9 | 0.05 | 1000 |" in page
    assert "- kill: exit code 4: no request" in page
    assert "- oom: not here" in page
    assert "not sealed" not in page.lower()


def test_a_suite_without_a_tuning_part_has_no_column_for_it() -> None:
    page = render([run(row(), part="held-out")], (), (), "gameday accuracy")
    assert "| asked | held out |  |" in page
    assert "| asked | tuning |  | held out |  |" in render([run(row()), run(row(), part="held-out")], (), (), "x")


def test_no_histogram_is_drawn_of_nothing(tmp_path: Path) -> None:
    calm = [run(row(measured=1.0, naive=1.0)) for _ in range(3)]
    moved = [run(row(), part="held-out", name="kill") for _ in range(3)]

    def drawn(evidence: list[Evidence]) -> list[str]:
        return [name for name, _ in write_figures(tmp_path / "page.md", evidence) if "-pit" in name]

    assert drawn(calm) == []
    assert drawn(calm + moved) == ["page-pit-held-out.svg"]


def test_the_page_says_on_how_many_cores_runs_were_made() -> None:
    one, two = run(row(), cores=1, others=0.02), run(row(), cores=2)
    page = render([one, one, two], [], [], "gameday accuracy")
    assert "1 seeds; 2 on 1 core of their own, 1 on 2 cores of its own." in page
    assert "| 4.0 | 1 | 0.02 |" in page
    assert "1 seeds." in render([run(row())], [], [], "gameday accuracy")


def test_recomputed_forecasts_are_marked() -> None:
    assert "Not sealed: recomputed" in render([run(row(), sealed=False)], [], [], "gameday accuracy")


def test_skill_over_a_formula_counts_where_one_applies() -> None:
    page = render([run(row(closed=0.6), row())], [], [], "gameday accuracy")
    family = next(text for text in page.splitlines() if text.startswith("| tuning | app-degrade"))
    assert "(1)" in family


def test_a_forecast_that_is_not_the_sealed_one_is_no_evidence(tmp_path: Path) -> None:
    with RunStore(SyntheticRun().write(tmp_path / "run.sqlite")) as store:
        body = store.document("forecast")
        assert body is not None
        assert sealed_forecast(store).predictions
        store.put_document("forecast", body[0], body[1].replace(b"0.9", b"0.8", 1))
        with pytest.raises(NoEvidence, match="not the one that was sealed"):
            sealed_forecast(store)
        store.put_document("forecast", *body)
        store.add_event(Event(BASE, "chaos", "inject", "too early"))
        with pytest.raises(NoEvidence, match="before its forecast was sealed"):
            sealed_forecast(store)


@pytest.mark.parametrize("anew", [False, True])
def test_evidence_is_read_from_a_run_store_and_made_anew_on_demand(
    tmp_path: Path, anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SyntheticRun().write(tmp_path / "run.sqlite")
    made: list[float] = []

    def forecast(*arguments: object, planned_injection_at: float, **more: object) -> object:
        made.append(planned_injection_at)
        with evidence.RunStore(store) as opened:
            return evidence.sealed_forecast(opened)

    monkeypatch.setattr(evidence, "make_forecast", forecast)
    read = read_evidence(
        tmp_path, name="synthetic", family="cert-expiry", seed=7, part="tuning", control=False, load="40/s", anew=anew
    )
    assert read.sealed is not anew
    assert len(made) == anew
    assert len(read.rows) > 10
    assert all(r.requests for r in read.rows if r.quantity == "success_rate")


def test_a_run_without_a_forecast_gives_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunStore(SyntheticRun().write(tmp_path / "run.sqlite")) as store:
        empty = msgspec.structs.replace(
            sealed_forecast(store), predictions=(), replications=0, limits=("NO FORECAST: too slow.",)
        )
    monkeypatch.setattr(evidence, "sealed_forecast", lambda _: empty)
    with pytest.raises(NoEvidence, match="no forecast: NO FORECAST: too slow"):
        read_evidence(tmp_path, name="", family="", seed=7, part="tuning", control=False, load="40/s", anew=False)
    assert forecast_lines(empty) == ["forecast  NO FORECAST: too slow."]


def test_a_run_whose_manifests_are_gone_is_scored_without_formulas_and_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> object:
        raise InvalidManifest([Problem(tmp_path / "mesh.yaml", 1, "", "no such file")])

    monkeypatch.setattr(evidence, "formulas", gone)
    monkeypatch.setattr(evidence, "make_forecast", gone)
    with RunStore(SyntheticRun().write(tmp_path / "run.sqlite")) as store:
        _, rows = evidence.read_details(store, sealed_forecast(store))
        assert rows
        with pytest.raises(NoEvidence, match="manifests cannot be read"):
            evidence.reforecast(store)


def test_percentiles_of_a_route_count_once_however_many_slos_it_has(tmp_path: Path) -> None:
    with RunStore(SyntheticRun().write(tmp_path / "run.sqlite")) as store:
        sealed = sealed_forecast(store)
        _, once = evidence.read_details(store, sealed)
        twice = msgspec.structs.replace(sealed, predictions=sealed.predictions * 2)
        _, rows = evidence.read_details(store, twice)
    for quantity, times in (("p95", 1), ("success_rate", 2)):
        count = sum(r.quantity == quantity for r in once)
        assert count
        assert sum(r.quantity == quantity for r in rows) == times * count


def test_quantities_are_called_what_the_report_calls_them(tmp_path: Path) -> None:
    missed = run(row("attempts_per_request", 9.0, 1.0, ensemble=(1.0, 1.1, 1.2)))
    page = render([missed], [], [], "gameday accuracy")
    write_figures(tmp_path / "page.md", [missed])
    chart = (tmp_path / "page-sharpness.svg").read_text()
    for text in (page, chart):
        assert "attempts per request" in text
        assert "attempts_per_request" not in text
