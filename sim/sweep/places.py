"""Many plays on all cores, or on somebody else's: one interface, three places to play.

    here     this process, one after another
    pool     spawned, niced workers of this machine, as for a forecast
    Dask     an existing cluster (`--dask tcp://scheduler:8786`); its workers need Gameday installed

A job is any object that pickles and says everything that its result depends on, seed included; what plays it is a
function of a module. So the same jobs give the same results wherever they are played. Jobs come in waves: what a wave
contains follows from the results of those before it, never from who was quick. Only the time budget can make a
difference, and it says so: a wave that is cut short returns the results of an unbroken run of its jobs from the first.

Rejected: `Players` of `sim.replication.replicate` as it is (one kind of job, one `enough` for all); `Client.map` for a
whole wave (nothing could be taken back when the time is over).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from types import TracebackType
from typing import Any, Self, TypeVar

from sim.cores import count_cores
from sim.replication.workers import spawn_workers

CHUNK_SECONDS = 0.25
"""What one message to a worker is worth at least: short plays travel together."""
MOST_IN_CHUNK = 16
DASK_WAIT_SECONDS = 5.0


class NoDask(Exception):
    """The extra is not installed, or the cluster does not answer; the text is for the user."""


Job = TypeVar("Job")
Result = TypeVar("Result")


def _warm() -> None:
    """Nothing; its arrival in a worker has imported this module there."""


def play_all(play: Callable[[Job], Result], jobs: list[Job]) -> tuple[list[Result], float]:
    """One message's worth of plays, in order, and the seconds that they took."""
    began = time.perf_counter()
    results = [play(job) for job in jobs]
    return results, time.perf_counter() - began


class Clock:
    """Seconds that are left of a budget; None for no end."""

    def __init__(self, seconds: float | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        return float("inf") if self._until is None else self._until - time.monotonic()


class Sweep:
    """Plays waves of jobs. Use as a context manager.

    `processes`: None for all cores, 1 for this process only. `dask`: address of a scheduler, which goes before it.
    `done`: told after every message how many plays are finished in all.

    Raises:
        NoDask: `dask` is given and cannot be had.
    """

    def __init__(
        self, processes: int | None = None, dask: str | None = None, done: Callable[[int], None] | None = None
    ) -> None:
        self.played = 0
        self.compute_seconds = 0.0
        """Of all plays, added up over the workers."""
        self._done = done
        self._client: Any = None
        self._pool: ProcessPoolExecutor | None = None
        if dask is not None:
            self._client, self.workers = _connect(dask)
        else:
            self.workers = processes if processes is not None else count_cores()
            if self.workers > 1:
                self._pool = spawn_workers(self.workers, _warm)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._client is not None:
            self._client.close()

    def play(self, play: Callable[[Job], Result], jobs: Sequence[Job], clock: Clock) -> list[Result]:
        """The results of jobs in order; fewer than jobs where the time was over."""
        if self._client is not None:
            return self._spread(play, jobs, clock, self._client.submit, _first_of_cluster)
        if self._pool is not None:
            return self._spread(play, jobs, clock, self._pool.submit, _first_of_pool)
        results: list[Result] = []
        for job in jobs:
            if clock.left() <= 0:
                break
            played, seconds = play_all(play, [job])
            results.extend(played)
            self._count(1, seconds)
        return results

    def _spread(
        self,
        play: Callable[[Job], Result],
        jobs: Sequence[Job],
        clock: Clock,
        submit: Callable[..., Any],
        first: Callable[[list[Any], float], list[Any]],
    ) -> list[Result]:
        running: dict[Any, int] = {}
        found: dict[int, list[Result]] = {}
        start = number = 0
        while True:
            while start < len(jobs) and len(running) < 2 * self.workers and clock.left() > 0:
                chunk = list(jobs[start : start + self._chunk(len(jobs) - start)])
                running[submit(play_all, play, chunk)] = number
                start += len(chunk)
                number += 1
            if not running:
                break
            for future in first(list(running), max(0.0, min(clock.left(), 3600.0))):
                results, seconds = future.result()
                found[running.pop(future)] = results
                self._count(len(results), seconds)
            if clock.left() <= 0:
                # Those under way are let go: a play is short, and nobody waits for it.
                for future in running:
                    future.cancel()
                break
        whole: list[Result] = []
        for index in range(number):
            if index not in found:
                break
            whole.extend(found[index])
        return whole

    def _chunk(self, left: int) -> int:
        """How many plays travel together: worth a quarter of a second, and never so many that a worker idles."""
        mean = self.compute_seconds / self.played if self.played else CHUNK_SECONDS
        worth = int(CHUNK_SECONDS / max(mean, 1e-4))
        return max(1, min(MOST_IN_CHUNK, worth, left // (2 * self.workers)))

    def _count(self, plays: int, seconds: float) -> None:
        self.played += plays
        self.compute_seconds += seconds
        if self._done is not None:
            self._done(self.played)


def _first_of_pool(futures: list[Future[Any]], seconds: float) -> list[Future[Any]]:
    return list(wait(futures, timeout=seconds, return_when=FIRST_COMPLETED).done)


def _first_of_cluster(futures: list[Any], seconds: float) -> list[Any]:
    distributed = importlib.import_module("distributed")
    try:
        return list(distributed.wait(futures, timeout=seconds, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []


def _connect(address: str) -> tuple[Any, int]:
    """A client of the cluster, and how many threads it has."""
    try:
        distributed = importlib.import_module("distributed")
    except ImportError:
        raise NoDask(
            "--dask needs the package dask.distributed; install it with: pip install 'gameday[dask]'"
        ) from None
    try:
        client = distributed.Client(address, timeout=DASK_WAIT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NoDask(
            f"--dask {address}: no scheduler answers there ({reason}); start one with `dask scheduler`"
        ) from None
    threads = sum(client.nthreads().values())
    if threads == 0:
        client.close()
        raise NoDask(f"--dask {address}: the cluster has no workers; start some with `dask worker {address}`")
    return client, threads
