"""Cleans up after a run: ends the supervisor and every process that the run recorded, and closes its ledger.

Only processes that still are who they were (pid and start time), or that carry the run's mark in their environment, are
touched; so it is safe at any later time, after a reboot too, and twice. The mark finds what a user's own command left
behind outside its process group (Linux; elsewhere the groups have to do).
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

import msgspec

from chaos.ledger import Ledger
from chaos.processes import Recorded, end, is_alive, recorded_children, started_at
from chaos.requests import Step, StepFailed, perform
from chaos.world import WorldState, read_world
from gameday.worlds.local.supervised import RUN_MARK

SHUTDOWN_SECONDS = 8.0


def recover(run_dir: Path) -> list[str]:
    """Ends what is left of the run; returns what was done, one line each."""
    done: list[str] = []
    _revert(run_dir, done)
    children = [child for child in recorded_children(run_dir) if child.name != "runner"]
    state = _state(run_dir)
    supervisor = state.supervisor if state is not None else None
    if state is not None and supervisor is not None and is_alive(supervisor.pid, supervisor.start):
        try:
            perform(Step("POST", state.supervisor_url("/shutdown")))
            _wait_for_end(Recorded("supervisor", supervisor.pid, supervisor.start))
            done.append("the supervisor ended the world")
        except StepFailed as failure:
            done.append(f"the supervisor did not answer ({failure}); ending its processes one by one")
    # Whoever restarts others goes first.
    ordered = sorted(children, key=lambda child: child.name != "supervisor")
    done.extend(f"ended {child.name} (pid {child.pid})" for child in ordered if end(child, 2.0))
    done.extend(f"ended {child.name} (pid {child.pid})" for child in marked_processes(run_dir) if end(child, 2.0))
    if state is not None and supervisor is not None:
        shutil.rmtree(Path(supervisor.socket).parent, ignore_errors=True)
        done.extend(f"{address} is still taken by a process that is not of this run" for address in _taken(state))
    _close_ledger(run_dir)
    return done or ["nothing was left"]


def marked_processes(run_dir: Path) -> list[Recorded]:
    """Processes of this user that carry the run's mark; none where the system does not show environments."""
    mark = f"{RUN_MARK}={run_dir}".encode()
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc/self/environ").exists() else ():
        pid = int(entry.name) if entry.name.isdigit() else os.getpid()
        try:
            if pid == os.getpid() or mark not in (entry / "environ").read_bytes().split(b"\0"):
                continue
        except OSError:
            continue  # another user's, or gone meanwhile
        start = started_at(pid)
        if start is not None:
            found.append(Recorded("a left-over process", pid, start))
    return found


def _revert(run_dir: Path, done: list[str]) -> None:
    try:
        ledger = Ledger(run_dir)
    except FileNotFoundError:
        return
    done.extend(f"reverted fault {name}" for name in ledger.revert_all())
    ledger.close()


def _close_ledger(run_dir: Path) -> None:
    """The world is gone, and every fault with it."""
    try:
        ledger = Ledger(run_dir)
    except FileNotFoundError:
        return
    ledger.revert_all()
    if not ledger.closed:
        ledger.close_run()
    ledger.close()


def _state(run_dir: Path) -> WorldState | None:
    try:
        return read_world(run_dir)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _wait_for_end(process: Recorded) -> None:
    deadline = time.monotonic() + SHUTDOWN_SECONDS
    while is_alive(process.pid, process.start) and time.monotonic() < deadline:
        time.sleep(0.05)


def _taken(state: WorldState) -> list[str]:
    addresses = [component.address for component in state.control.values()]
    for pod in state.pods:
        addresses += [address for address in (pod.app, pod.inbound, pod.outbound, pod.proxy_admin) if address]
    return [address for address in addresses if _answers(address)]


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=0.2).close()
    except OSError:
        return False
    return True
