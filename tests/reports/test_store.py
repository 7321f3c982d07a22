"""The run's file, as its readers find it while the run writes it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from reports.store import RunStore


def test_a_reader_never_finds_a_run_without_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.sqlite"
    seen_while_making: list[bool] = []

    class Watched(sqlite3.Connection):
        def executescript(self, script: str, /) -> sqlite3.Cursor:
            seen_while_making.append(path.exists())
            return super().executescript(script)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Watched))
    with RunStore(path, create=True), RunStore(path) as reader:
        assert reader.events() == []
        assert reader.meta() == {}
    assert seen_while_making == [False]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.sqlite"]


def test_opening_for_writing_again_keeps_what_is_there(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run.sqlite", create=True) as store:
        store.set_meta(id="first")
    with RunStore(tmp_path / "run.sqlite", create=True) as store:
        assert store.meta() == {"id": "first"}
