"""Ctrl-C ends a run in any phase: faults are reverted and nothing is left behind."""

from __future__ import annotations

import time

import msgspec
import pytest

from tests.e2e.local.conftest import PHASE_TIMEOUT_SECONDS, TINY, Running, Starter, eventually_gone

pytestmark = pytest.mark.e2e
PHASES = ("up", "warmup", "baseline", "seal", "inject", "recover")


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
