"""`gameday phase-map`: what it refuses, and a small map from the command line to terminal, JSON and page."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from gameday import cli
from gameday.errors import BadInput
from gameday.forecasting import observation_of
from gameday.phasemap.options import evenly, grid, parse_load, parse_range, parse_size
from gameday.phasemap.terminal import letter, print_map
from reports.phase_map_page import page
from scenarios.load import load_scenario
from sim.sweep.hysteresis import Ramp, Step
from sim.sweep.phase_map import SCHEMA, Panel, PhaseMap, Point, State
from tests.reports.synthetic import SyntheticRun


def test_ranges() -> None:
    assert parse_range("--load", "10:30:3") == (10.0, 20.0, 30.0)
    assert parse_range("--load", "1,2.5") == (1.0, 2.5)
    assert parse_size(None) == ("duration", None)
    assert parse_size("latency") == ("latency", None)
    assert parse_size("errors=0.5,1") == ("errors", (0.5, 1.0))
    assert evenly(10.0, 50.0, 5, through=29.0) == (10.0, 20.0, 29.0, 40.0, 50.0)


@pytest.mark.parametrize("points", [4, 100, 1000, 5000])
@pytest.mark.parametrize("panels", [1, 6])
def test_a_grid_has_about_as_many_points_as_asked(points: int, panels: int) -> None:
    loads, sizes = grid(points, panels)
    assert panels * loads * sizes == pytest.approx(max(points, 4 * panels), rel=0.3)


@pytest.mark.parametrize(
    "text", ["", "10", "x", "10:20", "10:20:1", "20:10:5", "0:1:3", "nan,1", "1,1", "1:2:3:4", "2,1", "1,1.0000001"]
)
def test_ranges_that_are_none_are_refused(text: str) -> None:
    if text == "10":
        assert parse_range("--load", text) == (10.0,)
        return
    with pytest.raises(BadInput, match="--load"):
        parse_range("--load", text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1e9", "duration up to 14400"),
        ("latency=1,1e308", "latency up to 14400"),
        ("errors=0.5,2", "errors up to 1"),
        ("replicas=1,1e6", "replicas up to 100"),
        ("replicas=1:2:4", "replicas are whole"),
    ],
)
def test_sizes_that_no_fault_has_are_refused(text: str, why: str) -> None:
    with pytest.raises(BadInput, match=f"^--size {text}: {why}"):
        parse_size(text)


def test_a_load_that_no_play_would_end_with_is_refused() -> None:
    assert parse_load("1e5") == (100_000.0,)
    with pytest.raises(BadInput, match=r"^--load 1e308: 100000/s at most$"):
        parse_load("1e308")


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry-storm", "--points", "0"],
        ["retry-storm", "--seconds", "0"],
        ["retry-storm", "--load", "a:b:c"],
        ["retry-storm", "--size", "colour=1:2:3"],
        ["retry-storm", "--size", "replicas=1:2"],
        ["retry-storm", "--load", "1:200:200", "--size", "1:200:200", "--seconds", "1"],
        ["retry-storm", "--policy", "limit=many"],
        ["retry-storm", "--policy", "limit=1@nobody"],
        ["retry-storm", "-o", "html"],
        ["retry-storm", "-o", "xml"],
        ["retry-storm", "--out", "no/such/folder/x.json"],
        ["retry-storm", "--out", "/dev/null/x.json"],
        ["retry-storm", "--out", "/proc/x.json"],
        ["retry-storm", "--out", "x" * 300],
        ["retry-storm", "--out", "x" * 300 + "/x.json"],
        ["retry-storm", "--from-run", "x" * 300],
        ["retry-storm", "--from-run", "no-such-run"],
        ["retry-storm", "--from-run", ""],
        ["retry-storm", "--keep"],
        ["calm"],
        ["no-such-scenario"],
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gameday", "phase-map", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1


def made() -> PhaseMap:
    """A map with everything in it."""

    def point(load: float, size: float, state: State, stuck: int = 0, plays: int = 1) -> Point:
        return Point(
            load=load, size=size, state=state, plays=plays, stuck=stuck, low=0.1, high=0.9, recovery_seconds=3.0
        )

    points = (
        point(10.0, 5.0, "stable"),
        point(10.0, 9.0, "stable", plays=0),
        point(20.0, 5.0, "vulnerable", 3, 8),
        point(20.0, 9.0, "metastable", 1),
        point(30.0, 5.0, "overloaded", plays=0),
        point(30.0, 9.0, "unknown", plays=0),
    )
    steps = tuple(Step(load=load, share=1.0) for load in (10.0, 20.0, 30.0))
    ramp = Ramp(
        policy="<as it is>", hold_seconds=20.0, up=steps, down=(Step(load=20.0, share=0.2), Step(load=10.0, share=1.0))
    )
    panel = Panel(policy="<as it is>", points=points, boundary_load=18.0, boundary_note="λ(1 + r) = C & more")
    return PhaseMap(
        schema=SCHEMA, scenario="test", variant=None, seed=1, axis="duration", loads=(10.0, 20.0, 30.0),
        sizes=(5.0, 9.0), operating_load=20.0, operating_size=5.0, panels=(panel,), wait_seconds=60.0, plays=11,
        hops=100, complete=True, ramps=(ramp,),
    )  # fmt: skip


def test_the_terminal_has_letters_today_and_the_loop() -> None:
    console = Console(record=True, width=100, no_color=True, file=io.StringIO())
    print_map(made(), console)
    text = console.export_text()
    assert "       9  s  M  · " in text
    assert "       5  S [?] O " in text
    assert "today: vulnerable, stuck in 3 of 8 plays" in text
    assert "on the way down from 20 to 20/s" in text
    assert "\x1b" not in text


def test_today_outside_of_the_map_is_not_put_at_its_edge() -> None:
    outside = msgspec.structs.replace(made(), operating_load=80.0)
    console = Console(record=True, width=100, no_color=True, file=io.StringIO())
    print_map(outside, console)
    text = console.export_text()
    assert "today: outside" in text
    assert "[?]" not in text
    assert 'class="today"' not in page(outside).split("</ul>")[1]
    assert 'class="today"' in page(made()).split("</ul>")[1]


def test_letters() -> None:
    assert [letter(p) for p in made().panels[0].points] == ["S", "s", "?", "M", "O", "·"]


def test_the_page_is_whole_and_escapes_what_it_prints() -> None:
    html = page(made())
    assert html == page(made())
    assert "<as it is>" not in html
    assert "&lt;as it is&gt;" in html
    assert html.count('<svg class="chart') == 3
    assert not re.search(r"https?://(?!www\.w3\.org)|<script", html)


def test_json_reads_back() -> None:
    assert msgspec.json.decode(msgspec.json.encode(made()), type=PhaseMap) == made()


def test_the_baseline_of_another_application_is_refused(tmp_path: Path) -> None:
    SyntheticRun().write(tmp_path / "run.sqlite")
    with pytest.raises(BadInput, match="has no route of deep-chain, the app of deep-chain; name a run of it"):
        observation_of(str(tmp_path), load_scenario("deep-chain"))


@pytest.mark.e2e
def test_a_small_map_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "map.json"
    monkeypatch.setattr(
        sys, "argv",
        ["gameday", "phase-map", "retry-storm", "--load", "20,60", "--size", "2,4", "--policy", "limit=0", "--no-ramp",
         "--seconds", "120", "-o", "json", "--out", str(out)],
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, capsys.readouterr().err
    found = msgspec.json.decode(out.read_bytes(), type=PhaseMap)
    assert found.complete
    assert [panel.policy for panel in found.panels] == ["scenario", "limit=0"]
    assert {point.state for panel in found.panels for point in panel.points} == {"stable"}
