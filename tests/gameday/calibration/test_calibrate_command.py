"""`gameday calibrate` on an application that is not ours: what it finds, what it refuses, what it leaves open."""

from __future__ import annotations

from pathlib import Path

import pytest
from foreign_app import (
    OVERHEAD,
    RATE,
    START,
    STORE_MEDIAN,
    STORE_SIGMA,
    WEB_SELF,
    Scraped,
    answer,
    app_file,
    prometheus,
    requests_csv,
    scraped,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gameday.calibration.command import CalibrateOptions, calibrated, run_calibrate
from gameday.calibration.file import CalibrationFile, Row
from gameday.calibration.linkerd import FAMILIES
from gameday.cli import main
from gameday.errors import BadInput


def row(file: CalibrationFile, parameter: str) -> Row:
    return next(r for r in file.table if r.parameter == parameter)


def width(file: CalibrationFile, parameter: str) -> float:
    """high over low."""
    found = row(file, parameter)
    assert found.low is not None
    assert found.high is not None
    return found.high / max(found.low, 1e-9)


def holds(file: CalibrationFile, parameter: str, truth: float, slack: float = 0.0) -> bool:
    found = row(file, parameter)
    assert found.low is not None
    assert found.high is not None
    return found.low * (1 - slack) <= truth <= found.high * (1 + slack)


def of_prometheus(folder: Path, window: Scraped) -> CalibrationFile:
    with prometheus(window) as url:
        return calibrated(CalibrateOptions(prometheus=url, app=app_file(folder), window="2m"))


def of_dump(folder: Path, window: Scraped) -> CalibrationFile:
    path = folder / "dump.json"
    path.write_bytes(answer(window.result()))
    return calibrated(CalibrateOptions((str(path),), app=app_file(folder)))


def of_snapshots(folder: Path, window: Scraped, at: tuple[str, ...] = (), stamps: bool = True) -> CalibrationFile:
    paths = (folder / "before.txt", folder / "after.txt")
    for path, index in zip(paths, (0, -1), strict=True):
        path.write_text(window.text(index, stamps))
    return calibrated(CalibrateOptions(tuple(str(p) for p in paths), app=app_file(folder), at=at))


STORE_MEAN = STORE_MEDIAN * 2.718281828 ** (STORE_SIGMA**2 / 2)


@pytest.mark.parametrize("source", [of_prometheus, of_dump, of_snapshots])
def test_the_truth_is_in_the_intervals_of_every_source_of_counters(source: object, tmp_path: Path) -> None:
    found = source(tmp_path, scraped())  # type: ignore[operator]
    assert holds(found, "self time store GET /list", STORE_MEAN, 0.01)
    assert holds(found, "self time web GET /page", WEB_SELF)
    assert holds(found, "overhead of a hop", OVERHEAD)
    assert holds(found, "arrival rate", RATE, 0.02)
    assert width(found, "self time store GET /list") < 1.1


def test_a_table_of_requests_tells_a_leafs_time_and_not_what_lies_above(tmp_path: Path) -> None:
    found = calibrated(CalibrateOptions((str(requests_csv(tmp_path)),), app=app_file(tmp_path)))
    assert holds(found, "self time store GET /list", STORE_MEAN, 0.01)
    assert row(found, "self time web GET /page").told_by is None
    assert row(found, "overhead of a hop").told_by is None
    assert width(found, "overhead of a hop") > 3.0


def test_clients_of_a_route_with_calls_split_its_time_as_declared_and_widely(tmp_path: Path) -> None:
    table = requests_csv(tmp_path, route="GET web /page")
    found = calibrated(CalibrateOptions((str(table),), app=app_file(tmp_path)))
    assert width(found, "self time web GET /page") > 2.0
    assert holds(found, "arrival rate", RATE, 0.05)
    assert any("sum of a path" in note for note in found.notes)


def test_what_a_quiet_window_cannot_tell_is_listed(tmp_path: Path) -> None:
    found = of_dump(tmp_path, scraped())
    untold = {r.parameter for r in found.table if r.told_by is None}
    assert {"workers of web", "workers of store", "retries", "noise floor of p99"} <= untold
    assert width(found, "workers of store") > 10.0


def test_the_table_is_printed_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dump.json"
    path.write_bytes(answer(scraped().result()))
    assert run_calibrate(CalibrateOptions((str(path),), app=app_file(tmp_path))) == 0
    printed = capsys.readouterr().out
    assert "90 % interval" in printed
    assert "not told" in printed


def test_pods_scraped_at_moments_of_their_own_leave_the_rate_right(tmp_path: Path) -> None:
    """A balancer that moves load between two pods, whose scrapes are half an interval apart."""
    one = scraped()
    halves = Scraped()
    for (name, labels), samples in one.values.items():
        if dict(labels)["deployment"] != "web" or dict(labels)["direction"] != "inbound":
            halves.values[name, labels] = samples
            continue
        for pod, offset in (("web-0", 0.0), ("web-1", 5.0)):
            total, kept = 0.0, [(samples[0][0] + offset, 0.0)]
            for index in range(1, len(samples)):
                share = 0.8 if (index % 2 == 0) == (pod == "web-0") else 0.2
                total += (samples[index][1] - samples[index - 1][1]) * share
                kept.append((samples[index][0] + offset, total))
            halves.values[name, tuple(sorted({**dict(labels), "pod": pod}.items()))] = kept
    found = of_dump(tmp_path, halves)
    assert row(found, "arrival rate").estimate == pytest.approx(RATE, rel=0.04)


# ---- thin and wrong input: a refusal, or a wider interval and a note -------------------------------------------------


def test_a_counter_reset_is_counted_from_zero_and_said(tmp_path: Path) -> None:
    whole = scraped()
    restarted = Scraped()
    for key, samples in whole.values.items():
        half = len(samples) // 2
        base = samples[half][1]
        restarted.values[key] = [*samples[: half + 1], *((t, v - base) for t, v in samples[half + 1 :])]
    found, as_usual = of_dump(tmp_path, restarted), of_dump(tmp_path, whole)
    assert any("reset" in note for note in found.notes)
    assert holds(found, "self time store GET /list", STORE_MEAN, 0.01)
    rate = row(found, "arrival rate").estimate
    assert rate is not None
    assert rate == pytest.approx(row(as_usual, "arrival rate").estimate, rel=0.02)


def test_a_clock_that_jumps_between_snapshots_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="clock jumped"):
        of_snapshots(tmp_path, scraped(), at=(f"{START + 60}", f"{START}"))


