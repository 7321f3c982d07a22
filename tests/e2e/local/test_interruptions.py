"""Whatever ends a run, faults are reverted and nothing is left behind."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from reports.store import RunStore
from tests.e2e.local.conftest import GAMEDAY, PHASE_TIMEOUT_SECONDS, TINY, Running, Starter, processes_of

pytestmark = pytest.mark.e2e
PHASES = ("up", "warmup", "baseline", "seal", "inject", "recover")


def eventually_gone(out: Path, seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := processes_of(out)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def test_ctrl_c_in_any_phase_reverts_reports_and_exits_3_and_a_second_one_does_not_stop_that(start: Starter) -> None:
    runs = {phase: start(TINY, name=phase) for phase in PHASES}
    interrupt_in_time(runs)
    for phase, run in runs.items():
        assert run.wait() == 3, run.output()
        assert "Traceback" not in run.output()
        assert ("note", f"the run ended in phase {phase}") in run.events()
        assert eventually_gone(run.out, 3.0) == []
        report = msgspec.json.decode((run.out / "report.json").read_bytes())
        assert report["verdict"]["outcome"] == "aborted"
        assert (run.out / "report.html").is_file()
        injected = [fault for fault in report["faults"] if fault["injected_at"] is not None]
        assert all(fault["reverted_at"] is not None for fault in injected)
        assert bool(injected) == (phase in ("inject", "recover"))


def interrupt_in_time(runs: dict[str, Running]) -> None:
    """Interrupts each run in the phase that is its name; the one that is to be hit mid-fault once the fault is in, and
    again while it winds down."""
    moments = {phase: [("phase", phase)] for phase in runs}
    moments["inject"] = [("inject", ""), ("abort", "")]
    deadline = time.monotonic() + PHASE_TIMEOUT_SECONDS
    while any(moments.values()):
        assert time.monotonic() < deadline, f"never came: {moments}"
        for phase, run in runs.items():
            if moments[phase] and run.has(*moments[phase][0]):
                assert run.process.poll() is None
                run.interrupt()
                del moments[phase][0]
        time.sleep(0.05)


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
    from chaos.ledger import Ledger

    records = Ledger(out).records()
    return bool(records) and all(record.reverted_at is not None for record in records)
