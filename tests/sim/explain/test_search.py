"""The search for the smallest change, on systems whose answer is known on paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from explain_cases import FAR, asked, hopeless, metastable
from sim_builders import application, fault, scenario_of, service, setup_of

from scenarios.model import Journey, JourneyStep, LoadSpec, Scenario, SloSpec
from sim.calibration.cold import cold_observation
from sim.explain import counterfactual, trial
from sim.explain.counterfactual import UNCHANGED, explain
from sim.explain.explanation import Explanation, Remedy
from sim.explain.price import healthy, price
from sim.explain.search import Search
from sim.explain.trial import Candidate, Day, Stage
from sim.forecast.discrepancy import Discrepancy
from sim.knobs.changes import knobs
from sim.knobs.configuration import read_configuration
from sim.knobs.knob import OFF, Knob
from sim.replication.replicate import Players
from sim.results import CounterfactualSlo


def searched(scenario: Scenario, names: set[str]) -> Search:
    """A search over the knobs of those names."""
    configuration, base = asked(scenario)
    stage = Stage(Players(1), FAR)
    stage.unchanged = stage.full_days([base], range(4))[0]
    turnable = [knob for knob in knobs(configuration) if knob.name in names]
    search = Search(stage, configuration, base, lambda c: replace(base, setup=c.setup()), turnable)
    search.run()
    return search


def test_the_largest_limit_that_cannot_storm_is_found() -> None:
    search = searched(metastable(), {"retry limit"})
    assert search.complete
    verdicts = {candidate.settings[0][1]: candidate.verdict for candidate in search.tried()}
    assert verdicts[2.0] is False
    assert verdicts[1.0] is True
    assert [candidate.text for candidate in search.holding()] == ["retry limit 3 → 1 at back"]


def test_capacity_is_refined_to_the_least_that_holds() -> None:
    """With C > λ(1+r) = 80/s, which is 8 workers of 0.1 s (a little less: their mean is 0.105), the storm ends."""
    search = searched(metastable(), {"workers"})
    (held,) = search.holding()
    workers = held.settings[0][1]
    assert 7 <= workers <= 10
    ruled_out = [c.settings[0][1] for c in search.tried() if c.verdict is False]
    assert max(ruled_out) < workers


def test_to_stop_working_for_callers_that_left_ends_the_storm() -> None:
    search = searched(metastable(), {"cancelled work"})
    assert [candidate.text for candidate in search.holding()] == ["back stops working for callers that have left"]


def failing_twice(left: float, right: float) -> Scenario:
    """Two ways in, each to a service of its own that answers some requests with errors. An SLO of 62 % for each."""
    ways = service("front", calls=("left",)), service("side", calls=("right",))
    rates = {"left": left, "right": right}
    setup = setup_of(
        replace(
            application(*ways, *(service(name) for name in rates)),
            journeys=tuple(Journey(way.name, 1.0, (JourneyStep(way.name, "GET", "/"),)) for way in ways),
        ),
        load=LoadSpec(40.0, {way.name: 0.5 for way in ways}, 10_000, 3.0),
        faults=tuple(
            replace(fault("app-degrade", service=name, replicas=1, parameters={"errorRate": rate}), name=name)
            for name, rate in rates.items()
        ),
        slos=tuple(SloSpec(way.name, way.name, "GET", "/", 0.62) for way in ways),
        inject_seconds=10.0,
        recover_seconds=1.0,
    )
    return scenario_of(setup)


def test_two_faults_at_once_get_two_cures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what two services answer are errors; one retry leaves a quarter. Each retry saves the SLO of its own
    service, and together they save both: found at once, without going through all pairs."""

    def not_needed(_: Search) -> None:
        raise AssertionError("all pairs were gone through")

    monkeypatch.setattr(Search, "_pairs", not_needed)
    search = searched(failing_twice(0.5, 0.5), {"retry limit"})
    assert search.complete
    assert [candidate.text for candidate in search.holding()] == ["one retry at left; one retry at right"]
    saved = {candidate.text: candidate.saved for candidate in search.tried()}
    assert saved["one retry at left"] == {"front"}
    assert saved["one retry at right"] == {"side"}


