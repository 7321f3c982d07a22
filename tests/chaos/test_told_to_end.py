"""A signal in a wait: chaostoolkit goes on with its next activity, which must not be another fault."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from typing import NoReturn

import pytest
from chaoslib.exceptions import InterruptExecution

from chaos import actions
from chaos.faults.base import CannotInject

FAULT = {
    "name": "second",
    "kind": "pod-kill",
    "at": 5.0,
    "duration": 5.0,
    "targets": {"service": "cart"},
    "parameters": {},
}


def test_nothing_is_injected_and_nothing_waited_for_after_a_wait_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_to_end(_: float) -> NoReturn:
        raise InterruptExecution("SIGTERM signal received")

    monkeypatch.setattr(actions, "_ending", Event())
    monkeypatch.setattr(time, "sleep", told_to_end)
    with pytest.raises(InterruptExecution):
        actions.wait_until(time.time() + 60.0)
    with pytest.raises(CannotInject, match="second was not injected: the experiment was told to end"):
        actions.inject_fault(str(tmp_path), FAULT)
    assert list(tmp_path.iterdir()) == []
    assert actions.wait_until(time.time() + 60.0) < 0.0
