"""What a run says when it cannot go on."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from pathlib import Path

import pytest

from chaos.ledger import Record
from chaos.plan import plan
from gameday import rundir
from gameday.errors import Exit, cannot_write
from gameday.ingest import late_faults
from gameday.progress import Lines
from gameday.run import GameDay, RunOptions
from gameday.worlds.catalogue import make_world
from reports.store import RunStore
from scenarios.load import load_scenario
from scenarios.model import FaultSpec

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_full_database_is_a_disk_that_cannot_be_written() -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.execute("CREATE TABLE t (x)")
    database.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as full:
        database.execute("INSERT INTO t VALUES (zeroblob(100000))")
    assert cannot_write(full.value)
    with pytest.raises(sqlite3.OperationalError) as slip:
        database.execute("SELECT y FROM t")
    assert not cannot_write(slip.value)
    assert cannot_write(FULL)
    assert not cannot_write(OSError(errno.ECONNREFUSED, "refused"))


def test_a_full_disk_is_said_once_however_many_steps_it_stops(tmp_path: Path) -> None:
    scenario, options, told = load_scenario("calm"), RunOptions("calm"), list[str]()
    run = rundir.create(tmp_path / "run", "run")
    world = make_world(scenario, run.path, options.world)

    async def fails(error: Exception) -> None:
        raise error

    async def steps() -> None:
        for error in (FULL, FULL, ValueError("something else")):
            await day._guarded(fails(error))

    with RunStore(run.store, create=True) as store:
        day = GameDay(scenario, options, plan(scenario, "local"), run, world, store, Lines(told.append))
        asyncio.run(steps())
        asyncio.run(world.down())
    assert day._code is Exit.HARNESS_FAILED
    assert len(told) == 2
    assert [reason for reason in day._reasons if "make room" in reason] == day._reasons[:1]
    assert "ValueError: something else" in run.log("runner").read_text()


@pytest.mark.parametrize(
    ("begun_at", "found"),
    [(1_025.4, {}), (1_027.5, {"away": (2.5, False)}), (1_040.0, {"away": (15.0, True)}), (None, {})],
)
def test_a_fault_that_went_in_late_is_told_from_one_that_was_on_time(
    begun_at: float | None, found: dict[str, tuple[float, bool]]
) -> None:
    """Planned for second 25 of an injection at 1,000, for ten seconds."""
    away = FaultSpec("away", "control-plane-down", 25.0, 10.0, {}, {}, 1)
    record = Record("away", "k", "t", "reverted", (), 0.0, begun_at or 0.0, begun_at, None, None)
    records = [record] if begun_at is not None else []
    assert late_faults([away], records, 1_000.0) == found
