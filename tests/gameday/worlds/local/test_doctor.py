from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from chaos.processes import started_at
from chaos.world import Named, SupervisorAddress, WorldState
from gameday.worlds.local.doctor import checks


def stale_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, bool, str, str]:
    monkeypatch.chdir(folder)
    return next(check for check in checks() if check[0] == "left-over runs")


def leave_run(folder: Path, runner: Named) -> None:
    me = started_at(os.getpid()) or ""
    supervisor = SupervisorAddress(pid=os.getpid(), start=me, socket="/none")
    state = WorldState(run="r", ready=True, supervisor=supervisor, runner=runner, control={}, pods=(), processes={})
    (folder / "runs" / "r1").mkdir(parents=True)
    (folder / "runs" / "r1" / "world.json").write_bytes(msgspec.json.encode(state))


def test_every_check_has_a_finding_and_every_failure_a_remedy() -> None:
    for name, well, found, remedy in checks():
        assert name
        assert found
        assert well or remedy


def test_a_folder_that_takes_no_runs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checked = {name: well for name, well, _, _ in checks()}
    assert checked["runs folder"]
    (tmp_path / "runs").touch()
    checked = {name: well for name, well, _, _ in checks()}
    assert not checked["runs folder"]


def test_a_world_without_its_runner_is_named_with_the_command_that_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_run(tmp_path, Named(pid=os.getpid(), start="another process had this pid"))
    assert stale_check(tmp_path, monkeypatch) == (
        "left-over runs",
        False,
        "r1 still run without their runner",
        "gameday recover",
    )


def test_a_run_that_is_going_on_is_not_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_run(tmp_path, Named(pid=os.getpid(), start=started_at(os.getpid()) or ""))
    assert stale_check(tmp_path, monkeypatch)[1]


def test_files_of_others_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "world.json").write_text("[]")
    assert stale_check(tmp_path, monkeypatch)[1]
