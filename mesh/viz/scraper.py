"""Asks every proxy for its metrics, again and again; what does not answer in time is a miss and not a zero.

The scrapes of a round are spread over its interval and bounded in number: reading an exposition takes the loop a few
milliseconds, and answers and taps go on between two of them. A proxy that is still being asked when its next turn comes
is not asked twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiohttp

from mesh.control.log import Log
from mesh.viz.counters import Counters
from mesh.viz.exposition import Truncated, read
from mesh.viz.failures import describe
from mesh.viz.fleet import Fleet, Member, PodKey
from mesh.viz.flows import COUNTERS, GAUGES, HISTOGRAMS

SPREAD = 0.8
"""Of the interval: the share over which a round's scrapes begin."""
MAX_BODY_BYTES = 32 * 1024 * 1024
_WANTED = frozenset((*COUNTERS, *GAUGES))


class Scraper:
    """Fills the fleet's histories."""

    def __init__(
        self,
        fleet: Fleet,
        log: Log,
        counters: Counters,
        *,
        interval: float,
        timeout: float,
        concurrency: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`interval` and `timeout` in seconds; `concurrency`: scrapes at a time."""
        self._fleet = fleet
        self._log = log
        self._counters = counters
        self._interval = interval
        self._timeout = timeout
        self._slots = asyncio.Semaphore(concurrency)
        self._clock = clock
        self._asked: dict[PodKey, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Scrapes until cancelled."""
        loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=self._interval * 4)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=self._timeout), trust_env=False
        ) as session:
            try:
                while True:
                    began = loop.time()
                    meshed = [member for member in self._fleet.running() if member.pod.meshed]
                    for index, member in enumerate(meshed):
                        await asyncio.sleep(began + self._interval * SPREAD * index / len(meshed) - loop.time())
                        self._ask(session, member)
                    await asyncio.sleep(max(0.05, began + self._interval - loop.time()))
            finally:
                for task in self._asked.values():
                    task.cancel()
                await asyncio.gather(*self._asked.values(), return_exceptions=True)

    def _ask(self, session: aiohttp.ClientSession, member: Member) -> None:
        key = (member.pod.namespace, member.pod.name)
        if key in self._asked:
            return
        task = asyncio.get_running_loop().create_task(self._scrape(session, member))
        self._asked[key] = task
        task.add_done_callback(lambda done: self._asked_of(member, done))

    def _asked_of(self, member: Member, task: asyncio.Task[None]) -> None:
        self._asked.pop((member.pod.namespace, member.pod.name), None)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a bug of ours; the other proxies are scraped on, and this one is not passed off as idle
            self._log.error("scrape failed", pod=f"{member.pod.namespace}/{member.pod.name}", reason=repr(error))
            member.history.missed(self._clock(), "viz could not read its metrics; see viz's log")

    async def _scrape(self, session: aiohttp.ClientSession, member: Member) -> None:
        async with self._slots:
            try:
                text = await self._fetch(session, member.pod.admin)
                said = read(text, _WANTED, HISTOGRAMS)
            except (aiohttp.ClientError, OSError, TimeoutError, Truncated, ValueError) as error:
                self._missed(member, error)
                return
        now = self._clock()
        if self._fleet.observing_since is None:
            self._fleet.observing_since = now
        if member.history.last_miss:
            self._log.info("proxy answers again", pod=f"{member.pod.namespace}/{member.pod.name}")
        member.history.scraped(now, said, self._fleet.meanings)
        self._counters.add("viz_scrapes_total", 'result="ok"')
        if said.unreadable:
            self._counters.add("viz_unreadable_lines_total", amount=said.unreadable)

    async def _fetch(self, session: aiohttp.ClientSession, admin: str) -> str:
        async with session.get(f"http://{admin}/metrics") as response:
            if response.status != 200:
                raise ValueError(f"answered {response.status}")
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise ValueError(f"more than {MAX_BODY_BYTES >> 20} MiB of metrics")
        return body.decode()

    def _missed(self, member: Member, error: Exception) -> None:
        reason = describe(error)
        if not member.history.last_miss:
            self._log.warn("scrape missed", pod=f"{member.pod.namespace}/{member.pod.name}", reason=reason)
        member.history.missed(self._clock(), reason)
        self._counters.add("viz_scrapes_total", 'result="miss"')
