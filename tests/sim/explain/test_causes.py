"""Which mechanism burned the budget, on systems whose answer is known on paper."""

from __future__ import annotations

import pytest
from explain_cases import FAR, asked, metastable
from sim_builders import application, fault, scenario_of, service, setup_of

from scenarios.model import IdentitySettings, LoadSpec, SloSpec
from sim.explain import causes as why
from sim.explain.trial import Day, Stage
from sim.replication.replicate import Players


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
