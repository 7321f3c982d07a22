"""A run that is killed: its fault is reverted, its world ends, and `gameday recover` closes it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from chaos.ledger import Ledger
from reports.store import RunStore
from tests.e2e.local.conftest import GAMEDAY, TINY, Starter, eventually_gone

pytestmark = pytest.mark.e2e


def test_kill_9_mid_fault_is_reverted_by_the_reaper_ends_by_itself_and_is_closed_by_recover(start: Starter) -> None:
    run = start(TINY)
    run.wait_for("inject")
    run.process.kill()
    run.wait()
    killed_at = time.time()
    time.sleep(1.0)

    listed = subprocess.run([*GAMEDAY, "runs"], capture_output=True, text=True, check=True, cwd=run.out.parent)
    assert "Traceback" not in listed.stderr
    ttl_deadline = killed_at + 6.0 + 10.0 + 5.0  # duration + TTL margin + the reaper's promise
    while time.time() < ttl_deadline and not reverted(run.out):
        time.sleep(0.5)
    assert reverted(run.out)
    assert eventually_gone(run.out, 15.0) == []

    done = subprocess.run([*GAMEDAY, "recover", str(run.out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert eventually_gone(run.out, 3.0) == []
    with RunStore(run.out / "run.sqlite") as store:
        assert store.meta()["state"] == "interrupted"
        assert sum(1 for _ in store.requests()) > 100
    assert (run.out / "report.html").is_file()
    again = subprocess.run([*GAMEDAY, "recover", str(run.out)], capture_output=True, text=True, check=False)
    assert again.returncode == 0


def reverted(out: Path) -> bool:
    records = Ledger(out).records()
    return bool(records) and all(record.reverted_at is not None for record in records)
