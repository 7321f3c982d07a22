"""Watches: a snapshot first, then what changes, to every stream that asked. No sockets.

    registry changed ─► Index ─► each topic compares with what it last said ─► one line ─► all sinks of the topic

A topic is one question (an authority's endpoints and profile, its outbound policy, a pod's inbound policy), asked from
one namespace. It is worked out once however many proxies ask, and forgotten with its last sink. What a newcomer gets is
the topic's whole state, so a stream that broke off needs no resume protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Protocol

import msgspec

from mesh.api.messages import (
    Endpoint,
    Endpoints,
    EndpointsChange,
    InboundPolicy,
    NotFound,
    OutboundPolicy,
    Profile,
    WatchMessage,
    encode_line,
)
from mesh.api.resources import AnyResource, EgressNetwork
from mesh.control.endpoints import Authority, Known, endpoints_of, resolve
from mesh.control.log import Log
from mesh.control.registry.index import Index
from mesh.control.translate import inbound_policy_message, outbound_policy_message, profile_message
from mesh.control.translate.authorizations import Cluster
from mesh.control.translate.egress import egress_policy_message, find_egress_network
from mesh.control.translate.problems import Complain, FieldPath


class State(msgspec.Struct, frozen=True):
    """The registry as of one change."""

    index: Index
    version: int
    published_at: float


class Topic(Protocol):
    """One question that proxies watch."""

    def snapshot(self, state: State) -> list[WatchMessage]:
        """The whole answer."""

    def changes(self, state: State) -> list[WatchMessage]:
        """What to add to the last answer; updates what counts as said."""


class Sink(Protocol):
    """One stream of a proxy."""

    def send(self, line: bytes) -> None: ...


class DestinationTopic:
    """Endpoints and profile of one authority, for clients of one namespace."""

    def __init__(
        self, authority: Authority, client_namespace: str, cluster: Cluster, complaints: Complaints, state: State
    ) -> None:
        self._authority = authority
        self._client_namespace = client_namespace
        self._cluster = cluster
        self._complaints = complaints
        self._known = Known()
        self._endpoints = self._find(state)
        self._profile = self._make_profile(state)

    def snapshot(self, state: State) -> list[WatchMessage]:
        return [self._whole(state), _stamped(self._profile, state)]

    def changes(self, state: State) -> list[WatchMessage]:
        messages: list[WatchMessage] = []
        before, self._endpoints = self._endpoints, self._find(state)
        if before is None or self._endpoints is None:
            if before is not self._endpoints:
                messages.append(self._whole(state))
        elif before != self._endpoints:
            messages.append(_difference(before, self._endpoints, state))
        profile = self._make_profile(state)
        if _stamped(self._profile, state) != profile:
            self._profile = profile
            messages.append(profile)
        return messages

    def _find(self, state: State) -> dict[str, Endpoint] | None:
        return endpoints_of(state.index, self._resolved(state), self._cluster.trust_domain, self._known)

    def _resolved(self, state: State) -> Authority:
        return resolve(state.index, self._authority, self._cluster.domain)

    def _whole(self, state: State) -> WatchMessage:
        if self._endpoints is None:
            return NotFound(version=state.version, published_at=state.published_at, authority=self._authority.text)
        return Endpoints(
            version=state.version, published_at=state.published_at, endpoints=tuple(self._endpoints.values())
        )

    def _make_profile(self, state: State) -> Profile:
        authority = self._resolved(state)
        profile = state.index.profile(authority.service, authority.host, self._client_namespace)
        split = state.index.split(authority.service)
        return profile_message(
            authority.text,
            profile,
            state.version,
            state.published_at,
            self._complaints.of_any(profile),
            split,
            self._complaints.of_any(split),
        )


class OutboundTopic:
    """Outbound policy of one authority, for clients of one namespace."""

    def __init__(
        self, authority: Authority, client_namespace: str, cluster: Cluster, complaints: Complaints, state: State
    ) -> None:
        self._authority = authority
        self._client_namespace = client_namespace
        self._cluster = cluster
        self._complaints = complaints
        self._policy = self._make(state)

    def snapshot(self, state: State) -> list[WatchMessage]:
        return [_stamped(self._policy, state)]

    def changes(self, state: State) -> list[WatchMessage]:
        policy = self._make(state)
        if _stamped(self._policy, state) == policy:
            return []
        self._policy = policy
        return [policy]

    def _make(self, state: State) -> OutboundPolicy:
        index, cluster = state.index, self._cluster
        authority = resolve(index, self._authority, cluster.domain)
        if authority.ip:
            network = find_egress_network(index.egress_networks, authority.ip, self._client_namespace, cluster.networks)
            if network is not None:
                return self._egress(network, state)
        service = index.services.get(authority.service)
        return outbound_policy_message(
            authority.text,
            service,
            index.http_routes(authority.service, authority.port, self._client_namespace),
            state.version,
            state.published_at,
            self._complaints.of_any(service),
            self._complaints.of_resource,
            grpc_routes=index.grpc_routes(authority.service, authority.port, self._client_namespace),
            services=index.services,
        )

    def _egress(self, network: EgressNetwork, state: State) -> OutboundPolicy:
        index, port = state.index, self._authority.port
        key = (network.metadata.namespace, network.metadata.name)
        return egress_policy_message(
            self._authority.text,
            network,
            index.http_routes(key, port, self._client_namespace, "EgressNetwork"),
            state.version,
            state.published_at,
            self._complaints.of_any(network),
            self._complaints.of_resource,
            grpc_routes=index.grpc_routes(key, port, self._client_namespace, "EgressNetwork"),
            services=index.services,
        )


class InboundTopic:
    """Inbound policy of one pod's port."""

    def __init__(
        self, namespace: str, pod: str, port: int, cluster: Cluster, complaints: Complaints, state: State
    ) -> None:
        self._key = (namespace, pod)
        self._port = port
        self._cluster = cluster
        self._complaints = complaints
        self._inputs = self._look(state)
        self._policy = self._make(state)

    def snapshot(self, state: State) -> list[WatchMessage]:
        return [_stamped(self._policy, state)]

    def changes(self, state: State) -> list[WatchMessage]:
        before, self._inputs = self._inputs, self._look(state)
        if all(map(is_, before, self._inputs)):
            return []
        policy = self._make(state)
        if _stamped(self._policy, state) == policy:
            return []
        self._policy = policy
        return [policy]

    def _look(self, state: State) -> tuple[object, ...]:
        """All that the policy is made of; the same objects make the same policy."""
        namespace = self._key[0]
        index = state.index
        return index.pods.get(self._key), index.namespaces.get(namespace), index.inbound(namespace)

    def _make(self, state: State) -> InboundPolicy:
        namespace, pod = self._key
        return inbound_policy_message(
            state.index.pods.get(self._key),
            state.index.namespaces.get(namespace),
            state.version,
            state.published_at,
            self._complaints.of(f"Pod {namespace}/{pod}"),
            port=self._port,
            resources=state.index.inbound(namespace),
            cluster=self._cluster,
            complain_of=self._complaints.of_resource,
        )


