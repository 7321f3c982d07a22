"""The arithmetic behind the figures. The measurements themselves are never tests: they depend on the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import measure, report
from benchmarks.load import Load, LoadFailed
from benchmarks.load.closed import parse_wrk
from benchmarks.load.grpc import parse_h2load
from benchmarks.machine import Usage, core_busy_seconds
from benchmarks.measure import Sample, Watched, median, quietest
from benchmarks.overhead import cpu_by_group, overhead, untimed_seconds
from benchmarks.profile import by_library
from benchmarks.rows import ROWS
from benchmarks.scrape import total
from reports.store import RunStore
from reports.store import Usage as StoredUsage

WRK = """Running 2s test @ http://127.0.0.1:9911/
  Latency Distribution
     50%  268.00us
     75%    0.90ms
     90%    1.20ms
     99%    1.67ms
  20927 requests in 2.01s, 3.87MB read
Requests/sec:  10411.44
"""


H2LOAD = """finished in 3.00s, 269804.00 req/s, 42.98MB/s
requests: 539608 total, 539608 started, 539608 done, 539608 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 539608 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def sample(cpu_us: float, foreign: float = 0.0, added_p99_us: float = 20.0) -> Sample:
    return Sample(cpu_us, 0.5, 1e6 / cpu_us, 1.0, 10.0, added_p99_us, 100.0, 30.0, 31.0, foreign)


def watched(foreign: float) -> Watched:
    return Watched(foreign, Load(1, 1.0, 1.0, 1.0, 0.0), Usage(1.0, 0.5, 0.5))


def test_wrk_output_is_read_with_its_units() -> None:
    assert parse_wrk(WRK) == pytest.approx((20927, 2.01, 268.0, 1670.0))


@pytest.mark.parametrize(
    "line", ["Non-2xx or 3xx responses: 3", "Socket errors: connect 0, read 1, write 0, timeout 0"]
)
def test_a_load_with_errors_is_no_figure(line: str) -> None:
    with pytest.raises(LoadFailed, match=line):
        parse_wrk(WRK + line)


def test_a_load_without_answers_is_no_figure() -> None:
    with pytest.raises(LoadFailed):
        parse_wrk(WRK.replace("20927", "0"))


def test_a_core_is_busy_with_all_but_idle_and_iowait() -> None:
    ticks = "cpu 9 9 9 9 9 9 9 9 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 100 10 200 5000 7000 1 2 87 0 0\n"
    assert core_busy_seconds(1, ticks) == pytest.approx(400 / 100)


def test_a_profile_is_summed_by_library() -> None:
    text = " 45.50%  libpython3.11.so.1.0\n 40.00%  [kernel.kallsyms]\n 6.00%  libcrypto.so.3\n 3.00%  libssl.so.3\n\n"
    assert by_library(text) == pytest.approx({"CPython": 0.455, "kernel (mostly TCP)": 0.4, "OpenSSL": 0.09})


def test_h2load_output_is_read_and_one_answer_of_503_is_no_figure() -> None:
    assert parse_h2load(H2LOAD) == (539608, 3.0)
    with pytest.raises(LoadFailed, match="1 5xx"):
        parse_h2load(H2LOAD.replace("0 5xx", "1 5xx"))
    with pytest.raises(LoadFailed, match="2 errored"):
        parse_h2load(H2LOAD.replace("0 errored", "2 errored"))


def test_medians_go_field_by_field_and_leave_disturbed_samples_out() -> None:
    middle = median([sample(30.0, 0.01), sample(10.0, 0.2), sample(20.0, 0.0)])
    assert (middle.cpu_us, middle.foreign) == (25.0, 0.01)


def test_where_every_sample_was_disturbed_the_worst_disturbance_is_told() -> None:
    middle = median([sample(30.0, 0.1), sample(10.0, 0.2), sample(20.0, 0.3)])
    assert (middle.cpu_us, middle.foreign) == (20.0, 0.3)


def test_a_quiet_run_is_taken_at_once_and_a_loud_one_repeated() -> None:
    runs = [watched(f) for f in (0.5, 0.02, 0.0)]
    assert quietest(lambda: runs.pop(0)).foreign == 0.02
    assert len(runs) == 1


def test_repetition_ends_and_keeps_the_least_disturbed() -> None:
    runs = [watched(f) for f in (0.5, 0.3, 0.4, 0.6, 0.0)]
    assert quietest(lambda: runs.pop(0)).foreign == 0.3
    assert len(runs) == 5 - measure.ATTEMPTS


