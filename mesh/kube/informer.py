"""One kind of object, kept in step with the API server: list, then watch, for ever.

    list (pages) ─► watch from its resourceVersion ─► ended in its time: watch on from the last event or bookmark
         ▲                     │                   ├─ 410: the server forgot that version ──────────► list
         │                     │                   ├─ broken off: backoff, watch on
         │                     │                   └─ silent past its time: stalled ────────────────► list
         └── every RESYNC ─────┘   404 (the CRD is not installed): empty, looked for again every 30 s

A watch is asked to end within about a minute. That costs one request a minute and bounds how long a stream that died
without a sign can go unnoticed; bookmarks keep its resourceVersion fresh, so going on costs nothing more. The re-list
every ten minutes mends what no stream could tell (Linkerd #15109, #11763: a missed event is never seen again).

While the API server is unreachable the store keeps its last state, and says so in `lag_seconds`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar, cast

import msgspec

from mesh.kube.api import Api, ApiFailed, Expired, Log, Missing, Unreachable, failure
from mesh.kube.kinds import Kind
from mesh.kube.store import Change, Head, Key, Read, Store

T = TypeVar("T")

BUSY = 429
"""The server asks for patience, as it does for each custom resource while it starts: nothing to tell anybody."""

DOUBTED_ABSENCES = 6
"""404s in a row before a kind counts as gone; with the backoff between them about five seconds."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds unless said otherwise."""

    watch: float = 45.0
    """Least life of a watch, half as much again at most, so that those of many kinds do not end together."""
    grace: float = 5.0
    """A watch that outlives what was asked for by this much is stalled."""
    resync: float = 600.0
    """Between two full lists."""
    absent: float = 30.0
    """Until a kind that the server does not know is looked for again."""
    backoff: float = 0.2
    max_backoff: float = 3.0
    """The longest that all work from an old state once the API server is back; they go on with the first answer."""
    page: int = 500
    """Objects in one page of a list."""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct):
    metadata: Head


