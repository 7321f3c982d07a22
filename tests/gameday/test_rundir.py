import os
from pathlib import Path

import pytest

from chaos.processes import started_at
from gameday import rundir
from gameday.errors import BadInput
from reports.store import RunStore


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(name: str, **meta: object) -> rundir.RunDir:
    run = rundir.create(None, name)
    with RunStore(run.store, create=True) as store:
        store.set_meta(**meta)
    return run


def test_a_run_is_found_by_id_by_beginning_by_path_and_as_latest() -> None:
    first = made("20260101-000000-a")
    second = made("20260102-000000-b")
    assert rundir.find("20260101-000000-a") == first
    assert rundir.find("20260102") == second
    assert rundir.find(str(first.path)) == first
    assert rundir.find("latest") == second


def test_an_ambiguous_beginning_names_the_candidates() -> None:
    made("20260101-000000-a")
    made("20260101-000001-b")
    with pytest.raises(BadInput, match="not unique: 20260101-000000-a, 20260101-000001-b"):
        rundir.find("2026")


def test_what_can_be_no_path_is_no_run_and_no_file_to_write() -> None:
    """Of a name too long the file system says the same as of a folder that one may not enter: it raises."""
    name = "x" * 300
    with pytest.raises(BadInput, match="no run 'xxx"):
        rundir.find(name)
    with pytest.raises(BadInput, match="cannot be written: File name too long"):
        rundir.create(Path(name), "y")
    with pytest.raises(BadInput, match="cannot be written: File name too long"):
        rundir.check_writable("--out", Path(name))


def test_a_folder_that_holds_a_run_is_not_written_over() -> None:
    run = made("x")
    with pytest.raises(BadInput, match="holds a run already"):
        rundir.create(run.path, "y")


def test_a_path_below_a_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written: Not a directory"):
        rundir.create(tmp_path / "file" / "run", "y")


def test_a_running_run_whose_runner_is_gone_is_interrupted() -> None:
    run = made("x", state="running", runner={"pid": os.getpid(), "start": "0"})
    with RunStore(run.store) as store:
        assert rundir.state(store) == "interrupted"


def test_a_running_run_whose_runner_lives_is_running() -> None:
    run = made("x", state="running", runner={"pid": os.getpid(), "start": started_at(os.getpid())})
    with RunStore(run.store) as store:
        assert rundir.state(store) == "running"


def test_a_run_that_was_not_started_leaves_no_folder() -> None:
    run = rundir.create(None, "x")
    run.discard()
    assert not run.path.exists()


def test_discarding_spares_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    rundir.create(tmp_path / "out", "x").discard()
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_store_that_is_none_and_one_that_may_not_be_written_beside_are_told_apart() -> None:
    torn, kept = made("20260101-000000-a"), made("20260102-000000-b")
    torn.store.write_text("torn" * 300)
    with pytest.raises(BadInput, match=r"a/run.sqlite: not a run store"):
        rundir.find(str(torn.path))
    (kept.path / "run.sqlite-wal").mkdir()  # as on a disk that is read-only
    with pytest.raises(BadInput, match="copy the run's folder to where you may write"):
        rundir.find(str(kept.path))


def test_a_file_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    kept = tmp_path / "kept.md"
    kept.write_text("a page")
    for path in (kept, tmp_path / "new" / "page.md"):
        rundir.check_writable("--out", path)
    assert kept.read_text() == "a page"
    assert not (tmp_path / "new" / "page.md").exists()
    with pytest.raises(BadInput, match=r"--out .*: cannot be written: (File exists|Not a directory)"):
        rundir.check_writable("--out", kept / "page.md")
