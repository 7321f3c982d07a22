"""The four files: schema, stable bytes, missing parts, hostile texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from jsonschema import Draft202012Validator
from synthetic import CHECKOUT, SyntheticRun, hostile, scenario

from reports import schema
from reports.build import NAMES, write_reports
from reports.store import Event, RunStore
from reports.story import NO_WIDTH

ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "br", "img", "hr", "input"}


def build(run: SyntheticRun, folder: Path, change: Callable[[RunStore], None] | None = None) -> dict[str, str]:
    """Each file's text by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    with RunStore(run.write(folder / "run.sqlite")) as store:
        if change is not None:
            change(store)
        write_reports(store, folder)
    return {name: (folder / name).read_text(encoding="utf-8") for name in NAMES}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return build(SyntheticRun(), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def document(files: dict[str, str]) -> dict[str, Any]:
    return json.loads(files["report.json"])  # type: ignore[no-any-return]


def validate(text: str) -> dict[str, Any]:
    published = json.loads((ROOT / "docs/report.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(published)
    found = json.loads(text)
    Draft202012Validator(published).validate(found)
    return found  # type: ignore[no-any-return]


class WellFormed(HTMLParser):
    """Every element is closed in order; collects what the page would fetch, and its visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(html: str) -> WellFormed:
    page = WellFormed()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_the_published_schema_is_the_one_the_structs_make() -> None:
    assert (ROOT / "docs/report.schema.json").read_bytes() == schema.text()


def test_report_json_validates_against_the_published_schema(files: dict[str, str]) -> None:
    validate(files["report.json"])


def test_the_schema_refuses_a_report_without_a_verdict(document: dict[str, Any]) -> None:
    broken = {key: value for key, value in document.items() if key != "verdict"}
    assert list(Draft202012Validator(schema.schema()).iter_errors(broken))


def test_the_same_store_gives_the_same_bytes(tmp_path: Path) -> None:
    store = SyntheticRun().write(tmp_path / "run.sqlite")
    for folder in ("a", "b"):
        write_reports(store, tmp_path / folder)
    for name in NAMES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_report_leaves_no_partial_file_behind(tmp_path: Path) -> None:
    write_reports(SyntheticRun().write(tmp_path / "run.sqlite"), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(NAMES)


def test_the_seal_is_recomputed_and_lies_before_the_injection(document: dict[str, Any]) -> None:
    forecast = document["forecast"]
    assert forecast["sha256"] == forecast["sha256_recomputed"]
    assert forecast["intact"] is True
    assert forecast["sealed_at"] < forecast["first_injection_at"]
    assert forecast["sealed_before_injection"] is True


def test_a_forecast_that_was_changed_after_the_seal_is_told(tmp_path: Path) -> None:
    def tamper(store: RunStore) -> None:
        stored = store.document("forecast")
        assert stored is not None
        store.put_document("forecast", stored[0], stored[1].replace(b'"replications":96', b'"replications":97'))

    files = build(SyntheticRun(), tmp_path, tamper)
    assert validate(files["report.json"])["forecast"]["intact"] is False
    assert "another hash" in files["report.html"]
    assert "does not match" in files["report.md"]


def test_a_broken_expectation_fails_the_run_and_says_why(files: dict[str, str], document: dict[str, Any]) -> None:
    assert document["verdict"]["outcome"] == "failed"
    assert [e["held"] for e in document["expectations"]] == [True, True, True, False]
    assert "Browsing is not affected" in document["verdict"]["reasons"][0]
    assert files["report.md"].startswith("# ❌ Failed")


def test_junit_is_red_where_the_exit_code_is(files: dict[str, str]) -> None:
    suite = ElementTree.fromstring(files["junit.xml"]).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        "6",
        "1",
        "0",
        "2",
    )
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert properties["forecast.sealed_before_injection"] == "true"
    assert properties["forecast.inside"] == "10/13"


def test_misses_stand_first_and_are_explained(files: dict[str, str], document: dict[str, Any]) -> None:
    missed = [row for row in document["predictions"] if row["inside"] is False]
    assert len(missed) == 3
    assert len([line for line in document["surprises"] if "interval" in line]) == 3
    table = files["report.html"].split('class="predictions"')[1]
    rows = re.findall(r"<tr( class=\"miss\")?><td><b>", table)
    assert rows[:3] == [' class="miss"'] * 3
    assert rows[3] == ""
    assert NO_WIDTH > 100


def test_counterfactuals_are_labelled_as_model_output_unless_verified(files: dict[str, str]) -> None:
    page = parse(files["report.html"])
    assert page.text.count("model output") >= 3
    assert "verified: run 20261118-110000" in page.text


def test_the_page_is_well_formed_and_fetches_nothing(files: dict[str, str]) -> None:
    page = parse(files["report.html"])
    assert page.fetched == []
    assert "script" not in page.tags
    assert "://" not in files["report.html"]
    assert "@import" not in files["report.html"]
    assert "url(" not in files["report.html"]


def test_every_chart_is_there_and_named_for_those_who_cannot_see_it(files: dict[str, str]) -> None:
    charts = re.findall(r'<svg class="chart"[^>]*aria-label="([^"]+)"', files["report.html"])
    assert len(charts) == 1 + 1 + 4 + 1 + 2 + 1 + 1  # hero, timeline, fans, attempts, budgets, load, heat map
    assert "NaN" not in files["report.html"].replace("NaN ", "")


def test_hostile_texts_stay_texts_in_every_file(tmp_path: Path) -> None:
    files = build(
        SyntheticRun(scenario=hostile()),
        tmp_path,
        lambda store: store.add_event(
            Event(1_795_000_060.0, "mesh", "note", "</script><img src=x onerror=alert(1)>\x00\x1b")
        ),
    )
    page = parse(files["report.html"])
    assert not page.tags & {"script", "img"}
    assert "<script>alert(1)</script>" in page.text
    assert "<script" not in files["report.md"]
    assert "<img" not in files["report.md"]
    ElementTree.fromstring(files["junit.xml"])
    assert validate(files["report.json"])["run"]["title"] == hostile().title
    for line in files["report.md"].splitlines():
        if line.startswith("| ✓ | "):
            assert len(re.findall(r"(?<!\\)\|", line)) in (5, 8, 9)


INCOMPLETE: dict[str, tuple[SyntheticRun, str, str]] = {
    "aborted in the fault": (
        SyntheticRun(state="aborted", exit_code=3, reasons=("abort guard: checkout",), until=30.0, scored=False),
        "aborted",
        "expectations were not judged",
    ),
    "interrupted before the seal": (
        SyntheticRun(state="interrupted", exit_code=4, until=-20.0, forecast=False, injected=False),
        "error",
        "No forecast was sealed",
    ),
    "killed, never said so": (
        SyntheticRun(state="running", exit_code=None, reasons=(), until=10.0, scored=False),
        "error",
        "ended in phase inject",
    ),
    "no injection": (SyntheticRun(injected=False, scored=False), "failed", "No fault was injected"),
    "no request": (SyntheticRun(requests=False, scored=False), "failed", "No request was made"),
    "no metrics": (SyntheticRun(metrics=False, scored=False), "failed", "No metrics were scraped"),
    "nothing at all": (
        SyntheticRun(state="failed", requests=False, metrics=False, forecast=False, injected=False, until=-100.0),
        "error",
        "before its first phase",
    ),
    "no SLO, no expectation, no fault": (
        SyntheticRun(
            scenario=replace(scenario(), slos=(), expectations=(), faults=(), abort=(), actions=()),
            forecast=False,
            injected=False,
        ),
        "passed",
        "No forecast was sealed",
    ),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_a_run_with_missing_parts_gets_a_report_that_names_them(name: str, tmp_path: Path) -> None:
    run, outcome, missing = INCOMPLETE[name]
    files = build(run, tmp_path)
    found = validate(files["report.json"])
    assert found["verdict"]["outcome"] == outcome
    assert any(missing in line for line in found["verdict"]["missing"]), found["verdict"]["missing"]
    page = parse(files["report.html"])
    assert "Missing from this report" in page.text
    ElementTree.fromstring(files["junit.xml"])


def test_an_empty_store_gets_a_report(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite", create=True) as store:
        write_reports(store, tmp_path)
    found = validate((tmp_path / "report.json").read_text())
    assert found["verdict"]["outcome"] == "error"
    parse((tmp_path / "report.html").read_text())


def test_an_aborted_run_is_measured_only_as_far_as_it_came(tmp_path: Path) -> None:
    run = SyntheticRun(state="aborted", exit_code=3, until=30.0, scored=False)
    found = validate(build(run, tmp_path)["report.json"])
    start, end = found["run"]["windows"]["inject"]
    assert 28.0 < end - start <= 30.0
    assert found["load"]["seconds"] == pytest.approx(end - start)
    assert all(row["inside"] is None for row in found["predictions"])  # another window than was predicted
    assert found["faults"][0]["outcome"] == "not reverted"
    assert any("gameday recover" in action["text"] for action in found["actions"])


def test_a_fault_taken_back_late_is_seen_in_the_load_figures(document: dict[str, Any]) -> None:
    load = document["load"]
    assert load["offered"] == load["sent"] + load["dropped"]
    assert load["sent"] == load["completed"] + load["unanswered"]
    assert load["dropped"] > 0
    total = sum(window["total"] for slo in document["slos"] for window in slo["windows"] if window["window"] == "all")
    assert total == load["offered"]


def test_the_command_to_run_it_again_is_quoted_for_a_shell(tmp_path: Path) -> None:
    files = build(
        SyntheticRun(),
        tmp_path,
        lambda store: store.set_meta(variant="short outage", overrides=["load.rate=80/s; rm x"]),
    )
    told = validate(files["report.json"])["reproduce"]["run"]
    assert (
        told == "gameday run cert-expiry --world local --variant 'short outage' --set 'load.rate=80/s; rm x' --seed 7"
    )


def test_numbers_in_the_file_are_rounded_and_finite(files: dict[str, str]) -> None:
    assert re.search(r"\d\.\d{7,}", files["report.json"]) is None
    msgspec.json.decode(files["report.json"])


def test_the_route_of_each_slo_is_told(document: dict[str, Any]) -> None:
    assert document["slos"][0]["route"] == CHECKOUT