class Informer(Generic[T]):
    """All objects of one kind (in one namespace, or selected by field or label), as of the last event."""

    def __init__(
        self,
        api: Api,
        kind: Kind,
        read: Read[T],
        log: Log,
        on_change: Callable[[list[Change[T]]], None] = lambda changes: None,
        *,
        namespace: str | None = None,
        fields: str = "",
        labels: str = "",
        timing: Timing | None = None,
        rng: Random | None = None,
    ) -> None:
        """`on_change` gets the differences; it must not block and not raise."""
        self.kind = kind
        self.store: Store[T] = Store(read, self._complain)
        self.counts: Counter[str] = Counter()
        """How often: lists, watches, events, bookmarks, relists_expired, stalls, failures."""
        self._api = api
        self._log = log
        self._on_change = on_change
        self._path = kind.path(namespace)
        self._selectors = {"fieldSelector": fields} if fields else {}
        if labels:
            self._selectors["labelSelector"] = labels
        self._timing = timing or Timing()
        self._rng = rng or Random()
        self._synced = asyncio.Event()
        self._version = ""
        """resourceVersion to watch from; empty: a list is due."""
        self._resync_at = 0.0
        self._failures = 0
        self._absences = 0
        self._complaint = ""
        self._heard_at: float | None = None

    @property
    def synced(self) -> bool:
        """Whether the first list is in (or the kind is known not to be installed)."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        await self._synced.wait()

    @property
    def lag_seconds(self) -> float:
        """Since the server last showed that this state is current; at most a watch's life while all is well."""
        return asyncio.get_running_loop().time() - self._heard_at if self._heard_at is not None else 0.0

    async def run(self) -> None:
        """Follows the kind until cancelled."""
        while True:
            try:
                if not self._version or self._now() >= self._resync_at:
                    await self._list()
                await self._watch()
            except Expired:
                self.counts["relists_expired"] += 1
                self._version = ""
                await self._pause()
            except Missing:
                await self._absent()
            except ApiFailed as error:
                self._failed(error)
                await self._pause(error.retry_after)
            except msgspec.DecodeError as error:
                self._version = ""
                self._failed(Unreachable(f"answer cannot be read: {error}"))
                await self._pause()

    # ---- list

    async def _list(self) -> None:
        self.counts["lists"] += 1
        listing = self.store.listing()
        token = ""
        while True:
            params = {**self._selectors, "limit": str(self._timing.page)}
            if token:
                params["continue"] = token
            answer = msgspec.json.decode(await self._api.request("GET", self._path, params=params), type=_List)
            self._tell(listing.page(cast("list[bytes]", answer.items or [])))
            token = answer.metadata.continue_
            if not token:
                break
        self._tell(listing.finish())
        self._version = answer.metadata.resource_version
        self._resync_at = self._now() + self._timing.resync * self._rng.uniform(0.9, 1.1)
        self._heard()
        if not self._synced.is_set():
            self._log.debug("first list is in", kind=self.kind, objects=len(self.store))
            self._synced.set()

    # ---- watch

    async def _watch(self) -> None:
        self.counts["watches"] += 1
        life = self._timing.watch * self._rng.uniform(1.0, 1.5)
        params = {
            **self._selectors,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(max(1, round(life))),
        }
        started = self._now()
        heard = self.counts["events"] + self.counts["bookmarks"]
        try:
            async with (
                asyncio.timeout(life + self._timing.grace),
                self._api.lines(self._path, params) as lines,
                contextlib.aclosing(cast("AsyncGenerator[bytes, None]", lines)),
            ):
                async for line in lines:
                    if line:
                        self._event(msgspec.json.decode(line, type=_Event))
        except TimeoutError:
            self.counts["stalls"] += 1
            self._version = ""
            self._log.warn("watch stalled; listing anew", kind=self.kind, silent_seconds=round(self.lag_seconds, 1))
            return
        if heard == self.counts["events"] + self.counts["bookmarks"] and self._now() - started < life / 2:
            raise Unreachable("watch ended at once, without a word")
        self._heard()

    def _event(self, event: _Event) -> None:
        raw = cast(bytes, event.object)
        match event.type:
            case "ADDED" | "MODIFIED":
                change = self.store.put(raw)[1]
            case "DELETED":
                change = self.store.delete(raw)
            case "BOOKMARK":
                self.counts["bookmarks"] += 1
                self._advance(raw)
                return
            case "ERROR":
                raise failure(0, raw)
            case _:
                return  # a type that a later Kubernetes may add says nothing to us
        self.counts["events"] += 1
        self._advance(raw)
        if change is not None:
            self._tell([change])

    def _advance(self, raw: bytes) -> None:
        self._version = msgspec.json.decode(raw, type=_Bookmark).metadata.resource_version or self._version
        self._heard()

    # ---- what went wrong

    async def _absent(self) -> None:
        """404. A server that is starting up may say so for a moment, so what is known is dropped only after a few."""
        self._version = ""
        self._absences += 1
        self._heard_at = self._now()
        if self.store and self._absences < DOUBTED_ABSENCES:
            await self._pause()
            return
        if self.store:
            self._log.warn("kind is no longer installed; its objects are gone", kind=self.kind, objects=len(self.store))
            self._tell(self.store.clear())
        if not self._synced.is_set():
            self._log.info("kind is not installed; looking for it again", kind=self.kind, seconds=self._timing.absent)
            self._synced.set()
        await asyncio.sleep(self._timing.absent)

    def _failed(self, error: ApiFailed) -> None:
        self.counts["failures"] += 1
        if not self._api.answers:
            if self._api.report_silence():
                self._log.warn("the API server does not answer; its last state stays", reason=error)
        elif str(error) != self._complaint and error.status != BUSY:
            self._complaint = str(error)
            self._log.warn("cannot follow a kind; its last state stays", kind=self.kind, reason=error)
        elif error.status in (401, 403) and self._failures % 20 == 0:
            self._log.error("still refused by the API server", kind=self.kind, reason=error)

    async def _pause(self, at_least: float = 0.0) -> None:
        step = min(self._timing.max_backoff, self._timing.backoff * 2.0 ** min(self._failures, 16))
        self._failures += 1
        await self._api.pause(max(at_least, step * self._rng.uniform(0.5, 1.0)))

    def _heard(self) -> None:
        if self._failures:
            self._log.debug("following again", kind=self.kind, after_failures=self._failures)
        self._failures = self._absences = 0
        self._complaint = ""
        self._heard_at = self._now()

    def _tell(self, changes: list[Change[T]]) -> None:
        if changes:
            self._on_change(changes)

    def _complain(self, key: Key, reason: str) -> None:
        self._log.warn("object cannot be read; keeping its last good state", kind=self.kind, object="/".join(key),
                       reason=reason)  # fmt: skip

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
