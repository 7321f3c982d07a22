"""Whatever ends a run, faults are reverted and nothing is left behind."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from reports.store import RunStore
from tests.e2e.local.conftest import GAMEDAY, TINY, Starter, processes_of

pytestmark = pytest.mark.e2e


def eventually_gone(out: Path, seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := processes_of(out)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@pytest.mark.parametrize("phase", ["up", "warmup", "baseline", "seal", "inject", "recover"])
def test_ctrl_c_reverts_reports_and_exits_3(start: Starter, phase: str) -> None:
    run = start(TINY)
    run.wait_for("phase", phase)
    if phase == "inject":
        run.wait_for("inject")
    run.interrupt()
    assert run.wait() == 3, run.output()
    assert "Traceback" not in run.output()
    assert eventually_gone(run.out, 3.0) == []
    report = msgspec.json.decode((run.out / "report.json").read_bytes())
    assert report["verdict"]["outcome"] == "aborted"
    assert (run.out / "report.html").is_file()
    assert all(fault["reverted_at"] is not None for fault in report["faults"] if fault["injected_at"] is not None)


def test_a_second_ctrl_c_does_not_stop_the_reverting(start: Starter) -> None:
    run = start(TINY)
    run.wait_for("inject")
    run.interrupt()
    time.sleep(0.2)
    run.interrupt()
    assert run.wait() == 3
    assert eventually_gone(run.out, 3.0) == []


def test_kill_9_mid_fault_is_reverted_by_the_reaper_and_cleaned_by_recover(start: Starter) -> None:
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
    from chaos.ledger import Ledger

    records = Ledger(out).records()
    return bool(records) and all(record.reverted_at is not None for record in records)
