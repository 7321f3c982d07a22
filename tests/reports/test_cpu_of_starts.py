"""What processes had used when their run began to look at them."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.cpu import start_costs
from reports.run import Run
from reports.store import LOAD_PROCESS, MACHINE_PROCESS, RunStore, Usage


def test_the_first_look_tells_what_each_kind_of_process_took(tmp_path: Path) -> None:
    """Replicas are one kind; what is first seen later, or has started again, is in the middle of something."""
    store = RunStore(tmp_path / "run.sqlite", create=True)
    first = [("control/policy", 0.5), ("cart-0/app", 0.2), ("cart-1/app", 0.3), ("cart-0/proxy", 0.4)]
    store.add_usage(
        Usage(100.0 + 0.01 * place, process, seconds, 1)
        for place, (process, seconds) in enumerate([*first, (LOAD_PROCESS, 0.01), (MACHINE_PROCESS, 2449.0)])
    )
    store.add_usage([Usage(101.0, "cart-0/app", 0.05, 1), Usage(101.0, "cart-1/proxy", 0.1, 1)])
    assert start_costs(Run(store)) == pytest.approx({"control/policy": 0.5, "cart/app": 0.25, "cart/proxy": 0.4})


def test_a_run_that_looked_at_no_process_says_nothing(tmp_path: Path) -> None:
    assert start_costs(Run(RunStore(tmp_path / "run.sqlite", create=True))) == {}
