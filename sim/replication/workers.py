"""The processes that play replications.

They are spawned, not forked (the caller may run threads and an event loop), and niced. Ctrl-C in a terminal reaches
every process in front of it; what it means is the caller's to decide, so workers are born with SIGINT blocked: an
initializer would come after their imports, which take a second. And they end with their caller, even if that is killed:
a pool's workers hold both ends of its queue, so that none of them would ever see it closed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, resource_tracker

NICENESS = 10


def spawn_workers(processes: int, warm: Callable[[], None]) -> ProcessPoolExecutor:
    """A pool whose `processes` workers have been started; `warm` does nothing, but its arrival imports its module."""
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(NICENESS,)
    )
    resource_tracker.ensure_running()  # its start unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(processes):
            pool.submit(warm)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pool


def _begin(niceness: int) -> None:
    os.nice(niceness)
    end_with_parent()


def end_with_parent() -> None:
    """This process, a pool's worker, ends when the one that spawned it does, however that ends."""
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has one"
    connection.wait([parent.sentinel])
    os._exit(1)
