"""chaostoolkit actions: apply and undo the faults of a game day.

They work in any chaostoolkit experiment whose arguments name a run directory. Each returns at once; `wait_until` is the
only one that takes time.

chaostoolkit takes a signal that ends a wait for an activity that failed, and goes on with the next one. So a wait that
was cut off is remembered: no fault is injected after it, nothing is waited for, and what is in is reverted at once.
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
from chaoslib.exceptions import InterruptExecution

from chaos.faults.base import CannotInject
from chaos.faults.catalogue import FAULTS
from chaos.ledger import Ledger
from chaos.requests import StepFailed, perform_all
from chaos.world import read_world
from scenarios.model import FaultSpec

__all__ = ["inject_fault", "revert_fault", "wait_until"]

MAX_WAIT_SECONDS = 4 * 3600.0
_ending = Event()
"""A signal has cut a wait off in this process."""


def inject_fault(run_dir: str, fault: dict[str, Any]) -> str:
    """Writes the rollback to the ledger, then applies the fault; returns what was done.

    Raises:
        CannotInject, StepFailed: chaostoolkit marks the activity as failed; what was applied is undone.
    """
    spec = msgspec.convert(fault, FaultSpec)
    if _ending.is_set():
        raise CannotInject(f"{spec.name} was not injected: the experiment was told to end")
    kind = FAULTS[spec.kind]
    world = read_world(Path(run_dir))
    steps = kind.steps(spec, world)
    ledger = Ledger(Path(run_dir))
    try:
        ledger.begin(spec.name, spec.kind, kind.describe(spec), steps.revert, spec.ttl)
        try:
            perform_all(steps.inject)
        except StepFailed:
            ledger.revert(spec.name)  # half a fault is none that was planned
            raise
        if not ledger.injected(spec.name):
            perform_all(steps.revert)
            raise CannotInject(f"{spec.name} was reverted while it was being injected")
    finally:
        ledger.close()
    return kind.describe(spec)


def revert_fault(run_dir: str, name: str) -> bool:
    """Undoes a fault; False if it was undone already.

    Raises:
        StepFailed: the reaper will try again.
    """
    ledger = Ledger(Path(run_dir))
    try:
        return ledger.revert(name)
    finally:
        ledger.close()


def wait_until(epoch: float) -> float:
    """Sleeps until that Unix second, at most four hours; returns how late it woke up, in seconds.

    Raises:
        InterruptExecution: a signal told chaostoolkit to end; later waits return at once.
    """
    remaining = min(epoch - time.time(), MAX_WAIT_SECONDS)
    if remaining > 0 and not _ending.is_set():
        try:
            time.sleep(remaining)
        except InterruptExecution:
            _ending.set()
            raise
    return time.time() - epoch