class Watches:
    """All topics of a server and who listens to them."""

    def __init__(self) -> None:
        self._topics: dict[str, tuple[Topic, dict[int, Sink]]] = {}
        self.state = State(Index(), 0, 0.0)

    def __len__(self) -> int:
        """Open streams."""
        return sum(len(sinks) for _, sinks in self._topics.values())

    def subscribe(self, key: str, create: Callable[[State], Topic], sink: Sink) -> None:
        """Sends the topic's snapshot to `sink`, and later its changes. `create` is called if the topic is new."""
        known = self._topics.get(key)
        topic, sinks = known if known is not None else (create(self.state), {})
        self._topics[key] = (topic, sinks)
        sinks[id(sink)] = sink
        for message in topic.snapshot(self.state):
            sink.send(encode_line(message))

    def unsubscribe(self, key: str, sink: Sink) -> None:
        known = self._topics.get(key)
        if known is None:
            return
        known[1].pop(id(sink), None)
        if not known[1]:
            del self._topics[key]

    def publish(self, index: Index, published_at: float) -> int:
        """Takes in a change of the registry; returns how many lines went out."""
        self.state = State(index, self.state.version + 1, published_at)
        sent = 0
        for topic, sinks in list(self._topics.values()):
            for message in topic.changes(self.state):
                line = encode_line(message)
                for sink in list(sinks.values()):
                    sink.send(line)
                    sent += 1
        return sent


class Complaints:
    """Logs what a resource says wrongly, once for each distinct complaint."""

    MAX_REMEMBERED = 1000

    def __init__(self, log: Log) -> None:
        self._log = log
        self._seen: set[tuple[str, FieldPath, str]] = set()

    def of(self, resource: str) -> Complain:
        def complain(path: FieldPath, message: str) -> None:
            entry = (resource, path, message)
            if entry in self._seen:
                return
            if len(self._seen) >= self.MAX_REMEMBERED:
                self._seen.clear()
            self._seen.add(entry)
            field = ".".join(str(step) for step in path)
            self._log.warn(
                "ignored: the resource says what cannot be used", resource=resource, field=field, reason=message
            )

        return complain

    def of_resource(self, resource: AnyResource, path: FieldPath, message: str) -> None:
        meta = resource.metadata
        self.of(f"{type(resource).__name__} {meta.namespace}/{meta.name}")(path, message)

    def of_any(self, resource: AnyResource | None) -> Complain:
        """Of a resource that may not be there; then nobody complains."""

        def complain(path: FieldPath, message: str) -> None:
            if resource is not None:
                self.of_resource(resource, path, message)

        return complain


_Whole = Profile | OutboundPolicy | InboundPolicy


def _stamped(message: _Whole, state: State) -> WatchMessage:
    return msgspec.structs.replace(message, version=state.version, published_at=state.published_at)


def _difference(before: dict[str, Endpoint], after: dict[str, Endpoint], state: State) -> EndpointsChange:
    """An endpoint whose address stayed and whose pod or identity changed is added anew; proxies replace by address."""
    return EndpointsChange(
        version=state.version,
        published_at=state.published_at,
        add=tuple(endpoint for address, endpoint in after.items() if before.get(address) != endpoint),
        remove=tuple(address for address in before if address not in after),
    )