def test_no_run_is_repeated_after_the_time_is_up() -> None:
    runs = [watched(f) for f in (0.5, 0.0)]
    assert quietest(lambda: runs.pop(0), until=0.0).foreign == 0.5


def test_ratios_are_of_cpu_per_request_and_absent_peers_have_none() -> None:
    text = report.table(ROWS["a"], "a", {"gameday": [sample(30.0)], "nginx": [sample(12.0)], "Envoy": "not installed"})
    ours = next(line for line in text.splitlines() if line.startswith("| gameday"))
    assert "| 2.50 | – | – |" in ours
    assert "| Envoy | not installed" in text
    assert "Disturbed" not in text
    assert "2.50× nginx" in text


@pytest.mark.parametrize(("cpu", "result"), [(80.0, "met"), (95.0, "missed")])
def test_the_goal_of_a_row_is_met_or_missed_by_its_factor(cpu: float, result: str) -> None:
    text = report.table(ROWS["b"], "b", {"gameday": [sample(cpu)], "Envoy": [sample(100.0)]})
    assert f"CPU ≤ 0.9× Envoy: {result} ({cpu / 100:.2f}× Envoy)" in text


def test_a_row_says_whether_the_policy_was_at_work() -> None:
    without = report.table(ROWS["b"], "b", {"gameday": [sample(30.0)]})
    with_it = report.table(ROWS["b"], "b", {"gameday": [replace(sample(30.0), authorized=7.0)]})
    assert "AuthorizationPolicy not there yet" in without
    assert "AuthorizationPolicy at work (7 let in)" in with_it


def test_a_goal_over_two_peers_needs_both() -> None:
    outcomes: dict[str, report.Outcome] = {
        "gameday": [sample(9.0, added_p99_us=60.0)],
        "Envoy": [sample(9.0, added_p99_us=70.0)],
        "Envoy, HTTP/2 between": [sample(9.0, added_p99_us=50.0)],
    }
    assert "missed (0.86× Envoy, 1.20× Envoy, HTTP/2 between)" in report.table(ROWS["f"], "f", outcomes)


def test_a_row_that_ours_cannot_do_yet_misses_its_goal_and_fails_nothing() -> None:
    text = report.table(ROWS["c"], "c", {"gameday": "not there yet: 400", "Envoy": [sample(20.0)]})
    assert "| gameday | not there yet: 400 |" in text
    assert "missed" in text


def test_disturbed_rows_say_so() -> None:
    assert "| gameday² |" in report.table(ROWS["a"], "a", {"gameday": [sample(30.0, foreign=0.3)]})


def test_a_metric_is_summed_over_the_series_that_carry_the_labels() -> None:
    text = '# HELP x y\nx_total{a="1",b="2"} 3\nx_total{a="1",b="3"} 4\nx_total{a="2"} 5\nx_total_more{a="1"} 9\n'
    assert total(text, "x_total", 'a="1"') == 7.0


def test_new_figures_replace_the_old_and_leave_the_prose() -> None:
    page = report.insert(report.insert("# Performance\n", "old"), "new")
    assert page == f"# Performance\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n"
    assert report.insert(page + "prose\n", "newer").endswith("prose\n")


def test_cpu_counters_that_start_anew_are_added() -> None:
    usages = [
        StoredUsage(at, process, cpu, 1)
        for at, process, cpu in [
            (1.0, "cart-0/proxy", 1.0),
            (2.0, "cart-0/proxy", 3.0),
            (3.0, "cart-0/proxy", 0.5),
            (3.0, "cart-1/proxy", 2.0),
            (3.0, "locust", 4.0),
        ]
    ]
    assert cpu_by_group(usages) == pytest.approx({"proxy": 5.5, "locust": 4.0})


def test_time_outside_the_measured_windows_is_the_harness_own() -> None:
    windows = {"up": [100.0, 109.0], "baseline": [110.0, 120.0], "seal": [120.0, 125.0], "inject": [125.0, 140.0]}
    assert untimed_seconds({"started_at": 100.0, "finished_at": 150.0, "windows": windows}) == pytest.approx(25.0)


def test_a_run_that_did_not_finish_has_no_overhead(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite", create=True) as store:
        store.set_meta(run_id="r", started_at=1.0, windows={})
    with pytest.raises(ValueError, match="did not finish"):
        overhead(tmp_path)
