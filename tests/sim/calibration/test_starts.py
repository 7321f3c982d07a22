"""What processes take to start: read from the run's own start, and drawn for each replication."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sim_builders import application, scenario_of, service, setup_of

from sim.calibration.calibrate import calibrate
from sim.calibration.identifiability import findings
from sim.calibration.outcome import Calibration
from sim.calibration.starts import CONTROL_RESTART_FACTOR, POD_RESTART_FACTOR
from sim.model.draws import Streams
from sim.observation import Observation

SEEN = {"front/app": 0.3, "front/proxy": 0.4, "control/identity": 0.5}


def calibrated(**changes: object) -> Calibration:
    window = replace(Observation(0.0, 20.0, (), {}, {}, ()), **changes)  # type: ignore[arg-type]
    return calibrate(window, scenario_of(setup_of(application(service("front")))))


@pytest.mark.parametrize(
    ("process", "work"),
    [
        ("front/app", 0.3 * POD_RESTART_FACTOR),
        ("front/proxy", 0.4 * POD_RESTART_FACTOR),
        ("control/identity", 0.5 * CONTROL_RESTART_FACTOR),
    ],
)
def test_each_process_takes_about_what_it_took_when_the_world_started(process: str, work: float) -> None:
    calibration = calibrated(starts=SEEN)
    drawn = [calibration.draw(Streams(1, replication)).start_work(process) for replication in range(300)]
    assert float(np.median(drawn)) == pytest.approx(work, rel=0.03)
    assert float(np.std(np.log(drawn))) == pytest.approx(0.12, abs=0.02)
    assert calibration.best().start_work(process) == pytest.approx(work)


def test_one_replication_is_slow_or_fast_for_all() -> None:
    parameters = calibrated(starts=SEEN).draw(Streams(1, 7))
    assert parameters.start_work("front/app") / 0.3 == pytest.approx(parameters.start_work("front/proxy") / 0.4)


def test_what_was_not_seen_is_typical_and_wider() -> None:
    calibration = calibrated(starts={"front/app": 0.3})
    proxies = [calibration.draw(Streams(1, replication)).start_work("front/proxy") for replication in range(300)]
    assert float(np.median(proxies)) == pytest.approx(calibration.delays.proxy_work, rel=0.05)
    assert float(np.std(np.log(proxies))) > 0.2
    rows = {row.parameter: row for row in findings(calibration)}
    assert rows["CPU to start an app"].told_by == "the first start of front/app"
    assert rows["CPU to start an app"].estimate == pytest.approx(0.3 * POD_RESTART_FACTOR, rel=0.05)
    assert not rows["CPU to start a proxy"].told
    assert not rows["CPU to start a control-plane component"].told


def test_where_a_start_is_only_seen_as_a_whole_its_cpu_is_in_it_already() -> None:
    """A kubelet's pod: seconds, of which the forecast's machine knows nothing."""
    calibration = calibrated(starts=SEEN, world="kind")
    assert calibration.draw(Streams(1, 0)).start_work("front/app") == 0.0
