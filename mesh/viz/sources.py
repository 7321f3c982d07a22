"""Where the list of pods comes from: Kubernetes, through an informer; or a file, where there is no Kubernetes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from mesh.control.log import Log
from mesh.kube.api import Api
from mesh.kube.informer import Informer
from mesh.kube.kinds import POD
from mesh.kube.store import Change, Unreadable
from mesh.viz.pods import Pod, pod_from_object

FILE_POLL_SECONDS = 1.0
SETTLE_SECONDS = 0.2
"""Changes within this time are one update: a rollout changes hundreds of pods."""
GONE_SECONDS = 5.0
"""How often the fleet hears of the pods even if nothing changed, so that those long gone are forgotten."""

Update = Callable[[Iterable[Pod]], None]


class PodsUnreadable(ValueError):
    """A list of pods cannot be used; one line with the file and what is wrong."""


class PodSource(Protocol):
    """Tells `update` all running pods whenever they change."""

    @property
    def synced(self) -> bool:
        """Whether the list is complete: it was read once."""
        ...

    async def run(self, update: Update) -> None: ...


class PodsOfFile:
    """A JSON list of pods, read anew when the file changes. A broken one leaves the last good list in force."""

    def __init__(self, path: Path, log: Log) -> None:
        """Raises PodsUnreadable."""
        self._path = path
        self._log = log
        self._pods = read_pods(path)
        self._stamp = self._look()
        self.synced = True

    async def run(self, update: Update) -> None:
        update(self._pods)
        told = time.monotonic()
        while True:
            await asyncio.sleep(FILE_POLL_SECONDS)
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._pods = read_pods(self._path)
                except PodsUnreadable as error:
                    self._log.warn("list of pods is broken; the last one stays", reason=error)
            elif time.monotonic() - told < GONE_SECONDS:
                continue
            update(self._pods)
            told = time.monotonic()

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def read_pods(path: Path) -> list[Pod]:
    """The pods that a file lists. Raises PodsUnreadable."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Pod])
    except OSError as error:
        raise PodsUnreadable(f"{path}: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        raise PodsUnreadable(f"{path}: {error}") from None


class PodsOfCluster:
    """All pods of a cluster."""

    def __init__(self, api: Api, log: Log, trust_domain: str, controller_namespace: str) -> None:
        def pod(raw: bytes) -> Pod | None:
            manifest = msgspec.json.decode(raw)
            if not isinstance(manifest, dict):
                raise Unreadable("not an object")
            try:
                return pod_from_object(manifest, trust_domain, controller_namespace)
            except (AttributeError, KeyError, TypeError) as error:
                raise Unreadable(f"not shaped as a Pod: {error}") from None

        self._changed = asyncio.Event()
        self._informer: Informer[Pod] = Informer(api, POD, pod, log, self._note)

    @property
    def synced(self) -> bool:
        return self._informer.synced

    async def run(self, update: Update) -> None:
        following = asyncio.get_running_loop().create_task(self._informer.run())
        try:
            await self._informer.wait_synced()
            while not following.done():
                self._changed.clear()
                update(self._informer.store.values())
                try:
                    async with asyncio.timeout(GONE_SECONDS):
                        await self._changed.wait()
                        await asyncio.sleep(SETTLE_SECONDS)
                except TimeoutError:
                    continue
            following.result()
        finally:
            following.cancel()

    def _note(self, changes: list[Change[Pod]]) -> None:
        self._changed.set()