def test_a_clock_that_jumps_within_a_table_widens_and_is_said(tmp_path: Path) -> None:
    app = app_file(tmp_path)
    usual = calibrated(CalibrateOptions((str(requests_csv(tmp_path, route="GET web /page")),), app=app))
    jumped = calibrated(CalibrateOptions((str(requests_csv(tmp_path, route="GET web /page", hole=3_600.0)),), app=app))
    assert any("clock jumped" in note for note in jumped.notes)
    assert jumped.posterior.residual["p50"] > 3 * usual.posterior.residual["p50"]
    assert row(jumped, "arrival rate").estimate == pytest.approx(row(usual, "arrival rate").estimate, rel=0.05)


def test_a_clock_that_goes_back_within_a_table_is_refused_and_joined_logs_are_to_be_sorted(tmp_path: Path) -> None:
    table = requests_csv(tmp_path, route="GET web /page")
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *rows[len(rows) // 2 :], *rows[: len(rows) // 2]]))
    with pytest.raises(BadInput, match="the clock jumped, or logs were joined") as raised:
        calibrated(CalibrateOptions((str(table),), app=app_file(tmp_path)))
    assert "\n" not in str(raised.value)


def test_metrics_and_requests_of_different_days_are_refused(tmp_path: Path) -> None:
    dump = tmp_path / "dump.json"
    dump.write_bytes(answer(scraped().result()))
    table = requests_csv(tmp_path)
    table.write_text(table.read_text().replace("\n17672", "\n17682"))
    with pytest.raises(BadInput, match="not of one window"):
        calibrated(CalibrateOptions((str(dump), str(table)), app=app_file(tmp_path)))


def test_a_histogram_with_other_buckets_is_read_as_it_is(tmp_path: Path) -> None:
    coarse = of_dump(tmp_path, scraped(bounds=(25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 10_000.0)))
    assert holds(coarse, "self time store GET /list", STORE_MEAN, 0.02)
    assert width(coarse, "self time store GET /list") >= 0.99 * width(
        of_dump(tmp_path, scraped()), "self time store GET /list"
    )


def test_processes_with_different_buckets_share_only_the_common_ones(tmp_path: Path) -> None:
    mixed = scraped()
    for (name, labels), samples in scraped(bounds=(10.0, 50.0, 1_000.0), seed=4).values.items():
        other = tuple((k, v.replace("store-0", "store-1")) for k, v in labels)
        if dict(labels)["pod"] == "store-0":
            mixed.values[name, other] = samples
    found = of_dump(tmp_path, mixed)
    assert any("different buckets" in note for note in found.notes)
    assert holds(found, "self time store GET /list", STORE_MEAN, 0.02)


def test_a_bucket_without_a_readable_bound_is_left_out_and_said(tmp_path: Path) -> None:
    window = scraped()
    odd = {
        (n, tuple((k, "wide" if (k, v) == ("le", "5") else v) for k, v in labels)): s
        for (n, labels), s in window.values.items()
    }
    assert any("readable" in note for note in of_dump(tmp_path, Scraped(odd)).notes)


def test_an_empty_window_is_refused(tmp_path: Path) -> None:
    still = Scraped({key: [(t, samples[0][1]) for t, _ in samples] for key, samples in scraped().values.items()})
    with pytest.raises(BadInput, match="no request to books was answered"):
        of_dump(tmp_path, still)


def test_one_request_gives_wide_intervals(tmp_path: Path) -> None:
    one = tmp_path / "one.csv"
    one.write_text(f"time,route,latency,status\n{START},GET store /list,0.02,200\n")
    found = calibrated(CalibrateOptions((str(one),), app=app_file(tmp_path)))
    assert width(found, "self time store GET /list") > 2.0
    assert row(found, "failures without a cause").told_by is None
    assert all(sigma >= 0.25 for sigma in found.posterior.residual.values())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "no request in it"),
        ("time,route,latency,status\n", "no request in it"),
        ("when,route,latency,status\n1,GET store /list,0.1,200\n", "no column time"),
        ("time,route,latency,status\nyesterday,GET store /list,0.1,200\n", "unreadable"),
        ("time,route,latency,status\n1,GET store /list,-3,200\n", "unreadable"),
        ("time,route,latency,status\n1,GET elsewhere /,0.1,200\n", "to a route of books"),
    ],
)
def test_a_table_that_is_none_is_refused(body: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(body)
    with pytest.raises(BadInput, match=message):
        calibrated(CalibrateOptions((str(path),), app=app_file(tmp_path)))


def test_a_missing_metric_is_named_in_the_notes(tmp_path: Path) -> None:
    found = of_dump(tmp_path, scraped().without("response_latency_ms_bucket", "response_total"))
    assert any("response_latency_ms_bucket is missing" in note for note in found.notes)
    assert any("response_total is missing" in note for note in found.notes)
    assert row(found, "failures without a cause").told_by is None


PARAMETERS = ("self time store GET /list", "self time web GET /page", "overhead of a hop", "arrival rate")
PRESENT = tuple(sorted({name for name, _ in scraped(seconds=20).values}))


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scraped, CalibrationFile]:
    folder, window = tmp_path_factory.mktemp("complete"), scraped()
    return folder, window, of_dump(folder, window)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(missing=st.sets(st.sampled_from(PRESENT)))
