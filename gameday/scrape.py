"""Scrapes every process of the world once a second into the run store.

All targets are asked at the same moment, each with a deadline shorter than the interval, over kept-alive connections. A
scrape that fails is counted (M10) and leaves no sample: a gap in the series is a gap in the report.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import aiohttp

from reports.store import Usage

INTERVAL_SECONDS = 1.0
TIMEOUT_SECONDS = 0.8
# Histograms that a report or the calibration reads; all other buckets would only fill the disk.
KEPT_BUCKETS = ("response_latency_ms_bucket", "app_service_seconds_bucket")


def parse_exposition(text: str) -> Iterable[tuple[str, str, float]]:
    """(name, labels, value) of each sample in a Prometheus text exposition; labels as they stand, without braces."""
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        head, _, value = line.rpartition(" ")
        brace = head.find("{")
        name, labels = (head, "") if brace < 0 else (head[:brace], head[brace + 1 : -1])
        if name.endswith("_bucket") and name not in KEPT_BUCKETS:
            continue
        try:
            yield name, labels, float(value)
        except ValueError:
            continue  # a line of another format version; the scrape's other lines still count


class Sink(Protocol):
    """What takes in what was seen: the run store, or the agent's spool."""

    def add_samples(self, at: float, process: str, samples: Iterable[tuple[str, str, float]]) -> None: ...
    def add_usage(self, usages: Iterable[Usage]) -> None: ...


class Scraper:
    """Runs until cancelled. Of a target whose url is None the scrape is due and fails: its telemetry is lost."""

    def __init__(
        self, sink: Sink, targets: Callable[[], list[tuple[str, str | None]]], usage: Callable[[], list[Usage]]
    ) -> None:
        self._sink = sink
        self._targets = targets
        self._usage = usage
        self.attempted = 0
        self.failed = 0

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            due = time.monotonic()
            while True:
                await self.once(session)
                due = max(due + INTERVAL_SECONDS, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    async def once(self, session: aiohttp.ClientSession) -> None:
        """One scrape of everything."""
        targets = self._targets()
        answers = await asyncio.gather(*(self._fetch(session, url) for _, url in targets))
        self._sink.add_usage(self._usage())
        for (process, _), answer in zip(targets, answers, strict=True):
            self.attempted += 1
            if answer is None:
                self.failed += 1
            else:
                at, text = answer
                self._sink.add_samples(at, process, parse_exposition(text))
        self._sink.add_samples(
            time.time(),
            "gameday",
            [("scrapes_total", "", float(self.attempted)), ("scrapes_failed_total", "", float(self.failed))],
        )

    async def _fetch(self, session: aiohttp.ClientSession, url: str | None) -> tuple[float, str] | None:
        if url is None:
            return None
        try:
            async with session.get(url) as response:
                if response.status != 200:
                    return None
                return time.time(), await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return None
