"""Calibration finds what made a synthetic baseline."""

from __future__ import annotations

from dataclasses import replace
from math import log
from statistics import correlation, median, quantiles, stdev

import pytest
from sim_builders import application, scenario_of, service, setup_of

from scenarios.model import LoadSpec, Scenario, ServiceTime, SloSpec
from sim.calibration import cold
from sim.calibration.calibrate import Calibration, calibrate, failures
from sim.calibration.cold import cold_observation
from sim.calibration.noise import MACHINE_DRIFT
from sim.calibration.proxied import TYPICAL
from sim.model.distributions import LogNormal, WithStalls
from sim.model.draws import Streams
from sim.model.setup import Setup, read_setup
from sim.model.system import WARM_UP_SECONDS, System
from sim.observation import ClientSample, CpuWindow, Observation, ProcessCpu, RouteTimes

DECLARED = ServiceTime(0.004, 0.4)


def shop(rate: float = 50.0) -> Scenario:
    front = service("front", calls=("back",), time=ServiceTime(0.002, 0.3), workers=50)
    back = service("back", time=DECLARED, workers=50, replicas=2)
    slos = (SloSpec("all", "front", "GET", "/", 0.99, threshold=0.25),)
    setup = setup_of(application(front, back), load=LoadSpec(rate, {"all": 1.0}, 1000, 10.0), slos=slos)
    return scenario_of(setup)


@pytest.mark.parametrize(
    "truth",
    [
        WithStalls(LogNormal(0.002, 0.4), 0.0, 0.0),
        WithStalls(LogNormal(0.004, 0.3), 0.004, 0.03),
        WithStalls(LogNormal(0.001, 0.7), 0.0, 0.0),
    ],
)
def test_overhead_of_a_hop_is_recovered(truth: WithStalls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "TYPICAL_OVERHEAD", truth)
    scenario = shop()
    found = calibrate(cold_observation(scenario, 3), scenario).overhead
    assert found.body.median == pytest.approx(truth.body.median, rel=0.15)
    assert found.body.sigma == pytest.approx(truth.body.sigma, rel=0.3)
    if truth.share:
        assert found.share * found.stall_mean == pytest.approx(truth.share * truth.stall_mean, rel=0.8)
    else:
        assert found.share * found.stall_mean < 0.0002


