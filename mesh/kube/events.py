"""Kubernetes Events: what an operator sees with `kubectl get events`, or `describe`.

Telling never holds up who tells: events wait in a short queue, one task writes them, and what does not fit or is
refused is counted and dropped. The same event again within ten minutes raises the count of the first instead of adding
one, so that a broken issuer that is re-read every half minute stays one line.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec

from mesh.kube.api import MERGE_PATCH, Api, ApiFailed, Log, Missing
from mesh.kube.kinds import EVENT

ISSUER_UPDATED = "IssuerUpdated"
ISSUER_UPDATE_SKIPPED = "IssuerUpdateSkipped"
ISSUER_VALIDATION_FAILED = "IssuerValidationFailed"
ISSUED_LEAF = "IssuedLeafCertificate"
"""Linkerd's reasons."""

MAX_WAITING = 256
MAX_REMEMBERED = 512
SAME_SECONDS = 600.0

Type = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class About:
    """The object that an event speaks of."""

    kind: str
    namespace: str
    name: str
    api_version: str = "v1"


@dataclass(slots=True)
class _Told:
    name: str
    count: int
    at: float


class Events:
    """The events of one component."""

    def __init__(self, api: Api, component: str, instance: str, log: Log) -> None:
        self._api = api
        self._component = component
        self._instance = instance
        self._log = log
        self._waiting: asyncio.Queue[tuple[About, Type, str, str]] = asyncio.Queue(MAX_WAITING)
        self._told: OrderedDict[tuple[About, str, str], _Told] = OrderedDict()
        self.dropped = 0

    def tell(self, about: About, reason: str, message: str, type_: Type = "Normal") -> None:
        """An event is to be written; returns at once."""
        try:
            self._waiting.put_nowait((about, type_, reason, message))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Writes events until cancelled."""
        while True:
            about, type_, reason, message = await self._waiting.get()
            try:
                await self._write(about, type_, reason, message[:1024])
            except (ApiFailed, msgspec.DecodeError) as error:
                self.dropped += 1
                self._log.debug("event not written", reason=error, event=reason)

    async def _write(self, about: About, type_: Type, reason: str, message: str) -> None:
        loop_time = asyncio.get_running_loop().time()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        key = (about, reason, message)
        told = self._told.get(key)
        if told is not None and loop_time - told.at < SAME_SECONDS:
            told.count, told.at = told.count + 1, loop_time
            patch = {"count": told.count, "lastTimestamp": now}
            try:
                await self._api.request(
                    "PATCH", EVENT.path(about.namespace, told.name), body=patch, content_type=MERGE_PATCH
                )
            except Missing:
                del self._told[key]  # Kubernetes forgets events after an hour; the next is a new one
            else:
                return
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{about.name}.", "namespace": about.namespace},
            "involvedObject": {
                "kind": about.kind,
                "namespace": about.namespace,
                "name": about.name,
                "apiVersion": about.api_version,
            },
            "type": type_,
            "reason": reason,
            "message": message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        answer = await self._api.request("POST", EVENT.path(about.namespace), body=event)
        name = msgspec.json.decode(answer, type=_Created).metadata.name
        self._told[key] = _Told(name, 1, loop_time)
        while len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)


class _CreatedMeta(msgspec.Struct):
    name: str


class _Created(msgspec.Struct):
    metadata: _CreatedMeta
