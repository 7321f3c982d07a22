"""Pages, recovery and metastability of known courses; M1-M5 of a record; a run's reading of the same requests."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_builders import (
    application,
    exponential,
    fault,
    in_slots,
    parameters_of,
    played,
    rules_of,
    scenario_of,
    service,
    setup_of,
)

from mesh.api.messages import RetrySpec
from mesh.proxy.metrics import LATENCY_BUCKETS_MS
from reports.measure import measure
from reports.run import scenario_to
from reports.store import Event, Request, RunStore
from scenarios.model import LoadSpec, ServiceTime, SloSpec
from scenarios.slo import BurnMeter
from sim.model.record import SLOT_SECONDS, BySlot, Record, Tally
from sim.model.setup import Setup
from sim.replication.course import METASTABLE, PAGE_TIMES, PAGED, PEAK, RECOVER, nothing_changes, planned, read_course
from sim.replication.mesh_figures import FIGURES, between, bucketed_quantile, mesh_figures
from sim.replication.quantities import quantities

SLO = SloSpec("all", None, None, None, 0.99)
PLAN = (5.0, 15.0)
END = 40.0


def course(bad: range, *, slo: SloSpec = SLO, timeout: float = 10.0) -> dict[tuple[str, str], float]:
    """Of a hundred requests a second, all of them bad in these seconds."""
    meter = BurnMeter(slo.objective, -10)
    for second in range(-10, 40):
        meter.push(second, 0 if second in bad else 100, 100)
    return read_course(meter, slo, PLAN, (5.02, 15.03), END, timeout)


def test_an_outage_pages_within_its_first_second_and_is_over_with_its_cause() -> None:
    found = course(range(5, 15))
    assert {found[name, "all"] for name in PAGE_TIMES.values()} == {1.0}  # 20 % bad over five seconds: 20 budgets
    assert found[PAGED, "all"] == 1.0
    assert found[PEAK, "all"] == pytest.approx(100.0)
    assert found[RECOVER, "recover"] == 1.0  # the first whole second after the revert
    assert found[METASTABLE, "recover"] == 0.0


def test_what_never_comes_is_written_as_the_time_there_was() -> None:
    calm = course(range(0))
    assert {calm[name, "all"] for name in PAGE_TIMES.values()} == {END - PLAN[0]}
    assert (calm[PAGED, "all"], calm[PEAK, "all"]) == (0.0, 0.0)
    calm.pop((PEAK, "all"))  # the baseline's own, which is not always none
    assert calm == nothing_changes(SLO, PLAN, END)
    stuck = course(range(5, 40))
    assert stuck[RECOVER, "recover"] == END - PLAN[1]
    assert stuck[METASTABLE, "recover"] == 1.0


def test_metastability_is_not_told_while_requests_of_the_fault_may_live_or_of_what_is_merely_slow() -> None:
    assert (METASTABLE, "recover") not in course(range(5, 40), timeout=30.0)
    assert (METASTABLE, "recover") not in course(range(5, 40), slo=replace(SLO, threshold=0.2))


def test_nothing_is_planned_without_faults() -> None:
    assert planned(()) is None
    late = fault("pod-kill", at=8.0, duration=3.0)
    assert planned((fault("pod-kill", at=2.0, duration=4.0), late)) == (2.0, 11.0)


@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_bucketed_quantile_lies_in_the_bucket_of_the_true_one(latencies: list[float], share: float) -> None:
    found = bucketed_quantile(np.asarray(latencies), share)
    true = float(np.quantile(np.asarray(latencies), share, method="inverted_cdf")) * 1_000.0
    bounds = [0.0, *LATENCY_BUCKETS_MS]
    below, above = ([b for b in bounds if b < true] or [0.0])[-1], [b for b in bounds[1:] if b >= true]
    assert found is not None
    assert below - 1e-6 <= found * 1_000.0 <= (above[0] if above else bounds[-1]) + 1e-6


def test_the_meshs_figures_are_those_of_its_counters() -> None:
    app = application(service("front", calls=("back",)), service("back", failure_rate=0.5))
    retry = RetrySpec(statuses=((500, 599),), limit=1)
    rules = {s.authority: rules_of(s, retry=retry if s.name == "back" else None) for s in app.services}
    setup = setup_of(app, rules=rules, load=LoadSpec(200.0, {"all": 1.0}, 10**6, 10.0), inject_seconds=30.0)
    figures = mesh_figures(played(setup), 0.0, 30.0)
    # Half of the calls are retried once, a quarter fails; each failure fails the front, too.
    assert figures["M4"] == pytest.approx(0.5 / 2, abs=0.02)
    assert figures["M1"] == pytest.approx(1.0 - 2 * 0.25 / 2, abs=0.02)
    assert figures["M5"] == pytest.approx(200.0 * 2.5, rel=0.03)
    assert figures["M3"] == 0.0


def test_counters_of_a_window_are_those_of_the_scrapes_before_its_edges() -> None:
    by_slot = {0: 10, 1: 20, 2: 30, 9: 7}
    width = SLOT_SECONDS
    assert between(by_slot, 0.0, 3.0 * width) == 60.0
    assert between(by_slot, -0.25 * width, 2.75 * width) == 10.0 + 20.0 + 0.75 * 30.0
    assert between(by_slot, 0.5 * width, 2.5 * width) == 5.0 + 20.0 + 15.0
    assert between(by_slot, 1.25 * width, 1.5 * width) == 5.0


def test_a_windows_edge_within_a_second_cuts_what_came_then_where_it_came() -> None:
    """A burst in the tenth of a second after the edge, and nothing else in that second."""
    tally = Tally(by_slot := {})
    for at in (1.0, 4.51, 4.52, 4.55, 4.59, 6.0):
        tally.add(at)
    tally.settle()
    assert between(by_slot, 0.0, 4.5) == 1.0
    assert between(by_slot, 4.5, 5.0) == 4.0


def test_the_wait_for_an_endpoint_is_no_part_of_the_latency_where_load_enters() -> None:
    """Its one pod is away for two seconds: whoever came then is answered late, but not by a slow pod."""
    setup = setup_of(
        application(service("front", time=ServiceTime(0.02, 0.0, "constant"))),
        faults=(fault("pod-kill", at=1.0, service="front", replicas=1),),
        load=LoadSpec(50.0, {"all": 1.0}, 10**6, 10.0),
        inject_seconds=10.0,
    )
    record = played(setup)
    waited = [latency for at, latency in zip(record.intended_at, record.latency, strict=True) if 1.1 < at < 2.5]
    assert min(late for late in waited if late is not None) > 0.4
    assert max(seconds for at, seconds in record.entered if 1.1 < at < 10.0) == pytest.approx(0.02)
    assert mesh_figures(record, 0.0, 10.0)["M2"] == pytest.approx(0.02, abs=0.01)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_with_the_twins_requests_is_measured_as_the_twin_counts_them(tmp_path: Path, seed: int) -> None:
    app = application(service("front", calls=("back",)), service("back"))
    hurt = fault("app-degrade", at=3.0, duration=9.0, service="back", replicas=2, parameters={"errorRate": 0.6})
    slos = (SLO, SloSpec("fast", "front", "GET", "/", 0.9, 0.02))
    retry = RetrySpec(statuses=((500, 599),), limit=1)
    rules = {s.authority: rules_of(s, retry=retry if s.name == "back" else None) for s in app.services}
    setup = setup_of(app, faults=(hurt,), slos=slos, rules=rules, load=LoadSpec(60.0, {"all": 1.0}, 10**6, 4.0))
    record = played(setup, parameters_of(60.0, times={("front", "GET /"): exponential(0.008)}), seed=seed)
    record.refused.update(in_slots({4: 3, 11: 2}))  # nothing breaks handshakes in this application
    twin = quantities(record, setup)
    assert twin[PAGED, "all", "all"] == 1.0
    with RunStore(_stored(tmp_path / "run.sqlite", record, setup)) as store:
        windows = store.meta()["windows"]
        measured = measure(store, scenario_of(setup), windows)
    assert {key[0] for key in twin} >= {
        PAGED, RECOVER, PEAK, METASTABLE, "success_rate", "budget_spent", "p50", "p95", "p99", "attempts_per_request",
        *PAGE_TIMES.values(), *FIGURES,
    }  # fmt: skip
    assert twin["M4", "", "inject"] > 0.1
    assert twin["M3", "", "all"] == 5.0
    for key in twin:
        assert measured[key] == pytest.approx(twin[key], rel=1e-6, abs=1e-6), (
            key
        )  # Unix times have a quarter of a microsecond


def _stored(path: Path, record: Record, setup: Setup) -> Path:
    begin = 1_795_000_000.0
    before = min(record.intended_at)
    with RunStore(path, create=True) as store:
        store.set_meta(
            scenario=scenario_to(scenario_of(setup)),
            state="finished",
            windows={
                "baseline": [begin + int(before) - 1, begin],
                "inject": [begin, begin + setup.inject_seconds],
                "recover": [begin + setup.inject_seconds, begin + setup.end],
            },
        )
        data = {"fault": "the-fault"}
        store.add_event(Event(begin + 3.01, "chaos", "inject", "in", data))
        store.add_event(Event(begin + 12.01, "chaos", "revert", "out", data))
        rows = zip(record.route, record.intended_at, record.latency, record.status, strict=True)
        store.add_requests(
            [
                Request(route, "all", begin + at, begin + at, begin + at + latency, status)
                if latency is not None
                else Request(route, "all", begin + at, begin + at, None, None, "timeout")
                for route, at, latency, status in sorted(rows, key=lambda row: row[1])
            ]
        )
        _scrape(store, record, begin, setup)
    return path


def _in(second: int, counts: BySlot) -> int:
    return round(between(counts, second, second + 1.0))


def _scrape(store: RunStore, record: Record, begin: float, setup: Setup) -> None:
    """The record's counters as proxies show them, once a second; each holds what came before."""
    seconds = range(math.floor(min(record.intended_at)) - 1, math.ceil(setup.end) + 1)
    latencies: dict[int, list[float]] = defaultdict(list)
    for at, took in record.entered:
        latencies[math.floor(at)].append(took * 1_000.0)
    bounds = [*LATENCY_BUCKETS_MS, math.inf]
    total: Counter[tuple[str, str, str]] = Counter()
    client = "loadgen-0/proxy"
    for second in seconds:
        failed = _in(second, record.failed)
        for name, by_slot in record.meant.items():
            meant = _in(second, by_slot)
            bad = min(meant, failed)
            failed -= bad
            statuses = "outbound_http_route_request_statuses_total"
            total[client, statuses, f'parent_name="{name}",http_status="200"'] += meant - bad
            total[client, statuses, f'parent_name="{name}",http_status="503"'] += bad
        assert failed == 0
        for name, by_slot in record.reached.items():
            total[f"{name}-0/proxy", "request_total", 'direction="inbound"'] += _in(second, by_slot)
        retries = "outbound_http_route_retry_requests_total"
        total["front-0/proxy", retries, 'parent_name="back"'] += _in(second, record.retried)
        total["front-0/proxy", "tls_handshakes_total", 'direction="outbound"'] += 1
        total["front-0/proxy", "tls_handshake_failures_total", 'reason="x"'] += _in(second, record.refused)
        for bound in bounds:
            label = "+Inf" if bound == math.inf else f"{bound:g}"
            inside = sum(value <= bound for value in latencies[second])
            total[client, "response_latency_ms_bucket", f'direction="outbound",le="{label}"'] += inside
        for (process, name, labels), value in total.items():
            store.add_samples(begin + second + 1, process, [(name, labels, float(value))])
