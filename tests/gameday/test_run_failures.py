"""What a run says when it cannot go on."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from pathlib import Path

import pytest

from chaos.experiment import LATE_SECONDS
from chaos.plan import plan
from gameday import rundir
from gameday.errors import Exit, cannot_write
from gameday.progress import Lines
from gameday.run import GameDay, RunOptions
from gameday.worlds.catalogue import make_world
from reports.store import RunStore
from scenarios.load import load_scenario

TINY = Path(__file__).parents[1] / "e2e" / "local" / "tiny" / "scenario.yaml"
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


@pytest.mark.parametrize("late", [0.2, 2.5, 15.0])
def test_a_fault_that_went_in_late_is_a_note_and_one_that_was_to_be_over_fails_the_run(
    tmp_path: Path, late: float
) -> None:
    """This one lasts six seconds."""
    scenario, options, told = load_scenario(str(TINY)), RunOptions(str(TINY)), list[str]()
    run = rundir.create(tmp_path / "run", "run")
    world = make_world(scenario, run.path, options.world)
    (fault,) = scenario.faults
    with RunStore(run.store, create=True) as store:
        day = GameDay(scenario, options, plan(scenario, "local"), run, world, store, Lines(told.append))
        day._ledger.begin(fault.name, fault.kind, "half of the answers are errors", [], 60.0)
        day._ledger.injected(fault.name)
        (record,) = day._ledger.records()
        day._planned_injection_at = record.begun_at - fault.at - late
        asyncio.run(day._guarded(day._end_faults(complete=True)))
        asyncio.run(world.down())
        notes = [event.text for event in store.events() if event.kind == "note"]
    assert not any(record.open for record in day._ledger.records())
    if late < LATE_SECONDS:
        assert (day._code, day._reasons, notes) == (Exit.HELD, [], [])
    elif late < fault.duration:
        assert (day._code, day._reasons) == (Exit.HELD, [])
        assert notes == [f"{fault.name} went in {late:.1f} s late: the forecast is of the plan"]
        assert notes[0] in told[-1]
    else:
        assert (day._code, notes) == (Exit.HARNESS_FAILED, [])
        assert day._reasons[0].startswith(f"{fault.name} went in {late:.0f} s late, when it was to be over")


def test_a_fault_that_never_went_in_fails_the_run(tmp_path: Path) -> None:
    scenario, options = load_scenario(str(TINY)), RunOptions(str(TINY))
    run = rundir.create(tmp_path / "run", "run")
    world = make_world(scenario, run.path, options.world)
    with RunStore(run.store, create=True) as store:
        day = GameDay(scenario, options, plan(scenario, "local"), run, world, store, Lines(list[str]().append))
        asyncio.run(day._guarded(day._end_faults(complete=True)))
        asyncio.run(world.down())
    assert day._code is Exit.HARNESS_FAILED
    assert day._reasons[0].startswith("never injected: back-fails; see")
