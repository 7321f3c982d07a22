"""The reaper: reverts faults that have outlived their time to live, or whose runner is gone.

    python -m chaos.reaper RUN_DIR

A process and session of its own, so that neither Ctrl-C nor `kill -9` of the runner reaches it. While the runner lives,
only expired faults are reverted: the runner knows better. Once it is gone nobody will end the drill, so everything is
reverted at once. It ends when the run is closed, or when the runner is gone and nothing is left to revert.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from chaos.ledger import Ledger
from chaos.processes import is_alive, recorded_children
from chaos.requests import StepFailed

POLL_SECONDS = 0.5
GIVE_UP_SECONDS = 120.0
"""After the runner's death; by then the supervisor has ended the world, and with it every fault."""


def sweep(ledger: Ledger, now: float, runner_alive: bool) -> int:
    """Reverts what is due; returns how many faults are still open."""
    due = ledger.expired(now) if runner_alive else [record for record in ledger.records() if record.open]
    for record in due:
        try:
            ledger.revert(record.name)
            print(f"reverted {record.name}", flush=True)
        except StepFailed as failure:
            print(f"{record.name}: {failure}", flush=True)
    return sum(record.open for record in ledger.records())


def main() -> None:
    if len(sys.argv) != 2:
        print("usage: python -m chaos.reaper RUN_DIR", file=sys.stderr)
        sys.exit(2)
    run_dir = Path(sys.argv[1])
    if os.getpid() != os.getsid(0):
        os.setsid()
    ledger = Ledger(run_dir)
    runner = next((child for child in recorded_children(run_dir) if child.name == "runner"), None)
    gone_since: float | None = None
    while not ledger.closed:
        alive = runner is not None and is_alive(runner.pid, runner.start)
        still_open = sweep(ledger, time.time(), alive)
        if not alive:
            gone_since = gone_since or time.monotonic()
            if not still_open or time.monotonic() - gone_since > GIVE_UP_SECONDS:
                break
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
