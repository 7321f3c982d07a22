"""Cleans up after a run on Kubernetes whose runner died: faults reverted, then the world removed.

In the reverse order of a run, and each part although another failed: what the ledger says is reverted first, so that
even a cluster that cannot be cleaned (no rights any more, say) is a healthy one.
"""

from __future__ import annotations

from pathlib import Path

from chaos.ledger import Ledger
from chaos.processes import end, recorded_children
from gameday.errors import WorldFailed
from gameday.worlds.kind.record import read_made
from gameday.worlds.kind.remove import remove_world


def recover(run_dir: Path) -> list[str]:
    """Ends what is left of the run; returns what was done, one line each."""
    done = _revert(run_dir)
    children = [child for child in recorded_children(run_dir) if child.name != "runner"]
    done += [f"ended {child.name} (pid {child.pid})" for child in children if end(child, 2.0)]
    made = read_made(run_dir)
    if made is not None:
        try:
            done += remove_world(made, run_dir)
        except WorldFailed as error:
            return [*done, f"not everything: {error}; `gameday recover` may be asked again"]
    _close(run_dir)
    return done or ["nothing was left"]


def _revert(run_dir: Path) -> list[str]:
    try:
        ledger = Ledger(run_dir)
    except FileNotFoundError:
        return []
    try:
        return [f"reverted fault {name}" for name in ledger.revert_all()]
    finally:
        ledger.close()


def _close(run_dir: Path) -> None:
    """The world is gone, and every fault with it."""
    try:
        ledger = Ledger(run_dir)
    except FileNotFoundError:
        return
    if not ledger.closed:
        ledger.close_run()
    ledger.close()
