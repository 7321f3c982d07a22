"""Numbers out of range: one line that names the option and the range, exit code 2, nothing started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gameday import cli
from gameday.errors import Exit

REFUSED = [
    "run calm --seed -1",
    "run calm --seed 9223372036854775808 --dry-run",
    "run calm --load-workers 0 --dry-run",
    "forecast calm --seed -1",
    "forecast calm --seed 99999999999999999999999",
    "phase-map retry-storm --seed -2",
    "phase-map retry-storm --seconds 0",
    "phase-map retry-storm --seconds nan",
    "phase-map retry-storm --points -4",
    "explain --seconds nan",
    "explain --seconds 0",
    "verify calm --seeds 0",
    "verify calm --seeds 1000000",
    "verify calm --seeds 3 --minutes -1",
    "accuracy --suite local --seeds -3",
    "accuracy --suite local --minutes inf",
    "mesh tap deploy/web --max-rps -1",
    "mesh top deploy/web --max-rps nan",
]


@pytest.mark.parametrize("line", REFUSED)
def test_a_number_out_of_range_is_refused_in_one_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gameday", *line.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == Exit.BAD_INPUT
    assert said.out == ""
    (told,) = said.err.splitlines()
    option = [word for word in line.split() if word.startswith("--") and word not in ("--suite", "--dry-run")][-1]
    assert option in told
    assert "from" in told
    assert list(tmp_path.iterdir()) == []


def test_the_ends_of_a_range_are_in_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("0", str(2**63 - 1)):
        monkeypatch.setattr("sys.argv", ["gameday", "run", "calm", "--dry-run", "--seed", seed])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == Exit.HELD, capsys.readouterr().err


def test_help_of_the_mesh_says_what_each_of_its_commands_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gameday", "mesh", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    rows = [line.strip("│ ").split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line[2:3].strip()]
    described = {row[0]: row[1] for row in rows if len(row) == 2}
    for command in ("check", "install", "stat", "tap", "rotate-issuer"):
        assert len(described[command]) > 10, command


def test_a_word_too_many_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["gameday", "show", "calm", "extra"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == Exit.BAD_INPUT
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("gameday: extra: one too many;")


def started(line: str, cwd: Path, stdout: int | str, **environment: str) -> tuple[int, str]:
    """Exit code and standard error of `gameday LINE` as a process of its own."""
    with open(stdout, "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "gameday", *line.split()], cwd=cwd, stdout=out, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment}, check=False, timeout=60,
        )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("line", ["list", "run cert-expiry --dry-run", "show cert-expiry"])
def test_a_reader_that_leaves_is_no_failure(line: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert started(line, tmp_path, writing) == (Exit.HELD, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    code, said = started("list", tmp_path, "/dev/full")
    assert code == Exit.HARNESS_FAILED
    assert said == "gameday: cannot be written: No space left on device\n"


def test_a_terminal_without_arrows_is_served(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert started("show cert-expiry", tmp_path, str(out), PYTHONIOENCODING="ascii") == (Exit.HELD, "")
    assert out.read_text().isascii()


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose store is not SQLite, in the current folder."""
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "runs/20260101-000000-a/run.sqlite"
    store.parent.mkdir(parents=True)
    store.write_bytes(b"not SQLite, though as long as a header of it would be" * 100)
    return store


@pytest.mark.parametrize("line", ["report", "explain", "verify", "calibrate latest", "forecast calm --from-run latest"])
def test_a_damaged_store_is_named_in_one_line(
    line: str, damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gameday", *line.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == Exit.BAD_INPUT
    (told,) = capsys.readouterr().err.splitlines()
    assert str(damaged) in told


def test_recovery_does_what_it_can_for_a_run_whose_store_is_damaged(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gameday", "recover"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == Exit.HELD
    assert f"{damaged} cannot be read" in capsys.readouterr().out
