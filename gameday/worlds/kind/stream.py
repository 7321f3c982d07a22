"""The runner's end of the agent's spool: one HTTP connection through the API server, taken up again where it broke.

    agent's spool ──► agent.ndjson in the run's folder ──► run store, requests.ndjson, supervisor-events.ndjson,
    world.json

What arrives is first appended to a file of ours; its length is the offset to go on from, so that a dropped connection
(or a killed API server) loses nothing and repeats nothing. From there on everything is as in the embedded world:
requests lie in the file that the load driver would have written, what happened to pods in the supervisor's, metrics in
the store. All times are on the runner's clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import msgspec

from gameday.errors import WorldFailed
from gameday.ingest import SupervisorEvent
from gameday.scrape import Sink
from gameday.worlds.kind.access import async_client_of
from gameday.worlds.kind.messages import (
    Begun,
    Happened,
    LoadEnded,
    NewSeries,
    Pods,
    ProcessUsage,
    Result,
    Samples,
    decode,
)
from loadtests.results import RequestResult, format_line
from mesh.kube.client import async_http_of
from reports.store import Usage

COPY = "agent.ndjson"
SILENCE_SECONDS = 6.0
"""The agent says something every second; after this long the connection is dead, whatever TCP thinks."""
RETRY_SECONDS = 0.5
GIVE_UP_SECONDS = 60.0
"""Without the agent for so long, a run has no eyes: it ends."""
CONFLICT = 409


class Intake:
    """Lines of the spool to where they belong. Pure but for the files that it appends to."""

    def __init__(
        self,
        sink: Sink,
        requests: Path,
        events: Path,
        correction: float,
        on_pods: Callable[[Pods], None],
        on_load_ended: Callable[[int], None],
    ) -> None:
        """`correction`: seconds that the agent's clock is ahead of ours."""
        self._sink = sink
        self._requests = requests.open("ab", buffering=0)
        self._events = events.open("ab", buffering=0)
        self._correction = correction
        self._on_pods = on_pods
        self._on_load_ended = on_load_ended
        self._series: dict[int, tuple[str, str]] = {}
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Any piece of the spool, in order.

        Raises:
            msgspec.DecodeError: a line that no agent wrote.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        results: list[bytes] = []
        for text in lines:
            line = decode(text)
            if isinstance(line, Result):
                results.append(format_line(self._corrected(line)))
            else:
                self._take(line)
        if results:
            self._requests.write(b"".join(results))

    def close(self) -> None:
        self._requests.close()
        self._events.close()

    def _take(self, line: Begun | NewSeries | Samples | ProcessUsage | Happened | Pods | LoadEnded | Result) -> None:
        match line:
            case NewSeries():
                self._series[line.number] = (line.name, line.labels)
            case Samples():
                named = ((*self._series[number], value) for number, value in line.values)
                self._sink.add_samples(line.at - self._correction, line.process, named)
            case ProcessUsage():
                usage = Usage(line.at - self._correction, line.process, line.cpu_seconds, line.rss_bytes)
                self._sink.add_usage([usage])
            case Happened():
                event = SupervisorEvent(line.at - self._correction, line.kind, line.text, line.data)
                self._events.write(msgspec.json.encode(event) + b"\n")
            case Pods():
                self._on_pods(line)
            case LoadEnded():
                self._on_load_ended(line.exit_code)
            case Begun():
                self._series = {}

    def _corrected(self, line: Result) -> RequestResult:
        def ours(at: float | None) -> float | None:
            return None if at is None else round(at - self._correction, 6)

        return RequestResult(
            line.route,
            line.journey,
            round(line.intended_at - self._correction, 6),
            ours(line.sent_at),
            ours(line.finished_at),
            line.status,
            line.error,
            line.trace_id,
        )


class Stream:
    """Keeps the copy equal to the spool, and feeds what arrives."""

    def __init__(self, run_dir: Path, agent: str, intake: Intake, note: Callable[[str], None]) -> None:
        """`agent`: API path of the agent's server. `note` hears of breaks."""
        self._run_dir = run_dir
        self._agent = agent
        self._intake = intake
        self._note = note
        self._copy = (run_dir / COPY).open("ab", buffering=0)
        self.offset = (run_dir / COPY).stat().st_size
        self._advanced = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            WorldFailed: the agent is gone for good, or is another one.
        """
        client = async_client_of(self._run_dir, SILENCE_SECONDS)
        http = async_http_of(client)
        heard = time.monotonic()
        broken = False
        try:
            while True:
                try:
                    async with http.stream("GET", f"{self._agent}/stream", params={"offset": self.offset}) as answer:
                        if answer.status_code == CONFLICT:
                            raise WorldFailed("the agent's pod was replaced in mid-run, and what it had seen is lost")
                        answer.raise_for_status()
                        if broken:
                            self._note(f"the agent is back after {time.monotonic() - heard:.1f} s; nothing was lost")
                            broken = False
                        async for data in answer.aiter_bytes():
                            heard = time.monotonic()
                            self._take(data)
                except httpx2.HTTPError as error:
                    if not broken:
                        self._note(f"lost the agent ({type(error).__name__}); asking again")
                    broken = True
                if time.monotonic() - heard > GIVE_UP_SECONDS:
                    raise WorldFailed(f"no word from the agent for {GIVE_UP_SECONDS:.0f} s; see its pod's log")
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._copy.close()
            self._intake.close()

    async def reached(self, offset: int, timeout: float) -> bool:
        """Waits until the copy is at least so long."""
        deadline = time.monotonic() + timeout
        while self.offset < offset:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                await asyncio.wait_for(self._advanced.wait(), left)
            except TimeoutError:
                return False
        return True

    def _take(self, data: bytes) -> None:
        self._copy.write(data)
        self.offset += len(data)
        self._intake.feed(data)
        self._advanced.set()
        self._advanced = asyncio.Event()
