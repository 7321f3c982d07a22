"""One of several replicas acts: leader election on a coordination.k8s.io Lease.

    read Lease ─► decide ─┬─ free, ours, or not renewed for its duration ─► write our name (resourceVersion must match)
                          └─ another's and fresh ─► wait

`decide` is plain data in, verdict out. Whether another's lease has run out is judged by how long *we* have seen it
unchanged, on our own monotonic clock, never by the times written in it: clocks of nodes differ. A leader counts itself
as deposed when it could not renew for `renew_deadline`, which is shorter than the duration, so that there are never two
(as client-go does). A leader that stops properly gives the lease up, and the next one does not wait.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from random import Random
from typing import Any

import msgspec

from mesh.kube.api import Api, ApiFailed, Log, Missing
from mesh.kube.kinds import LEASE


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Seconds; client-go's defaults."""

    duration: float = 15.0
    """An unrenewed lease is free after this."""
    renew_deadline: float = 10.0
    """A leader that could not renew for this long stops acting."""
    retry: float = 2.0
    """Between two looks."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says."""

    holder: str
    """Empty: given up."""
    version: str
    """resourceVersion: another one means that somebody wrote it."""
    duration: float = 15.0
    transitions: int = 0
    acquired: str = ""


class Verdict(Enum):
    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


def decide(record: Record | None, me: str, unchanged_seconds: float) -> Verdict:
    """What the replica `me` does about a lease that it has seen unchanged for so long."""
    if record is None:
        return Verdict.CREATE
    if record.holder == me:
        return Verdict.RENEW
    if not record.holder or unchanged_seconds > record.duration:
        return Verdict.TAKE
    return Verdict.WAIT


class Election:
    """This replica's part in the election for one Lease."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        me: str,
        log: Log,
        timing: LeaseTiming | None = None,
        rng: Random | None = None,
    ) -> None:
        """`me`: a name that no other replica has, such as the pod's."""
        self._api = api
        self._path = LEASE.path(namespace, name)
        self._collection = LEASE.path(namespace)
        self._meta = {"name": name, "namespace": namespace}
        self._me = me
        self._log = log
        self._timing = timing or LeaseTiming()
        self._rng = rng or Random()
        self._seen: Record | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None
        self._known_leader = False

    @property
    def leads(self) -> bool:
        """Whether this replica may act now; ask again before each act."""
        return self._renewed_at is not None and self._now() - self._renewed_at < self._timing.renew_deadline

    async def run(self) -> None:
        """Takes part until cancelled; then gives the lease up if it is ours."""
        try:
            while True:
                await self._round()
                if self.leads != self._known_leader:
                    self._known_leader = self.leads
                    self._log.info("leads" if self.leads else "leads no longer", lease=self._meta["name"], me=self._me)
                await asyncio.sleep(self._timing.retry * self._rng.uniform(0.8, 1.2))
        finally:
            if self.leads:
                await asyncio.shield(self._release())

    async def _round(self) -> None:
        started = self._now()
        try:
            async with asyncio.timeout(self._timing.renew_deadline / 2):
                await self._try(started)
        except (ApiFailed, TimeoutError, msgspec.DecodeError) as error:
            # Conflict: another replica was quicker. All else: the lease stays as it is until its time is over.
            self._log.debug("lease not renewed", lease=self._meta["name"], reason=str(error) or "timed out")

    async def _try(self, started: float) -> None:
        record = await self._read()
        if record != self._seen:
            self._seen, self._seen_at = record, self._now()
        match decide(record, self._me, self._now() - self._seen_at):
            case Verdict.WAIT:
                self._renewed_at = None
            case Verdict.CREATE:
                await self._api.request("POST", self._collection, body=self._manifest(None))
                self._renewed_at = started
            case Verdict.TAKE | Verdict.RENEW:
                await self._api.request("PUT", self._path, body=self._manifest(record))
                self._renewed_at = started

    async def _read(self) -> Record | None:
        try:
            found = msgspec.json.decode(await self._api.request("GET", self._path), type=_Lease)
        except Missing:
            return None
        spec = found.spec
        return Record(
            spec.holder_identity or "",
            found.metadata.resource_version,
            float(spec.lease_duration_seconds or self._timing.duration),
            spec.lease_transitions or 0,
            spec.acquire_time or "",
        )

    async def _release(self) -> None:
        self._renewed_at = None
        try:
            async with asyncio.timeout(1.0):
                record = await self._read()
                if record is not None and record.holder == self._me:
                    body = self._manifest(record)
                    body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._api.request("PUT", self._path, body=body)
        except (ApiFailed, TimeoutError, msgspec.DecodeError):
            pass  # the others wait for its duration, as after a crash

    def _manifest(self, before: Record | None) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = before is not None and before.holder == self._me
        spec = {
            "holderIdentity": self._me,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "acquireTime": before.acquired if ours and before and before.acquired else now,
            "renewTime": now,
            "leaseTransitions": (before.transitions + (not ours)) if before is not None else 0,
        }
        meta = dict(self._meta)
        if before is not None:
            meta["resourceVersion"] = before.version
        return {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": meta, "spec": spec}

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


class _LeaseMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _LeaseSpec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None
    acquire_time: str | None = None


class _Lease(msgspec.Struct):
    metadata: _LeaseMeta
    spec: _LeaseSpec = msgspec.field(default_factory=_LeaseSpec)
