"""Writes statuses, as long as this replica leads: only where they say something else than is there.

    subjects changed, the registry changed, or a while went by ─► desired status of each ─► differs? ─► PATCH …/status

A patch names the resourceVersion that it was decided on. Where somebody else wrote meanwhile the API server answers
409, the informer brings what was written, and it is decided anew: another controller's entries are never overwritten.
The controller's own write comes back as an event, finds nothing to do, and that ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.registry.index import Index
from mesh.control.registry.kubernetes import TYPES
from mesh.control.registry.reading import resource_reader
from mesh.control.status.verdicts import Status, Subject, desired_status
from mesh.kube import kinds
from mesh.kube.api import MERGE_PATCH, Api, ApiFailed, Conflict, Missing
from mesh.kube.informer import Informer, Timing
from mesh.kube.kinds import Kind
from mesh.kube.lease import Election
from mesh.kube.store import Key

WITH_STATUS = (
    kinds.POLICY_HTTP_ROUTE,
    kinds.GATEWAY_HTTP_ROUTE,
    kinds.GRPC_ROUTE,
    kinds.RATE_LIMIT_POLICY,
    kinds.EGRESS_NETWORK,
)
SETTLE_SECONDS = 0.1
AGAIN_SECONDS = 30.0
RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A resource with what is written about it."""

    subject: Subject
    generation: int
    version: str
    status: Status


class StatusWriter:
    """Keeps the statuses of one cluster right."""

    def __init__(
        self,
        api: Api,
        index: Callable[[], Index],
        election: Election,
        log: Log,
        metrics: Metrics,
        timing: Timing | None = None,
    ) -> None:
        self._api = api
        self._index = index
        self._election = election
        self._log = log
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._told: set[tuple[Kind, Key, str]] = set()
        self.informers: list[Informer[Seen]] = [
            Informer(api, kind, _reader(kind), log, lambda changes: self.look_again(), timing=timing)
            for kind in WITH_STATUS
        ]
        metrics.counter("status_patches_total", "Statuses written, by result")

    def look_again(self) -> None:
        """Something that statuses depend on changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self.informers:
                group.create_task(informer.run())
            group.create_task(self._keep())

    async def _keep(self) -> None:
        for informer in self.informers:
            await informer.wait_synced()
        while True:
            self._changed.clear()
            failed = await self._apply() if self._election.leads else False
            pause = AGAIN_SECONDS if self._election.leads and not failed else RETRY_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
                    await asyncio.sleep(SETTLE_SECONDS)
            except TimeoutError:
                pass

    async def _apply(self) -> bool:
        """Writes what is to be written; whether anything failed."""
        index, failed = self._index(), False
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for informer in self.informers:
            items = informer.store.items()
            rivals = [seen.subject for _, seen in items]
            for key, seen in items:
                status = desired_status(seen.subject, index, seen.status, seen.generation, now, rivals)
                if status is not None and self._election.leads:
                    failed |= not await self._write(informer.kind, key, seen, status)
        return failed

    async def _write(self, kind: Kind, key: Key, seen: Seen, status: Status) -> bool:
        patch = {"metadata": {"resourceVersion": seen.version}, "status": status}
        try:
            await self._api.request("PATCH", kind.path(*key, "status"), body=patch, content_type=MERGE_PATCH)
        except (Conflict, Missing):
            return True  # written or deleted meanwhile; the informer will tell
        except ApiFailed as error:
            self._metrics.add("status_patches_total", result="error")
            if (kind, key, str(error)) not in self._told:
                self._told = {*list(self._told)[-200:], (kind, key, str(error))}
                self._log.warn("status not written", kind=kind, object="/".join(key), reason=error)
            return False
        self._metrics.add("status_patches_total", result="ok")
        return True


class _Meta(msgspec.Struct, rename="camel"):
    generation: int = 0
    resource_version: str = ""


class _Written(msgspec.Struct):
    metadata: _Meta
    status: dict[str, Any] | None = None


def _reader(kind: Kind) -> Callable[[bytes], Seen | None]:
    read = resource_reader(TYPES[kind])

    def seen(raw: bytes) -> Seen | None:
        subject = read(raw)
        written = msgspec.json.decode(raw, type=_Written)
        if subject is None:
            return None
        return Seen(subject, written.metadata.generation, written.metadata.resource_version, written.status or {})

    return seen
