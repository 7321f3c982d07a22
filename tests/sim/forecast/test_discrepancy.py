"""Which discrepancy a forecast uses, and that it says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sim_builders import application, fault, service, setup_of

from sim.calibration.calibrate import Calibration
from sim.forecast.discrepancy import (
    SHIPPED,
    WINDOWS,
    Discrepancy,
    Entry,
    Learned,
    choose,
    constants,
    load,
    read_statement,
    with_discrepancy,
)
from sim.model.distributions import LogNormal, WithStalls
from sim.model.setup import Setup
from sim.replication.replicate import Outcome

CALIBRATION = Calibration(
    routes={}, overhead=WithStalls(LogNormal(0.003, 0.3), 0.0, 0.01), client_overhead=LogNormal(0.001, 0.3), drift=0.1,
    arrivals=100, seconds=10.0, declared_rate=10.0, bad=0, total=100, expected_bad=0.0,
    residual={"p50": 0.03, "p95": 0.06, "p99": 0.12},
)  # fmt: skip


def setup(kind: str = "pod-kill") -> Setup:
    return setup_of(application(service("front")), faults=(fault(kind, service="front"),))


def entry(family: str, sigma: float, quantity: str = "p95", window: str = "inject") -> Entry:
    return Entry(family=family, quantity=quantity, window=window, sigma=sigma, runs=9, quantities=30)


def learned(*entries: Entry) -> Learned:
    return Learned(
        learned_at="2026-11-28", machine="m", world="local", runs=("kill-60ps-1 0123456789abcdef",), entries=entries
    )


def test_without_past_runs_the_baseline_decides() -> None:
    found = choose(CALIBRATION, setup(), "local", None)
    assert found == constants(CALIBRATION)
    assert found.statement().startswith("constants: p50 0.03, p95 0.06, p99 0.12, attempts_per_request 0, success")
    assert found.statement().endswith(", success_rate 0.1")


def test_tries_are_spread_by_what_was_learned_and_by_nothing_else() -> None:
    assert constants(CALIBRATION).sigma("attempts_per_request", "inject") == 0.0
    terms = learned(entry("", 0.3, "attempts_per_request"))
    assert choose(CALIBRATION, setup(), "local", terms).sigma("attempts_per_request", "inject") == 0.3


def test_past_runs_of_the_same_faults_come_before_all_past_runs_and_these_before_the_baseline() -> None:
    terms = learned(entry("pod-kill", 0.2), entry("", 0.3), entry("", 0.4, "p50"))
    found = choose(CALIBRATION, setup("pod-kill"), "local", terms)
    assert found.sigma("p95", "inject") == 0.2
    assert found.sigma("p50", "inject") == 0.4
    assert found.sigma("p99", "inject") == 0.12
    assert choose(CALIBRATION, setup("app-degrade"), "local", terms).sigma("p95", "inject") == 0.3
    assert found.statement().startswith(
        "learned 2026-11-28 from 1 runs, for pod-kill: p50 inject 0.4, p50 recover 0.03"
    )


def test_what_was_learned_in_one_world_is_not_used_in_another() -> None:
    assert choose(CALIBRATION, setup(), "kind", learned(entry("", 0.3))).name == "constants"


def test_what_this_baseline_shows_beyond_the_floor_is_not_narrowed_by_quiet_runs_of_the_past() -> None:
    terms = learned(entry("", 0.01), entry("", 0.01, "p50"), entry("", 0.5, "p99"))
    thin = replace(CALIBRATION, residual={"p50": 0.03, "p95": 0.35, "p99": 0.35})
    found = choose(thin, setup(), "local", terms)
    assert [found.sigma(quantity, "inject") for quantity in ("p50", "p95", "p99")] == [0.01, 0.35, 0.5]


def test_a_statement_can_be_read_again() -> None:
    found = choose(CALIBRATION, setup(), "local", learned(entry("", 0.3)))
    assert read_statement(found.statement()) == pytest.approx(dict(found.sigmas), rel=1e-3)
    assert read_statement("") == {}


def test_a_run_is_known_by_its_configuration() -> None:
    assert learned().knows("0123456789abcdef" + "7" * 48)
    assert not learned().knows("1123456789abcdef" + "7" * 48)


def test_the_spread_of_many_replications_is_the_sigma() -> None:
    sigmas = {("p95", "inject"): 0.2, ("success_rate", "inject"): 0.3, ("attempts_per_request", "inject"): 0.05}
    terms = Discrepancy("test", sigmas)
    values = {
        ("p95", "slo", "inject"): 0.1,
        ("success_rate", "slo", "inject"): 0.9,
        ("attempts_per_request", "front", "inject"): 1.5,
        ("p50", "slo", "inject"): 0.05,
    }
    base = replace(setup(), slos=())
    drawn = [
        with_discrepancy(Outcome(replication=index, values=values, fans={}, stopped_at=None), base, terms, 3)[0]
        for index in range(3_000)
    ]
    logs = np.log([found["p95", "slo", "inject"] for found in drawn])
    assert (logs.mean(), logs.std()) == (pytest.approx(np.log(0.1), abs=0.02), pytest.approx(0.2, rel=0.05))
    shares = np.asarray([found["success_rate", "slo", "inject"] for found in drawn])
    assert np.log(shares / (1 - shares)).std() == pytest.approx(0.3, rel=0.05)
    assert {found["p50", "slo", "inject"] for found in drawn} == {0.05}


def test_the_shipped_file_if_there_is_one_is_sound(tmp_path: Path) -> None:
    assert load(tmp_path / "none.json") is None
    shipped = load(SHIPPED)
    if shipped is None:
        return
    assert shipped.runs
    for found in shipped.entries:
        assert found.window in WINDOWS
        assert 0.0 <= found.sigma < 2.0
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(msgspec.DecodeError):
        load(tmp_path / "broken.json")
