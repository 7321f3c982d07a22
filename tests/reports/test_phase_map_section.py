"""A phase map that was kept in a run is in its report; without one there is no such section."""

from __future__ import annotations

from pathlib import Path

import msgspec
from synthetic import SyntheticRun

from reports.build import write_reports
from reports.store import RunStore
from sim.sweep.phase_map import SCHEMA, Panel, PhaseMap, Point, State


def point(load: float, size: float) -> Point:
    stuck = load >= 60.0
    state: State = "metastable" if stuck else "stable"
    return Point(load=load, size=size, state=state, plays=1, stuck=int(stuck), low=0.0, high=1.0)


POINTS = tuple(point(load, size) for load in (30.0, 60.0) for size in (10.0, 20.0))
KEPT = PhaseMap(
    schema=SCHEMA, scenario="test", variant=None, seed=1, axis="duration", loads=(30.0, 60.0), sizes=(10.0, 20.0),
    operating_load=30.0, operating_size=10.0, wait_seconds=60.0, plays=4, hops=1, complete=True,
    panels=(Panel(policy="<scenario>", points=POINTS, boundary_load=45.0, boundary_note="from 45 on"),),
)  # fmt: skip


def report(folder: Path, kept: PhaseMap | None) -> str:
    folder.mkdir()
    with RunStore(SyntheticRun().write(folder / "run.sqlite")) as store:
        if kept is not None:
            store.put_document("phase_map", 0.0, msgspec.json.encode(kept))
        write_reports(store, folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_a_kept_map_is_in_the_report(tmp_path: Path) -> None:
    html = report(tmp_path / "with", KEPT)
    section = html[html.index('<section id="phase-map">') :]
    section = section[: section.index("</section>")]
    assert "policy: &lt;scenario&gt;" in section
    assert section.count('class="state metastable"') == 2
    assert "today: load 30/s" in section
    assert "from 45 on" in section


def test_without_one_there_is_no_section(tmp_path: Path) -> None:
    assert "phase-map" not in report(tmp_path / "without", None)
