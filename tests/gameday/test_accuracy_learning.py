"""`--learn`: what is written, what is said, and that no run is judged with what it taught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gameday.accuracy import evidence as evidence_module
from gameday.accuracy.evidence import Evidence, reforecast
from gameday.accuracy.learn import learn_discrepancy
from gameday.accuracy.suite import config_of
from gameday.errors import BadInput
from reports.run import Run
from reports.store import RunStore
from sim.forecast.discrepancy import CONFIG_DIGITS, Entry, Learned, load
from sim.scoring.score import Detail
from tests.reports.synthetic import SyntheticRun


def runs(count: int, sigma: float, part: str = "tuning") -> list[Evidence]:
    generator = np.random.default_rng(5)
    found = []
    for seed in range(count):
        rows = tuple(
            Detail(
                quantity="p95", subject=f"slo-{index}", window="inject", measured=0.2, low=0.1, median=0.19, high=0.3,
                inside=(True, True, True), pit=(0.5, 0.51), width=1.0, interval=1.0, crps=0.05,
                error=float(generator.normal(0, sigma)), spread=0.06, discrepancy=0.06,
            )
            for index in range(5)
        )  # fmt: skip
        found.append(
            Evidence(
                name="kill", config=f"{seed:016d}" + "0" * 48, seed=seed, family="killed", kinds="pod-kill", part=part,
                control=False, load="60/s", sealed=True, rows=rows, limits=(), discrepancy="", compute_seconds=4.0,
                replications=100,
            )
        )  # fmt: skip
    return found


def test_the_file_names_its_runs_and_held_out_ones_teach_nothing(tmp_path: Path) -> None:
    path, said = tmp_path / "discrepancy.json", []
    learn_discrepancy([*runs(12, 0.2), *runs(12, 5.0, "held-out")], path, "local", said.append)
    learned = load(path)
    assert learned is not None
    assert len(learned.runs) == 12
    assert learned.knows(f"{3:016d}" + "0" * 48)
    by_family = {entry.family: entry.sigma for entry in learned.entries}
    assert set(by_family) == {"", "pod-kill"}
    assert by_family["pod-kill"] == pytest.approx(0.18, abs=0.05)
    check = next(line for line in said if line.strip().startswith("p95"))
    after, before = check.split("|")
    assert int(after.split("/")[2].split()[0]) > 80 > int(before.split("/")[2].split()[0])


def test_it_is_checked_on_held_out_runs_and_says_where_it_does_not_serve_them(tmp_path: Path) -> None:
    said: list[str] = []
    learn_discrepancy([*runs(12, 0.2), *runs(12, 5.0, "held-out")], tmp_path / "d.json", "local", said.append)
    heading = next(index for index, line in enumerate(said) if line.startswith("held-out runs"))
    assert int(said[heading + 1].split("/")[2].split()[0]) < 20


def test_too_few_runs_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="3 tuning runs"):
        learn_discrepancy(runs(3, 0.2), tmp_path / "discrepancy.json", "local", print)
    assert not (tmp_path / "discrepancy.json").exists()


@pytest.mark.parametrize("taught", [True, False])
def test_a_run_is_never_forecast_with_what_it_taught(
    tmp_path: Path, taught: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Learned | None] = []
    monkeypatch.setattr(evidence_module, "make_forecast", lambda *a, learned, **more: used.append(learned))
    with RunStore(SyntheticRun().write(tmp_path / "run.sqlite")) as store:
        scenario = Run(store).scenario
        assert scenario is not None
        sealed = evidence_module.sealed_forecast(store)
        config = config_of(scenario, sealed.world, sealed.seed) if taught else "f" * 64
        entry = Entry(family="", quantity="p95", window="all", sigma=0.2, runs=9, quantities=9)
        terms = Learned(
            learned_at="2026-11-28", machine="m", world="local", runs=(f"r {config[:CONFIG_DIGITS]}",), entries=(entry,)
        )
        reforecast(store, learned=terms)
    assert used == [None if taught else terms]