def test_what_saves_one_slo_is_told_where_nothing_saves_the_other() -> None:
    search = searched(failing_twice(0.5, 1.0), {"retry limit"})
    assert search.holding() == []
    (best,) = search.saving()
    assert best.text == "one retry at left"

    def remedy(change: str, size: float, **held: float) -> Remedy:
        slos = [
            CounterfactualSlo(
                name=name, budget_spent_low=0.0, budget_spent_median=1.0, budget_spent_high=2.0, probability_held=share
            )
            for name, share in held.items()
        ]
        return Remedy(change=change, settings=(), size=size, slos=tuple(slos), holds=False, replications=5, price=None)

    unchanged = remedy(UNCHANGED, 0.0, front=0.2, side=0.0)
    words = counterfactual._found([unchanged, remedy(best.text, best.size, front=1.0, side=0.0)], search)
    assert words.startswith("No change of those tried holds every SLO")
    assert words.endswith(" front: saved by one retry at left. side: saved by no change of one knob that was tried.")


def test_who_waits_for_every_answer_is_not_advised_to_cancel() -> None:
    assert "cancelled work" not in {knob.name for knob in knobs(read_configuration(hopeless()))}


def test_where_nothing_helps_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same seed says it in the same words and figures."""
    monkeypatch.setattr("sim.explain.counterfactual.MOST_DAYS", 5)
    monkeypatch.setattr("sim.explain.counterfactual.PRICE_DAYS", 2)
    monkeypatch.setattr("sim.explain.causes.MOST_DAYS", 4)
    scenario = hopeless()
    seen = cold_observation(scenario, 1)
    found = explain(
        scenario, seen, seed=1, planned_injection_at=seen.ended_at + 15.0, time_budget_seconds=600.0, processes=1
    )
    assert found is not None
    assert found.complete
    assert found.verdict.startswith("No change of those tried holds every SLO")
    assert not any(remedy.holds for remedy in found.remedies)
    assert UNCHANGED in [remedy.change for remedy in found.remedies]
    again = explain(
        scenario, seen, seed=1, planned_injection_at=seen.ended_at + 15.0, time_budget_seconds=600.0, processes=1
    )
    assert again is not None
    assert msgspec.structs.replace(again, seconds=found.seconds) == found


def explained_slowly(seconds: float, monkeypatch: pytest.MonkeyPatch) -> Explanation:
    """On a machine on which a day takes a second and a trial a quarter."""
    clock, real = [0.0], trial.play_day

    def slow(job: trial.Job) -> Day:
        clock[0] += 0.25 if job.totals is not None else 1.0
        return real(job)

    def each(_: Players, function: Any, jobs: Any, deadline: float) -> Any:
        played = [function(job) for job in jobs]
        return played if clock[0] <= deadline else None

    for module in (trial, counterfactual):
        monkeypatch.setattr(module, "now", lambda: clock[0])
    monkeypatch.setattr(trial, "play_day", slow)
    monkeypatch.setattr(Players, "each", each)
    scenario = hopeless()
    seen = cold_observation(scenario, 1)
    found = explain(
        scenario, seen, seed=1, planned_injection_at=seen.ended_at + 15.0, time_budget_seconds=seconds, processes=1
    )
    assert found is not None
    return found


@pytest.mark.parametrize(("seconds", "some"), [(20.0, True), (10.5, True), (4.0, True), (2.4, False)])
def test_on_a_slow_machine_something_is_tried_all_the_same(
    seconds: float, some: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 20 s ten unchanged days are half of the time, more than the search's part; at 10.5 s there are fewer days."""
    found = explained_slowly(seconds, monkeypatch)
    assert (found.tried > 0) is some
    assert "gameday explain RUN --seconds" in found.verdict


def test_few_days_give_wide_intervals_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    few = next(r for r in explained_slowly(4.0, monkeypatch).remedies if r.change == UNCHANGED)
    many = next(r for r in explained_slowly(60.0, monkeypatch).remedies if r.change == UNCHANGED)
    assert (few.replications, many.replications >= 10) == (2, True)
    (narrow,), (wide,) = many.slos, few.slos
    assert wide.budget_spent_high - wide.budget_spent_low > narrow.budget_spent_high - narrow.budget_spent_low
    words = explained_slowly(10.5, monkeypatch).verdict
    assert "It rests on 5 days only" in words


def test_without_time_for_two_days_the_answer_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = explained_slowly(1.5, monkeypatch)
    assert found.remedies == found.causes == ()
    assert not found.complete
    assert found.verdict == (
        "There was no time to play the day twice in the twin; `gameday explain RUN --seconds 60` takes more."
    )


def test_time_cuts_the_search_off_and_it_says_so() -> None:
    scenario = metastable()
    configuration, base = asked(scenario)
    stage = Stage(Players(1), FAR)
    stage.unchanged = stage.full_days([base], range(1))[0]
    stage.deadline = 0.0
    search = Search(stage, configuration, base, lambda c: replace(base, setup=c.setup()), knobs(configuration))
    search.run()
    assert not search.complete
    assert search.holding() == []


