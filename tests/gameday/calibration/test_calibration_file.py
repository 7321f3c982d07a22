"""A calibration travels as a file and forecasts the same as the window it is from."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import msgspec
import pytest
from foreign_app import RATE, answer, app_file, requests_csv, scraped

from gameday.calibration.command import CalibrateOptions, calibrated
from gameday.calibration.external import scenario_for
from gameday.calibration.file import SCHEMA, Posterior, calibration_for, read_file, to_file
from gameday.errors import BadInput
from scenarios.load import load_scenario
from scenarios.load.application import load_application
from scenarios.model import LoadSpec, Scenario, SloSpec
from sim.calibration.calibrate import calibrate
from sim.calibration.cold import cold_observation
from sim.calibration.cpu import CpuFit
from sim.calibration.outcome import Calibration
from sim.model.draws import Streams
from sim.model.parameters import CpuCosts
from sim.observation import Observation


def written(folder: Path) -> tuple[Path, Scenario]:
    """A file of the books application, counters and requests together; and a drill of it."""
    dump, path = folder / "dump.json", folder / "calibration.json"
    dump.write_bytes(answer(scraped().result()))
    sources = (str(dump), str(requests_csv(folder)))
    file = calibrated(CalibrateOptions(sources, app=app_file(folder)))
    path.write_bytes(msgspec.json.encode(file))
    app = load_application(app_file(folder))
    return path, _drill(scenario_for(app, Observation(0.0, 60.0, (), {}, {}, ())))


def _drill(scenario: Scenario) -> Scenario:
    slo = SloSpec("list", "store", "GET", "/list", 0.99, threshold=0.05)
    return replace(scenario, slos=(slo,), load=LoadSpec(RATE, {"read": 1.0}, 1_000, 10.0))


def test_a_runs_calibration_draws_the_same_from_its_file(tmp_path: Path) -> None:
    scenario = load_scenario("retry-storm")
    observation = cold_observation(scenario, 1)
    costs = CpuCosts(cores=2, background=0.1, proxy_inbound=0.0003)
    calibration = replace(calibrate(observation, scenario), cpu=CpuFit(costs, 0.2, 0.4, True))
    path = tmp_path / "calibration.json"
    path.write_bytes(msgspec.json.encode(to_file(calibration, scenario, "test", observation)))
    again, seen = calibration_for(read_file(path), scenario, path)
    assert again == calibration
    assert again.draw(Streams(1, 3)) == calibration.draw(Streams(1, 3))
    assert [s.good for s in seen.requests] == [s.good for s in observation.requests]


def test_all_that_a_forecast_draws_from_is_in_the_file() -> None:
    kept = set(Posterior.__struct_fields__) | {"declared_rate", "notes", "told_by"}
    assert {field.name for field in fields(Calibration)} == kept


def test_the_load_is_the_scenarios_and_as_well_known_as_the_windows(tmp_path: Path) -> None:
    path, scenario = written(tmp_path)
    double = replace(scenario, load=replace(scenario.load, rate=2 * RATE))
    calibration, _ = calibration_for(read_file(path), double, path)
    rates = [calibration.draw(Streams(1, n)).rate for n in range(100)]
    assert sum(rates) / len(rates) == pytest.approx(2 * RATE, rel=0.05)


def test_good_follows_the_scenarios_thresholds(tmp_path: Path) -> None:
    path, scenario = written(tmp_path)
    strict = replace(scenario, slos=(replace(scenario.slos[0], threshold=0.001),))
    _, loose_seen = calibration_for(read_file(path), scenario, path)
    _, strict_seen = calibration_for(read_file(path), strict, path)
    assert sum(s.good for s in loose_seen.requests) > 1_800
    assert not any(s.good for s in strict_seen.requests)


def test_a_calibration_of_another_application_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    with pytest.raises(BadInput, match="has no route of retail"):
        calibration_for(read_file(path), load_scenario("retry-storm"), path)


def test_a_route_that_the_file_lacks_keeps_its_declared_time_widely(tmp_path: Path) -> None:
    path, scenario = written(tmp_path)
    file = read_file(path)
    less = msgspec.structs.replace(
        file, posterior=msgspec.structs.replace(file.posterior, routes=file.posterior.routes[1:])
    )
    calibration, _ = calibration_for(less, scenario, path)
    assert calibration.routes["web", "GET /page"].count == 0
    assert any("not in the calibration" in note for note in calibration.notes)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'{"schema": "gameday.dev/calibration/v2"}', b"\xff\xfe", b'{"schema": 7}']
)
def test_a_file_that_is_none_is_refused(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(body)
    with pytest.raises(BadInput, match="--calibration"):
        read_file(path)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    path.write_bytes(path.read_bytes().replace(SCHEMA.encode(), b"gameday.dev/calibration/v9"))
    with pytest.raises(BadInput, match="calibrate again"):
        read_file(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_file(tmp_path / "none.json")
