"""The trust anchors, copied into every namespace whose pods need them.

    ConfigMap linkerd-identity-trust-roots of the control plane ──► the same in each namespace that
                                                                    has injected pods, asks for injection, or extends
                                                                    the mesh (linkerd-viz)

A pod can only mount a ConfigMap of its own namespace, and proxies read their anchors from a mounted file, so that a
rotation reaches them without a restart. One replica of identity does the copying (leader elected). A copy that someone
changed is put right again; one that nobody needs any more is removed. Nothing is removed while the original is missing.

`plan` decides on plain data; the rest is the edge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.kube import kinds
from mesh.kube.api import Api, ApiFailed, Conflict, Missing
from mesh.kube.informer import Informer, Timing
from mesh.kube.lease import Election
from mesh.kube.permissions import TRUST_ROOTS

BUNDLE_KEY = "ca-bundle.crt"
CONTROL_PLANE_NS = "linkerd.io/control-plane-ns"
INJECT = "linkerd.io/inject"
EXTENSION = "linkerd.io/extension"
COPY_LABELS = {"linkerd.io/control-plane-component": "identity", "linkerd.io/trust-roots-copy": "true"}
"""What a copy carries, besides `linkerd.io/control-plane-ns`; an uninstall finds copies by it."""
AGAIN_SECONDS = 30.0
"""All is looked at again after this, whatever did or did not change."""
RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Copy:
    """A ConfigMap of the bundle's name, somewhere."""

    content: str
    ours: bool
    """Made by us; another's is only put right where it is needed, never removed."""


@dataclass(frozen=True, slots=True)
class Write:
    namespace: str
    exists: bool


@dataclass(frozen=True, slots=True)
class Remove:
    namespace: str


def plan(bundle: str | None, needed: Collection[str], copies: Mapping[str, Copy]) -> list[Write | Remove]:
    """What is to be done, by namespace, so that every one in `needed` has the bundle and no other has a copy."""
    if not bundle:
        return []
    steps: list[Write | Remove] = []
    for namespace in sorted(needed):
        copy = copies.get(namespace)
        if copy is None or copy.content != bundle:
            steps.append(Write(namespace, copy is not None))
    steps += [Remove(namespace) for namespace in sorted(copies) if copies[namespace].ours and namespace not in needed]
    return steps


@dataclass(frozen=True, slots=True)
class _Namespace:
    wants: bool
    ending: bool


class TrustBundle:
    """Keeps the copies right while this replica leads."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        election: Election,
        log: Log,
        metrics: Metrics,
        timing: Timing | None = None,
    ) -> None:
        self._api = api
        self._own = namespace
        self._election = election
        self._log = log
        self._metrics = metrics
        self._changed = asyncio.Event()

        def changed(changes: object) -> None:
            self._changed.set()

        self.namespaces = Informer(api, kinds.NAMESPACE, _read_namespace, log, changed, timing=timing)
        self.pods = Informer(
            api, kinds.POD, _read_pod, log, changed, labels=f"{CONTROL_PLANE_NS}={namespace}", timing=timing
        )
        self.copies = Informer(
            api, kinds.CONFIG_MAP, _read_copy, log, changed, fields=f"metadata.name={TRUST_ROOTS}", timing=timing
        )
        metrics.counter("trust_bundle_writes_total", "Copies of the trust anchors written or removed, by result")

    @property
    def informers(self) -> tuple[Informer[_Namespace], Informer[bool], Informer[Copy]]:
        return self.namespaces, self.pods, self.copies

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self.informers:
                group.create_task(informer.run())
            group.create_task(self._keep())

    def needed(self) -> set[str]:
        """Namespaces that need a copy."""
        living = {key[1]: namespace for key, namespace in self.namespaces.store.items() if not namespace.ending}
        meshed = {key[0] for key, _ in self.pods.store.items()}
        return {name for name, namespace in living.items() if namespace.wants or name in meshed} - {self._own}

    def _steps(self) -> Iterator[Write | Remove]:
        copies = {key[0]: copy for key, copy in self.copies.store.items()}
        original = copies.pop(self._own, None)
        yield from plan(original.content if original is not None else None, self.needed(), copies)

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
                    await asyncio.sleep(0.05)  # a namespace and its pods come together
            except TimeoutError:
                pass

    async def _apply(self) -> bool:
        """Does what is to be done; whether anything failed."""
        failed = False
        for step in list(self._steps()):
            if not self._election.leads:
                break
            try:
                await (self._write(step) if isinstance(step, Write) else self._remove(step))
            except (Conflict, Missing):
                continue  # made, changed or gone since it was seen; the informer will tell
            except ApiFailed as error:
                failed = True
                self._metrics.add("trust_bundle_writes_total", result="error")
                self._log.warn("trust anchors not copied", namespace=step.namespace, reason=error)
                continue
            self._metrics.add("trust_bundle_writes_total", result="ok")
            self._log.info(
                "trust anchors copied" if isinstance(step, Write) else "copy of the trust anchors removed",
                namespace=step.namespace,
            )
        return failed

    async def _write(self, step: Write) -> None:
        original = self.copies.store.get(self._own, TRUST_ROOTS)
        if original is None:
            return
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": TRUST_ROOTS,
                "namespace": step.namespace,
                "labels": {CONTROL_PLANE_NS: self._own, **COPY_LABELS},
            },
            "data": {BUNDLE_KEY: original.content},
        }
        if step.exists:
            await self._api.request("PUT", kinds.CONFIG_MAP.path(step.namespace, TRUST_ROOTS), body=body)
        else:
            await self._api.request("POST", kinds.CONFIG_MAP.path(step.namespace), body=body)

    async def _remove(self, step: Remove) -> None:
        await self._api.request("DELETE", kinds.CONFIG_MAP.path(step.namespace, TRUST_ROOTS))


# ---- what is read of each kind


class _Meta(msgspec.Struct, rename="camel"):
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None


class _Object(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str] | None = None


def _read_namespace(raw: bytes) -> _Namespace:
    meta = msgspec.json.decode(raw, type=_Object).metadata
    wants = meta.annotations.get(INJECT) in ("enabled", "ingress") or EXTENSION in meta.labels
    return _Namespace(wants, meta.deletion_timestamp is not None)


def _read_pod(raw: bytes) -> bool:
    """That it is there."""
    return True


def _read_copy(raw: bytes) -> Copy:
    found = msgspec.json.decode(raw, type=_Object)
    ours = COPY_LABELS.items() <= found.metadata.labels.items()
    return Copy((found.data or {}).get(BUNDLE_KEY, ""), ours)