@pytest.mark.parametrize("limit", [1, 3])
def test_the_price_of_retries_is_the_formula(limit: int) -> None:
    """In the healthy state p = 10 % fail by themselves: (1 - p^(r+1)) / (1 - p) tries a request."""
    p = 0.1
    back = service("back", failure_rate=p)
    setup = setup_of(
        application(service("front", calls=("back",)), back),
        load=LoadSpec(40.0, {"all": 1.0}, 10_000, 5.0),
        faults=(fault("app-degrade", service="back", replicas=1, parameters={"errorRate": 0.5}),),
    )
    configuration, base = asked(scenario_of(setup))
    (knob,) = (knob for knob in knobs(configuration) if knob.name == "retry limit")
    changed = replace(base, setup=knob.turn(configuration, float(limit)).setup())
    stage = Stage(Players(1), FAR)
    plain, after = stage.full_days([healthy(base), healthy(changed)], range(4))
    cost = price(base.setup, changed.setup, plain, after)
    assert cost is not None
    assert cost.attempts == pytest.approx((1 - p ** (limit + 1)) / (1 - p), abs=0.012)
    assert cost.attempts_change == pytest.approx(cost.attempts - 1.0, abs=0.005)
    assert cost.success_change > 0.05
    assert (cost.pods, cost.places, cost.certificates_per_minute) == (0, 0, 0.0)


@pytest.mark.parametrize(("lost", "holds"), [((1, 2), True), ((3, 4), False)])
def test_a_change_holds_where_all_slos_do_on_the_same_days(lost: tuple[int, int], holds: bool) -> None:
    """Of 20 days one SLO fails on the days 1 and 2, another on those of `lost`: each alone is held on 18."""
    configuration, base = asked(hopeless())
    slos = (SloSpec("one", "front", "GET", "/", 0.95), SloSpec("two", "front", "GET", "/", 0.9))
    base = replace(base, setup=replace(base.setup, slos=slos))
    failed = {"one": (1, 2), "two": lost}
    days = [
        Day(n, {}, None, {("budget_spent", name, "all"): 2.0 if n in bad else 0.5 for name, bad in failed.items()}, {})
        for n in range(20)
    ]
    certain = Discrepancy("none", {})
    twin = counterfactual._Asked(configuration, base, base.calibration, certain, Stage(Players(1), FAR))
    remedy = twin._remedy(None, days, None)
    assert [slo.probability_held for slo in remedy.slos] == [0.9, 0.9]
    assert remedy.holds is holds


def test_a_trial_ends_after_two_lost_days_or_eight_held_ones() -> None:
    configuration, base = asked(hopeless())

    def after(*held: bool) -> bool | None:
        days = [Day(n, {"s": 0.5 if good else 2.0}, None, {}, {}) for n, good in enumerate(held)]
        return Candidate((), configuration, base, base, days).verdict

    assert after(True) is None
    assert after(False) is None
    assert after(False, False) is False
    assert after(*[True] * 7) is None
    assert after(*[True] * 8) is True
    assert after(False, *[True] * 10) is None
    assert after(False, *[True] * 11) is True


def test_a_day_is_given_up_only_when_it_is_lost() -> None:
    """Whether a day is held does not depend on whether it might have been given up."""
    _, base = asked(metastable())
    stage = Stage(Players(1), FAR)
    whole = stage.full_days([base], range(4))[0]
    stage.unchanged = whole
    cut = Candidate((), read_configuration(metastable()), base, base)
    stage.settle([cut])
    assert [day.held for day in cut.days] == [day.held for day in whole[: len(cut.days)]]
    assert any(day.lost_at is not None and day.lost_at < 35.0 for day in cut.days)


# ---- size ------------------------------------------------------------------------------------------------------------


def test_sizes_grow_outwards_and_are_nothing_for_today() -> None:
    for knob in knobs(read_configuration(metastable())):
        assert knob.size(knob.today) == 0.0
        for ladder in knob.ladders:
            sizes = [knob.size(value) for value in ladder]
            assert sizes == sorted(sizes), knob.name
            assert all(size >= 1.0 for size in sizes), knob.name


def test_a_pod_is_a_bigger_step_than_a_line_of_policy() -> None:
    by_name: dict[str, Knob] = {knob.name: knob for knob in knobs(read_configuration(metastable()))}
    assert by_name["retry limit"].size(1.0) < by_name["replicas"].size(2.0)
    assert by_name["circuit breaker"].today == OFF
    assert by_name["circuit breaker"].size(7.0) > 2.0  # a mechanism that was off


def test_no_knob_without_a_fault() -> None:
    assert knobs(read_configuration(scenario_of(setup_of(application(service("front")))))) == []
