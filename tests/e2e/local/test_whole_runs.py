"""Whole runs: a short one from end to end, two at once, and a program that no one here wrote."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import msgspec
import pytest
from jsonschema import Draft202012Validator

from tests.e2e.local.conftest import GAMEDAY, TINY, Starter, processes_of

pytestmark = pytest.mark.e2e
SCHEMA = Path(__file__).parents[3] / "docs" / "report.schema.json"


def test_a_run_forecasts_injects_measures_scores_and_reports(start: Starter) -> None:
    run = start(TINY)
    assert run.wait() == 0, run.output()
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


def test_two_runs_at_once_do_not_meet(start: Starter) -> None:
    first = start(TINY, name="first")
    second = start(TINY, "--seed", "2", name="second")
    assert first.wait() == 0, first.output()
    assert second.wait() == 0, second.output()
    assert processes_of(first.out) == []
    assert processes_of(second.out) == []


def test_a_third_party_server_is_meshed_unmodified(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "wsgi.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '5')])\n"
        "    return [b'hello']\n"
    )
    (tmp_path / "app.yaml").write_text(
        TINY.with_name("app.yaml")
        .read_text()
        .replace(
            "    back:\n      namespace: tiny\n",
            "    back:\n      namespace: tiny\n"
            f"      command: [sh, -c, 'cd {tmp_path} && exec waitress-serve --listen=$HOST:$PORT wsgi:app']\n",
        )
    )
    scenario = (
        TINY.read_text()
        .replace("kind: app-degrade", "kind: control-plane-down")
        .replace("target: {app: back, replicas: 1}", "target: {component: identity}")
        .replace("      parameters: {errorRate: 50%, status: 503}\n", "")
        .replace("success_rate of visits during inject < 75%", "success_rate of visits during inject >= 99%")
    )
    (tmp_path / "scenario.yaml").write_text(scenario)
    run = start(tmp_path / "scenario.yaml")
    assert run.wait() == 0, run.output()
    report = msgspec.json.decode((run.out / "report.json").read_bytes())
    assert report["slos"][0]["ratio"] > 0.99
