"""The board of a run on a terminal of 80 columns: every row on one line, and nothing that was said is lost."""

from __future__ import annotations

import io

from rich.console import Console

from gameday.progress import Board, SloView, Snapshot


def drawn(notes: int) -> str:
    out = io.StringIO()
    with Board(Console(file=out, force_terminal=True, width=80, height=24, color_system=None)) as board:
        board.phase("inject", "55 s: identity-away: identity killed and kept down past the leaves' life, for long")
        for number in range(notes):
            board.note(f"note {number}")
        slos = [SloView(f"checkout-success-{n}", 0.995, 0.9312, 13.8, 39.8, "58.4–66.52 %") for n in range(5)]
        board.tick(Snapshot("inject", 12.0, 55.0, slos, ["identity-away"], "1234 requests"))
    return out.getvalue()


def test_each_slo_takes_one_line_of_80_columns() -> None:
    last = drawn(1).split("SLO")[-1]
    rows = [line for line in last.splitlines() if "checkout-success" in line]
    assert len(rows) == 5
    for row in rows:
        assert "93.12 %" in row
        assert row.rstrip().endswith("58.4–66.52 %")
        assert len(row) <= 80


def test_every_note_stays_on_the_terminal() -> None:
    said = drawn(40)
    for number in range(40):
        assert f"note {number}" in said


def test_what_is_below_its_objective_is_marked_without_colour() -> None:
    assert "93.12 % ▼" in drawn(1)
