"""The search for the smallest change, on systems whose answer is known on paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from sim_builders import application, fault, scenario_of, service, setup_of

from scenarios.model import IdentitySettings, Journey, JourneyStep, LoadSpec, Scenario, ServiceTime, SloSpec
from sim.calibration.calibrate import calibrate
from sim.calibration.cold import cold_observation
from sim.explain import causes as why
from sim.explain import counterfactual, trial
from sim.explain.counterfactual import UNCHANGED, explain
from sim.explain.explanation import Explanation, Remedy
from sim.explain.price import healthy, price
from sim.explain.search import Search
from sim.explain.trial import Candidate, Day, Stage
from sim.forecast.discrepancy import Discrepancy
from sim.forecast.predict import make_task
from sim.knobs.changes import knobs
from sim.knobs.configuration import Configuration, read_configuration
from sim.knobs.knob import OFF, Knob
from sim.replication.replicate import Players, Task
from sim.results import CounterfactualSlo

FAR = 1e12
"""A deadline that never comes."""


def metastable() -> Scenario:
    """λ = 20/s at a service of C = 50/s whose callers give a try 0.3 s and repeat it up to three times. Four seconds in
    which it is slow fill its queue; afterwards tries that time out are done all the same, and keep it full as long as
    λ(1+r) > C: for r = 3 and 2, and not for 1."""
    back = service("back", time=ServiceTime(0.1, 0.3, "lognormal"), workers=5, queue=60)
    front = service("front", calls=("back",))
    slow = fault("app-degrade", duration=4.0, service="back", replicas=1, parameters={"latencySeconds": 2.0})
    setup = setup_of(
        application(front, back),
        load=LoadSpec(20.0, {"all": 1.0}, 10_000, 4.0),
        faults=(slow,),
        slos=(SloSpec("front-success", "front", "GET", "/", 0.5),),
        inject_seconds=4.0,
        recover_seconds=31.0,
    )
    annotations = {
        "retry.linkerd.io/http": "5xx",
        "retry.linkerd.io/limit": "3",
        "retry.linkerd.io/timeout": "300ms",
        "timeout.linkerd.io/response": "300ms",
    }
    return scenario_of(setup, back=annotations)


def hopeless() -> Scenario:
    """Every request fails, whatever is done about it."""
    back = service("back", workers=4, queue=8)
    broken = fault("app-degrade", duration=4.0, service="back", replicas=1, parameters={"errorRate": 1.0})
    setup = setup_of(
        application(service("front", calls=("back",)), back),
        load=LoadSpec(6.0, {"all": 1.0}, 10_000, 3.0),
        faults=(broken,),
        slos=(SloSpec("front-success", "front", "GET", "/", 0.95),),
        inject_seconds=4.0,
        recover_seconds=1.0,
    )
    return scenario_of(setup)


def searched(scenario: Scenario, names: set[str]) -> Search:
    """A search over the knobs of those names."""
    configuration, base = asked(scenario)
    stage = Stage(Players(1), FAR)
    stage.unchanged = stage.full_days([base], range(4))[0]
    turnable = [knob for knob in knobs(configuration) if knob.name in names]
    search = Search(stage, configuration, base, lambda c: replace(base, setup=c.setup()), turnable)
    search.run()
    return search


def asked(scenario: Scenario) -> tuple[Configuration, Task]:
    seen = cold_observation(scenario, 1)
    configuration = read_configuration(scenario)
    return configuration, make_task(configuration.setup(), calibrate(seen, scenario), seen, 1, seen.ended_at + 15.0)


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
    slos = [
        CounterfactualSlo(
            name=name, budget_spent_low=0.0, budget_spent_median=0.5, budget_spent_high=2.0, probability_held=held
        )
        for name, held in (("front", 1.0), ("side", 0.0))
    ]
    remedy = Remedy(
        change=best.text, settings=(), size=best.size, slos=tuple(slos), holds=False, replications=5, price=None
    )
    words = counterfactual._found([remedy], search)
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


# ---- causes ----------------------------------------------------------------------------------------------------------


def test_the_storm_is_charged_to_retries_and_the_fault() -> None:
    _, base = asked(metastable())
    stage = Stage(Players(1), FAR)
    stage.unchanged = stage.full_days([base], range(5))[0]
    causes = {cause.mechanism: cause for cause in why.attribute(stage, base)}
    assert causes["the fault the-fault"].share > 0.95
    retries = causes["retries"]
    assert 0.4 < retries.share < 1.0
    assert retries.low <= retries.share <= retries.high
    assert causes["work for callers that have left"].share > 0.4, "the other half of the loop"
    assert abs(causes["time that handshakes take"].share) < 0.1
    assert "circuit breakers" not in causes  # there are none


def test_what_idle_clients_lose_without_identity_is_charged_to_leaves_that_expire() -> None:
    """One request in five seconds finds its destination forgotten, and its leaf expired some seconds after the start.
    Whether it is the leaf or the forgetting: either one would have saved it, so each takes nearly all with it."""
    front, back = service("front", calls=("back",)), service("back")
    setup = setup_of(
        application(front, back),
        load=LoadSpec(0.2, {"all": 1.0}, 100, 10.0),
        identity=IdentitySettings(leaf_lifetime=10.0, clock_skew=0.5, min_refresh=1.0),
        faults=(fault("cert-expiry", duration=60.0, component="identity"),),
        slos=(SloSpec("front-success", "front", "GET", "/", 0.9),),
        inject_seconds=60.0,
        recover_seconds=5.0,
    )
    _, base = asked(scenario_of(setup))
    stage = Stage(Players(1), FAR)
    stage.unchanged = stage.full_days([base], range(6))[0]
    causes = {cause.mechanism: cause.share for cause in why.attribute(stage, base)}
    assert causes["the fault the-fault"] > 0.95
    assert causes["leaves that expire"] > 0.95
    assert causes["discovery that is late, or forgets"] > 0.5
    assert abs(causes["bounded queues in apps"]) < 0.05
    assert "retries" not in causes


@pytest.mark.parametrize(
    ("days", "reach"),
    [
        (2, 6.31 * 0.096),
        (20, 1.729 * 0.096 / 19**0.5),  # the same residuals of 0.24 either way, ten times
    ],
)
def test_a_share_of_few_days_is_as_uncertain_as_students_t_has_it(days: int, reach: float) -> None:
    """Budgets of 2 and 3, without the mechanism 1 and 2.1, in turns: a share of 38 %, each day 0.24 off it."""
    spent = [(2.0, 1.0), (3.0, 2.1)] * (days // 2)
    with_it, without = ([Day(n, {"s": pair[side]}, None, {}, {}) for n, pair in enumerate(spent)] for side in (0, 1))
    cause = why._cause(why.Mechanism("retries", "mechanism", lambda task: task), "s", with_it, without)
    assert cause.share == pytest.approx(0.38)
    assert (cause.share - cause.low, cause.high - cause.share) == (
        pytest.approx(reach, 2e-3),
        pytest.approx(reach, 2e-3),
    )


def test_shapley_values_sum_to_what_all_mechanisms_add() -> None:
    players = ["a", "b", "c"]
    burn = {
        frozenset(off): value
        for off, value in [
            ((), 10.0), (("a",), 2.0), (("b",), 2.0), (("c",), 9.0),
            (("a", "b"), 1.5), (("a", "c"), 2.0), (("b", "c"), 1.0), (("a", "b", "c"), 1.0),
        ]
    }  # fmt: skip
    values = {name: sum(why._marginals(name, players, burn)) for name in players}
    assert sum(values.values()) == pytest.approx(10.0 - 1.0)
    assert values["a"] == pytest.approx(4.0, abs=0.5)  # a and b need each other: half each


def test_no_knob_without_a_fault() -> None:
    assert knobs(read_configuration(scenario_of(setup_of(application(service("front")))))) == []