def test_asking_for_a_forgotten_destination_takes_as_long_as_in_reality(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 ms more than a request that need not ask, on a machine with hops of 0.83 ms."""
    monkeypatch.setattr(cold, "TYPICAL_OVERHEAD", WithStalls(LogNormal(0.00083, 0.3), 0.0, 0.0))
    scenario = shop()
    found = replace(calibrate(cold_observation(scenario, 3), scenario), cpu=None)
    drawn = [found.draw(Streams(1, number)) for number in range(200)]
    assert median(one.discovery.median + one.handshake.median for one in drawn) == pytest.approx(0.016, rel=0.25)


def test_cpu_that_takes_longer_than_the_hop_did_lies_behind_the_request_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hop of 0.3 ms whose processes used 0.6 ms: the twin's healthy medians are the measured ones all the same."""
    monkeypatch.setattr(cold, "TYPICAL_OVERHEAD", WithStalls(LogNormal(0.0003, 0.3), 0.0, 0.0))
    scenario = shop()
    seen = with_cpu(cold_observation(scenario, 1), 0.0006)
    found = calibrate(seen, scenario)
    assert found.cpu is not None
    assert 0.2 <= found.cpu.costs.ahead < 0.7
    played = baseline_as_played(found, read_setup(scenario))
    assert median(played) == pytest.approx(median(r.latency for r in seen.requests if r.latency is not None), rel=0.04)
    unhurried = replace(found, cpu=replace(found.cpu, costs=replace(found.cpu.costs, ahead=1.0)))
    assert median(baseline_as_played(unhurried, read_setup(scenario))) > 1.04 * median(played)


def test_hops_that_differ_keep_their_spread_beside_cpu_costs_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hops of 0.4 to 2.8 ms (80 %) whose processes used 0.9 ms each: as CPU alone they would all take the same."""
    monkeypatch.setattr(cold, "TYPICAL_OVERHEAD", WithStalls(LogNormal(0.001, 0.8), 0.0, 0.0))
    scenario = shop()
    seen = with_cpu(cold_observation(scenario, 1), 0.0009)
    measured = quantiles([r.latency for r in seen.requests if r.latency is not None], n=20)
    played = quantiles(baseline_as_played(calibrate(seen, scenario), read_setup(scenario)), n=20)
    assert [played[i] / measured[i] for i in (1, 9, 17)] == pytest.approx([1.0, 1.0, 1.0], abs=0.05)


def with_cpu(seen: Observation, hop: float) -> Observation:
    """The same window, in which each hop cost its two proxies so many CPU seconds."""
    count = float(len(seen.requests))
    half = hop / 2 * count
    cpu = CpuWindow(
        cores=1.0,
        seconds=seen.ended_at - seen.started_at,
        processes=(
            ProcessCpu("load/proxy", "proxy", half, outbound=count),
            ProcessCpu("front/proxy", "proxy", 2 * half, inbound=count, outbound=count),
            ProcessCpu("back/proxy", "proxy", half, inbound=count),
        ),
    )
    return replace(seen, cpu=cpu)


def baseline_as_played(calibration: Calibration, setup: Setup) -> list[float]:
    quiet = replace(setup, faults=(), inject_seconds=40.0, recover_seconds=0.0)
    record = System(quiet, calibration.best(), Streams(5, 0), start=-WARM_UP_SECONDS).run()
    return [
        latency
        for at, latency in zip(record.intended_at, record.latency, strict=True)
        if at >= 0 and latency is not None
    ]


def test_rate_and_self_times_are_recovered() -> None:
    scenario = shop()
    scenario = replace(scenario, app=scenario.app)
    calibration = calibrate(cold_observation(scenario, 1), scenario)
    assert calibration.best().rate == pytest.approx(50.0, rel=0.1)
    back = calibration.routes["back", "GET /"].distribution
    assert isinstance(back, LogNormal)
    assert back.median == pytest.approx(0.004, rel=0.05)
    assert back.sigma == pytest.approx(0.4, rel=0.1)


def test_draws_differ_and_surround_the_centre() -> None:
    scenario = shop()
    calibration = calibrate(cold_observation(scenario, 1), scenario)
    drawn = [calibration.draw(Streams(1, replication)) for replication in range(60)]
    rates = [parameters.rate for parameters in drawn]
    assert len(set(rates)) == 60
    assert min(rates) < calibration.best().rate < max(rates)
    assert calibration.draw(Streams(1, 7)) == drawn[7]


def test_draws_are_of_machines_that_drifted_each_in_all_that_it_computes() -> None:
    scenario = shop()
    calibration = calibrate(with_cpu(cold_observation(scenario, 1), 0.0006), scenario)
    drawn = [replace(calibration, overhead_points=()).draw(Streams(1, replication)) for replication in range(200)]
    hops = [d.overhead.body.median for d in drawn if isinstance(d.overhead, WithStalls)]
    client = [d.client_overhead.median for d in drawn if isinstance(d.client_overhead, LogNormal)]
    cpu = [d.cpu.proxy_inbound for d in drawn if d.cpu is not None]
    paces = [log(median / calibration.overhead.body.median) for median in hops]
    assert stdev(paces) == pytest.approx(MACHINE_DRIFT, rel=0.1)
    assert [log(median / calibration.client_overhead.median) for median in client] == pytest.approx(paces)
    assert correlation(paces, [log(cost) for cost in cpu]) > 0.6


def test_of_a_program_that_calls_others_their_part_is_subtracted() -> None:
    scenario = shop()
    front, back = scenario.app.services
    foreign = replace(scenario, app=replace(scenario.app, services=(replace(front, command=("serve",)), back)))
    seen = cold_observation(scenario, 1)
    observation = replace(
        seen,
        route_times={key: times for key, times in seen.route_times.items() if key[0] == "back"},
        proxy_latency={"back": RouteTimes(1_000, 0.008), "front": RouteTimes(1_000, 0.03)},
    )
    calibration = calibrate(observation, foreign)
    mean = 0.03 - 0.008 - TYPICAL.mean
    assert calibration.routes["front", "GET /"].distribution.mean == pytest.approx(mean, rel=0.1)
    assert calibration.told_by["front", "GET /"] == "proxies, calls subtracted"
    assert calibration.told_by["back", "GET /"] == "the app's own histogram"
    assert set(calibration.workers) == {"front"}


def test_an_empty_baseline_widens_instead_of_guessing() -> None:
    scenario = shop()
    empty = Observation(0.0, 20.0, (), {}, {}, ())
    calibration = calibrate(empty, scenario)
    seen = calibrate(cold_observation(scenario, 1), scenario)
    assert calibration.drift > 2 * seen.drift
    assert calibration.residual["p50"] > 2 * seen.residual["p50"]
    assert any("declared" in note for note in calibration.notes)


def test_a_clock_that_jumps_in_the_baseline_widens_and_leaves_the_rate() -> None:
    scenario = shop()
    seen = cold_observation(scenario, 1)
    middle = (seen.started_at + seen.ended_at) / 2
    moved = tuple(replace(s, intended_at=s.intended_at + 300.0 * (s.intended_at > middle)) for s in seen.requests)
    usual, jumped = (
        calibrate(o, scenario) for o in (seen, replace(seen, requests=moved, ended_at=seen.ended_at + 300.0))
    )
    assert any("clock jumped" in note for note in jumped.notes)
    assert jumped.best().rate == pytest.approx(usual.best().rate, rel=0.02)
    assert jumped.drift > 2 * usual.drift
    assert jumped.residual["p50"] > 2 * usual.residual["p50"]


def test_one_request_is_not_enough_to_fit_an_overhead() -> None:
    scenario = shop()
    one = Observation(0.0, 20.0, (ClientSample("GET front /", 1.0, 0.01, True),), {}, {}, ())
    assert any("overhead" in note for note in calibrate(one, scenario).notes)


def test_slow_is_not_failed() -> None:
    slos = (SloSpec("fast", "front", "GET", "/", 0.99, threshold=0.1),)
    samples = (
        ClientSample("GET front /", 0.0, 0.05, True),
        ClientSample("GET front /", 0.0, 0.05, False),
        ClientSample("GET front /", 0.0, 0.5, False),
        ClientSample("GET front /", 0.0, None, False),
    )
    assert failures(samples, slos) == [False, True, False, True]


def test_a_program_that_counts_nothing_is_known_from_the_proxy_beside_it() -> None:
    scenario = shop()
    front, back = scenario.app.services
    program = replace(back, command=("their-server",))
    scenario = replace(scenario, app=replace(scenario.app, services=(front, program)))
    seen = cold_observation(scenario, 1)
    own = {key: times for key, times in seen.route_times.items() if key[0] != "back"}
    calibration = calibrate(replace(seen, route_times=own, proxy_latency={"back": RouteTimes(900, 0.011)}), scenario)
    assert calibration.routes["back", "GET /"].distribution.mean == pytest.approx(0.011, rel=0.05)
    assert not any("back" in note for note in calibration.notes)
    unseen = calibrate(replace(seen, route_times=own), scenario)
    assert any("back GET /: not called" in note for note in unseen.notes)
