"""The sentences of a report, and what a chart leaves out because nothing happened."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
from synthetic import SyntheticRun
from test_reading import row
from test_report_files import build

from reports import story
from reports.document import Document
from reports.notation import THIN, span
from reports.story import surprises


def document_of(files: dict[str, str]) -> Document:
    return msgspec.json.decode(files["report.json"], type=Document)


def test_slos_that_lost_nothing_are_told_in_one_breath(tmp_path: Path) -> None:
    document = document_of(build(SyntheticRun(), tmp_path))
    whole = [msgspec.structs.replace(slo, good=slo.total, held=True, budget_spent=0.0) for slo in document.slos]
    cost = next(line for line in story.tldr(msgspec.structs.replace(document, slos=whole)) if line.startswith("Cost"))
    assert cost.endswith(" lost no request.")
    assert cost.count("objective") == 0


def test_a_median_that_is_off_by_a_machines_noise_is_no_surprise(tmp_path: Path) -> None:
    document = document_of(build(SyntheticRun(), tmp_path))

    def told(median: float) -> list[str]:
        found = row("p95", measured=0.020, inside=True, median=median, naive=0.019, crps=3.0, crps_naive=1.0)
        return surprises(msgspec.structs.replace(document, predictions=[found], score=None))

    assert told(0.017) == []
    (line,) = told(0.030)
    assert "nothing changes" in line


def test_what_reads_as_it_was_forecast_is_no_surprise(tmp_path: Path) -> None:
    document = document_of(build(SyntheticRun(), tmp_path))

    def told(measured: float) -> list[str]:
        found = row("attempts_per_request", measured=measured, low=0.9998, median=1.0, high=1.0002, inside=False)
        return surprises(msgspec.structs.replace(document, predictions=[found], score=None))

    assert told(1.0009) == []
    assert told(0.9991) == []
    (line,) = told(1.02)
    assert "measured 1.02×, above the forecast's 1.00×" in line


def test_a_run_that_ended_as_its_fault_came_is_not_said_never_to_have_reached_it(tmp_path: Path) -> None:
    document = msgspec.structs.replace(document_of(build(SyntheticRun(), tmp_path)), load=None)
    assert "The inject phase was cut off as it began: no SLO window." in story.missing(document)
    unhurt = msgspec.structs.replace(document, detection=msgspec.structs.replace(document.detection, fault_at=None))
    assert "The inject phase was not reached: no SLO window." in story.missing(unhurt)


def test_a_forecast_that_says_nothing_is_missing(tmp_path: Path) -> None:
    document = document_of(build(SyntheticRun(), tmp_path))
    assert document.forecast is not None
    assert not any("forecast" in text for text in story.missing(document))
    empty = msgspec.structs.replace(document, forecast=msgspec.structs.replace(document.forecast, replications=0))
    assert any("forecast says nothing" in text for text in story.missing(empty))


def test_an_interval_from_nothing_says_the_unit_once() -> None:
    assert span("time_to_recover", 0.0, 6.18) == f"0–6.18{THIN}s"


def test_what_never_burned_did_not_recover(tmp_path: Path) -> None:
    run = SyntheticRun()
    slos = tuple(replace(slo, objective=0.0) for slo in run.scenario.slos)  # cannot burn
    files = build(replace(run, scenario=replace(run.scenario, slos=slos)), tmp_path)
    calm = [found for found in document_of(files).detections if found.onset_at is None]
    assert calm
    table = files["report.html"].split('id="detection"')[1].split("</table>")[0]
    for found in calm:
        cells = re.findall(r"<td[^>]*>(.*?)</td>", table.split(f"<b>{found.slo}</b>")[1].split("</tr>")[0])
        assert cells[-1] == "—"


def test_a_long_name_of_an_slo_is_whole_in_the_timeline(tmp_path: Path) -> None:
    name = "a-rather-long-name-of-an-slo"
    run = SyntheticRun()
    slos = tuple(replace(slo, name=name if index == 0 else slo.name) for index, slo in enumerate(run.scenario.slos))
    page = build(replace(run, scenario=replace(run.scenario, slos=slos)), tmp_path)["report.html"]
    (x,) = re.findall(rf'<text class="lane" x="([\d.]+)"[^>]*>{name}<', page)
    assert float(x) > 5.5 * len(name)
