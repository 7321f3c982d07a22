"""Whole runs, two at once: a short one from end to end, and a program that no one here wrote."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from jsonschema import Draft202012Validator

from gameday import ledger
from reports.cpu import FIRST_LOOK_SECONDS, start_costs
from reports.run import Run
from reports.store import RunStore
from tests.e2e.local.conftest import GAMEDAY, TINY, Running, Starter, processes_of

pytestmark = pytest.mark.e2e
SCHEMA = Path(__file__).parents[3] / "docs" / "report.schema.json"


@dataclass(frozen=True)
class Runs:
    """Two runs of different scenarios, played at the same time."""

    tiny: Running
    """Half of back's answers are errors."""
    foreign: Running
    """Back is somebody else's program; identity is away."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("runs")
    starter = Starter(folder)
    pair = Runs(start_tiny(starter), start_foreign(starter, folder))
    for run in (pair.tiny, pair.foreign):
        run.wait()
    yield pair
    starter.clean_up()


def start_tiny(start: Starter) -> Running:
    return start(TINY, name="tiny")


def start_foreign(start: Starter, folder: Path) -> Running:
    (folder / "wsgi.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '5')])\n"
        "    return [b'hello']\n"
    )
    (folder / "app.yaml").write_text(
        TINY.with_name("app.yaml")
        .read_text()
        .replace(
            "    back:\n      namespace: tiny\n",
            "    back:\n      namespace: tiny\n"
            f"      command: [sh, -c, 'cd {folder} && exec waitress-serve --listen=$HOST:$PORT wsgi:app']\n",
        )
    )
    scenario = (
        TINY.read_text()
        .replace("kind: app-degrade", "kind: control-plane-down")
        .replace("target: {app: back, replicas: 1}", "target: {component: identity}")
        .replace("      parameters: {errorRate: 50%, status: 503}\n", "")
        .replace("success_rate of visits during inject < 75%", "success_rate of visits during inject >= 99%")
    )
    (folder / "scenario.yaml").write_text(scenario)
    return start(folder / "scenario.yaml", "--seed", "2", name="foreign")


def test_a_run_forecasts_injects_measures_scores_and_reports(runs: Runs) -> None:
    run = runs.tiny
    assert run.process.returncode == 0, run.output()
    out = run.out
    assert processes_of(out) == []
    report = msgspec.json.decode((out / "report.json").read_bytes())
    Draft202012Validator(msgspec.json.decode(SCHEMA.read_bytes())).validate(report)
    assert report["verdict"]["outcome"] == "passed"

    forecast = report["forecast"]
    assert forecast["sealed_at"] < forecast["first_injection_at"]
    assert hashlib.sha256((out / "forecast.json").read_bytes()).hexdigest() == forecast["sha256"]
    assert report["score"]["coverage"] is not None
    assert report["load"]["dropped"] == 0
    by_quantity = {(p["quantity"], p["subject"], p["window"]): p for p in report["predictions"]}
    success = by_quantity["success_rate", "visits", "inject"]
    assert success["naive"] > 0.99
    assert 0.35 < success["measured"] < 0.65
    assert abs(success["median"] - 0.5) < 0.1

    for name in ("report.html", "report.md", "report.json", "junit.xml"):
        before = (out / name).read_bytes()
        (out / name).unlink()
        subprocess.run([*GAMEDAY, "report", str(out)], check=True, capture_output=True)
        assert (out / name).read_bytes() == before, name


def test_what_starting_takes_is_looked_at_before_anyone_is_served(runs: Runs) -> None:
    """The twin's restarts are made of it, so that requests must not be in it, and no process may be missing."""
    with RunStore(runs.tiny.out / "run.sqlite") as store:
        run = Run(store)
        costs = start_costs(run)
        first_request = next(iter(store.requests())).sent_at
    looks = [usage.at for usage in run.usage if usage.at <= run.usage[0].at + FIRST_LOOK_SECONDS]
    assert looks[-1] < first_request
    assert {"front/app", "front/proxy", "back/app", "back/proxy"} < costs.keys()
    assert {f"control/{component}" for component in ("identity", "destination", "policy")} < costs.keys()
    assert all(0.02 < seconds < 10.0 for seconds in costs.values()), costs


def test_two_runs_at_once_do_not_meet(runs: Runs) -> None:
    for run in (runs.tiny, runs.foreign):
        assert run.process.returncode == 0, run.output()
        assert processes_of(run.out) == []
    # Each had its own fault and nothing of the other's.
    assert 0.35 < measured(runs.tiny, "inject") < 0.65
    assert measured(runs.foreign, "inject") > 0.99


def test_runs_that_end_together_are_both_in_the_track_record(runs: Runs) -> None:
    folder = runs.tiny.out.parent
    records = ledger.read(folder / "runs" / "ledger.jsonl")
    assert records.notes == ()
    assert sorted(record.seed for record in records.records) == [1, 2]
    assert all(record.rows for record in records.records)
    shown = subprocess.run([*GAMEDAY, "accuracy"], capture_output=True, text=True, check=True, cwd=folder).stdout
    assert "2 runs" in shown
    assert "too few runs to tell" in shown


def test_the_baseline_of_a_run_calibrates_another_forecast(runs: Runs) -> None:
    folder, file = runs.tiny.out.parent, runs.tiny.out.parent / "calibration.json"
    table = command(folder, "calibrate", str(runs.tiny.out), "--out", str(file)).stdout
    assert "overhead of a hop" in table
    rate = len(msgspec.json.decode(file.read_bytes())["requests"]) / 5.0
    assert 15.0 < rate < 45.0
    found = command(folder, "forecast", str(TINY), "--calibration", str(file), "--json").stdout
    predictions = msgspec.json.decode(found.encode())["predictions"]
    (median,) = (
        p["median"]
        for p in predictions
        if (p["quantity"], p["subject"], p["window"]) == ("success_rate", "visits", "inject")
    )
    assert abs(median - 0.5) < 0.1


@pytest.mark.timeout(150)
def test_the_change_that_would_have_saved_the_slo_is_run_for_real(runs: Runs) -> None:
    """And what it was predicted to do stands beside what it did, whether they agree or not."""
    out = runs.tiny.out
    done = command(out.parent, "verify", str(out), "--plain", check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    best = msgspec.json.decode((out / "report.json").read_bytes())["counterfactuals"][0]
    assert best["holds"]
    verified = best["verification"]
    assert verified["state"] == "finished"
    assert verified["inside"] is (done.returncode == 0)
    success = next(row for row in verified["rows"] if row["quantity"] == "success_rate")
    before = measured(runs.tiny, "all")
    assert success["measured"] > before + 0.05  # half of the requests failed for 6 s of 15
    assert success["low"] > before
    assert verified["run"] in (out / "report.html").read_text()
    assert processes_of(out.with_name(verified["run"])) == []


def command(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*GAMEDAY, *arguments], capture_output=True, text=True, cwd=folder, check=check, timeout=140)


def test_a_third_party_server_is_meshed_unmodified(runs: Runs) -> None:
    run = runs.foreign
    assert run.process.returncode == 0, run.output()
    report = msgspec.json.decode((run.out / "report.json").read_bytes())
    assert report["slos"][0]["ratio"] > 0.99


def measured(run: Running, window: str) -> float:
    report = msgspec.json.decode((run.out / "report.json").read_bytes())
    rows = [p for p in report["predictions"] if (p["quantity"], p["window"]) == ("success_rate", window)]
    return float(rows[0]["measured"])
