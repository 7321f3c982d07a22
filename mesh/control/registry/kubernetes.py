"""The registry as a Kubernetes cluster: one informer a kind, changes coalesced into one publication.

    informers ─► store of each kind ─► something changed ─► wait 20 ms for more, 50 at most ─► poll ─► publish

A rollout is a burst of Pod, EndpointSlice and Pod again; each publication asks every open watch whether it changed. The
bound keeps a single change quick (M8) and a steady churn at twenty publications a second.

Nothing is published before every kind has its first list: to answer "no such service" because the list is still on its
way would break clients. A kind that is not installed counts as listed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mesh.api import resources as api
from mesh.api.resources import AnyResource, ExternalWorkload
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.registry.reading import resource_reader
from mesh.kube import kinds
from mesh.kube.api import Api
from mesh.kube.informer import Informer, Timing
from mesh.kube.kinds import Kind

SETTLE_SECONDS = 0.02
LONGEST_SECONDS = 0.05

TYPES: dict[Kind, type[Any]] = {
    kinds.NAMESPACE: api.Namespace,
    kinds.SERVICE: api.Service,
    kinds.POD: api.Pod,
    kinds.ENDPOINT_SLICE: api.EndpointSlice,
    kinds.EXTERNAL_WORKLOAD: ExternalWorkload,
    kinds.SERVICE_PROFILE: api.ServiceProfile,
    kinds.TRAFFIC_SPLIT: api.TrafficSplit,
    kinds.SERVER: api.Server,
    kinds.SERVER_AUTHORIZATION: api.ServerAuthorization,
    kinds.AUTHORIZATION_POLICY: api.AuthorizationPolicy,
    kinds.MESH_TLS_AUTHENTICATION: api.MeshTLSAuthentication,
    kinds.NETWORK_AUTHENTICATION: api.NetworkAuthentication,
    kinds.RATE_LIMIT_POLICY: api.HTTPLocalRateLimitPolicy,
    kinds.EGRESS_NETWORK: api.EgressNetwork,
    kinds.POLICY_HTTP_ROUTE: api.HTTPRoute,
    kinds.GATEWAY_HTTP_ROUTE: api.HTTPRoute,
    kinds.GRPC_ROUTE: api.GRPCRoute,
}
"""What each kind is read as."""
READ_BY_DESTINATION = (
    kinds.NAMESPACE,
    kinds.SERVICE,
    kinds.POD,
    kinds.ENDPOINT_SLICE,
    kinds.EXTERNAL_WORKLOAD,
    kinds.SERVICE_PROFILE,
    kinds.TRAFFIC_SPLIT,
    kinds.SERVER,  # says whether a port is opaque
)
_OF_DESTINATION_ALONE = (kinds.ENDPOINT_SLICE, kinds.EXTERNAL_WORKLOAD, kinds.SERVICE_PROFILE, kinds.TRAFFIC_SPLIT)
READ_BY_POLICY = tuple(kind for kind in TYPES if kind not in _OF_DESTINATION_ALONE)


class KubernetesRegistry:
    """Informers over the kinds that one component reads."""

    def __init__(
        self, client: Api, read: tuple[Kind, ...], log: Log, metrics: Metrics, timing: Timing | None = None
    ) -> None:
        self.informers = [
            Informer(client, kind, resource_reader(TYPES[kind]), log, self._changed, timing=timing) for kind in read
        ]
        self._dirty = asyncio.Event()
        self._last_change = 0.0
        register_informers(metrics, self.informers)

    async def run(self) -> None:
        """Follows all kinds until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self.informers:
                group.create_task(informer.run())

    async def first(self) -> None:
        """Returns when every kind has been listed once, however long the API server takes."""
        for informer in self.informers:
            await informer.wait_synced()

    def load(self) -> None:
        """Nothing is left to do after `first`."""

    async def wait(self) -> None:
        """Until something changed, and a moment more for what belongs to it."""
        await self._dirty.wait()
        loop = asyncio.get_running_loop()
        latest = loop.time() + LONGEST_SECONDS
        while (left := min(latest, self._last_change + SETTLE_SECONDS) - loop.time()) > 0:
            await asyncio.sleep(left)

    def poll(self) -> bool:
        changed = self._dirty.is_set()
        self._dirty.clear()
        return changed

    def resources(self) -> list[AnyResource | ExternalWorkload]:
        return [resource for informer in self.informers for resource in informer.store.values()]

    def _changed(self, changes: object) -> None:
        self._last_change = asyncio.get_running_loop().time()
        self._dirty.set()


def register_informers(metrics: Metrics, informers: list[Informer[Any]]) -> None:
    """What an operator asks when endpoints look stale: does the control plane still hear the API server?"""
    metrics.gauge(
        "kube_informer_lag_seconds",
        "Seconds since the API server last confirmed the state of the kind that lags most",
        lambda: max((informer.lag_seconds for informer in informers), default=0.0),
    )
    metrics.gauge("kube_objects", "Objects kept", lambda: float(sum(len(informer.store) for informer in informers)))
    metrics.gauge(
        "kube_unreadable_objects_total",
        "Versions of objects that could not be used and kept their last good state",
        lambda: float(sum(informer.store.unreadable for informer in informers)),
    )
    for name, text in (
        ("events", "Watch events received"),
        ("lists", "Full lists"),
        ("stalls", "Watches that fell silent and were given up"),
        ("failures", "Requests to the API server that failed"),
    ):
        metrics.gauge(
            f"kube_informer_{name}_total",
            text,
            lambda name=name: float(sum(informer.counts[name] for informer in informers)),  # type: ignore[misc]
        )
