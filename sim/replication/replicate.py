"""Replications on all cores: one function that plays one, and a pool that plays as many as the time allows.

Workers (`sim.replication.workers`) are started before the calibration so that their imports cost no time. Each
replication's random numbers depend on (seed, replication, stream) alone, never on which worker played it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self, TypeVar

from sim.calibration.calibrate import Calibration
from sim.cores import count_cores
from sim.model.arrivals import Schedule
from sim.model.draws import Streams
from sim.model.setup import Setup
from sim.model.system import System
from sim.observation import PodState
from sim.replication.quantities import SCRAPE_SECONDS, Floats, Key, fan_series, quantities
from sim.replication.workers import spawn_workers

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that one replication needs. Times are seconds from the planned injection."""

    setup: Setup
    calibration: Calibration
    pods: tuple[PodState, ...]
    seed: int
    start: float
    fan_step: float | None = None
    """None: no time series wanted."""
    load: float = 1.0
    """Times what the draw says of the arrival rate."""
    schedule: Schedule | None = None
    """The drill's own arrivals, where they are known; another load has others."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one replication says."""

    replication: int
    values: dict[Key, float]
    fans: dict[tuple[str, str], Floats] = field(default_factory=dict)
    requests: int = 0
    hops: int = 0
    seconds: float = 0.0
    stopped_at: float | None = None


def play(task: Task, replication: int) -> Outcome:
    """One replication, with parameters of its own draw."""
    began = time.perf_counter()
    streams = Streams(task.seed, replication)
    drawn = task.calibration.draw(streams)
    parameters = replace(drawn, rate=task.load * drawn.rate)
    record = System(
        task.setup,
        parameters,
        streams,
        pods=task.pods,
        start=task.start,
        schedule=task.schedule if task.load == 1.0 else None,
    ).run()
    scrapes = streams.random("scrapes")
    return Outcome(
        replication,
        quantities(record, task.setup, SCRAPE_SECONDS * scrapes.random(), scrapes),
        fan_series(record, task.setup, task.fan_step) if task.fan_step is not None else {},
        len(record.route),
        sum(sum(seconds.values()) for seconds in record.reached.values()),
        time.perf_counter() - began,
        record.stopped_at,
    )


def _warm() -> None:
    """Nothing; its arrival in a worker has imported this module there."""


class Players:
    """A pool of workers, or this very process when `processes` is 1. Use as a context manager.

    `processes`: None for one on each core. On a single core that is a worker too: a runner that measures must be able
    to go before it.
    """

    def __init__(self, processes: int | None = None) -> None:
        self.processes = processes if processes is not None else count_cores()
        self._pool = spawn_workers(self.processes, _warm) if processes != 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Ends the workers when they have played what they were given: another thread may be waiting for that, and
        would wait for ever for what is cancelled."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def play(self, jobs: Iterator[tuple[Task, int]], enough: Callable[[int, float], bool]) -> list[Outcome]:
        """Plays jobs in order until there are none or `enough(finished, mean seconds)` says so.

        The outcomes are those of an unbroken run of jobs from the first, in their order, so that what is kept does not
        depend on which worker was quick.
        """
        if self._pool is None:
            return self._play_here(jobs, enough)
        order = 0
        done: dict[int, Outcome] = {}
        running: dict[Future[Outcome], int] = {}
        spent = 0.0
        exhausted = False
        while True:
            # One more than there are workers keeps them busy, once it is known what one costs.
            while not exhausted and len(running) < self.processes + bool(done):
                if enough(len(done) + len(running), spent / len(done) if done else 0.0):
                    exhausted = True
                    break
                job = next(jobs, None)
                if job is None:
                    exhausted = True
                    break
                running[self._pool.submit(play, *job)] = order
                order += 1
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                done[running.pop(future)] = outcome
                spent += outcome.seconds
        return [done[index] for index in sorted(done)]

    def each(self, function: Callable[[J], R], jobs: Sequence[J], deadline: float) -> list[R] | None:
        """The function's results for all jobs, in order; None where `deadline` (time.monotonic) passed before the last
        of them was done. The function must be a module's own, since it travels to the workers by its name."""
        if self._pool is None:
            found: list[R] = []
            for job in jobs:
                if time.monotonic() > deadline:
                    return None
                found.append(function(job))
            return found
        futures = [self._pool.submit(function, job) for job in jobs]
        try:
            return [future.result(timeout=max(0.0, deadline - time.monotonic())) for future in futures]
        except TimeoutError:
            return None
        finally:
            for future in futures:
                future.cancel()

    def _play_here(self, jobs: Iterator[tuple[Task, int]], enough: Callable[[int, float], bool]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        spent = 0.0
        while not enough(len(outcomes), spent / len(outcomes) if outcomes else 0.0):
            job = next(jobs, None)
            if job is None:
                break
            outcomes.append(play(*job))
            spent += outcomes[-1].seconds
        return outcomes