def test_any_subset_of_metrics_missing_refuses_or_widens(
    missing: set[str], complete: tuple[Path, Scraped, CalibrationFile]
) -> None:
    folder, window, full = complete
    try:
        found = of_dump(folder, window.without(*missing))
    except BadInput:
        return  # in one line, as every BadInput of this file's other tests
    for parameter in PARAMETERS:
        # 200 draws know an interval's width to 6 %, so two of them differ by a tenth by chance. With 5,000 draws the
        # narrowest here, where the mean comes from buckets, is 0.97.
        assert width(found, parameter) >= width(full, parameter) ** 0.8, parameter


def _mangled(draw: st.DrawFn, text: str) -> str:
    """`text` with a stretch taken out or overwritten."""
    start = draw(st.integers(0, len(text)))
    length = draw(st.integers(0, 400))
    return text[:start] + draw(st.text(max_size=20)) + text[start + length :]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), kind=st.sampled_from(["dump.json", "requests.csv", "after.txt"]))
def test_a_damaged_file_is_read_or_refused_in_one_line(
    data: st.DataObject, kind: str, complete: tuple[Path, Scraped, CalibrationFile]
) -> None:
    folder, window, _ = complete
    short = scraped(seconds=40.0) if kind == "dump.json" else window
    text = {
        "dump.json": lambda: answer(short.result()).decode(),
        "requests.csv": lambda: requests_csv(folder, count=60).read_text(),
        "after.txt": lambda: window.text(-1),
    }[kind]()
    (folder / kind).write_text(data.draw(st.composite(_mangled)(text)), encoding="utf-8", errors="replace")
    (folder / "before.txt").write_text(window.text(0))
    names = ["before.txt", kind] if kind == "after.txt" else [kind]
    try:
        calibrated(CalibrateOptions(tuple(str(folder / name) for name in names), app=app_file(folder)))
    except BadInput as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said.replace(repr("\n"), "")


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "on what"),
        (["no-such-run"], "no run"),
        (["a.txt"], "--app is missing"),
        (["--prometheus", "http://127.0.0.1:1"], "--app is missing"),
        (["a.txt", "--app", "APP"], "two snapshots"),
        (["a.txt", "b.txt", "--app", "APP"], "cannot be read"),
        (["a.txt", "b.json", "--app", "APP"], "either"),
        (["latest", "b.csv", "--app", "APP"], "only files"),
        (["x.json", "--app", "APP", "--at", "noon"], "--at noon"),
        (["--prometheus", "http://127.0.0.1:1", "--app", "APP", "--window", "soon"], "--window soon"),
        (["x.json", "--app", "nowhere.yaml"], "nowhere.yaml"),
        (["x.json", "--app", "APP", "--window", "5m"], "--window: only with --prometheus"),
        (["latest", "--window", "5m"], "--window: only with --prometheus"),
        (["latest", "--app", "APP"], "--app: a run knows"),
        (["latest", "--at", "0"], "--at: a run knows"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = app_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gameday", "calibrate", *(str(app) if a == "APP" else a for a in arguments)])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_snapshots_without_times_ask_for_them(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--at TIME --at TIME"):
        of_snapshots(tmp_path, scraped(), stamps=False)
    found = of_snapshots(tmp_path, scraped(), ("2026-01-01T00:00:00Z", "2026-01-01T00:02:00Z"), stamps=False)
    assert holds(found, "arrival rate", RATE, 0.02)


def test_every_metric_that_is_asked_for_is_known_to_the_reader() -> None:
    assert set(PRESENT) <= set(FAMILIES)


def test_two_sources_of_one_forecast_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gameday", "forecast", "calm", "--calibration", "c.json", "--from-run", "latest"])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    assert "give one" in capsys.readouterr().err
