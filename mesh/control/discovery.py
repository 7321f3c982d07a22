"""The destination and policy components: watches over the registry.

GET /v1/destinations/<authority>?ns=<ns>   endpoints and profile        destination
GET /v1/outbound/<authority>?ns=<ns>       outbound policy              policy
GET /v1/inbound/<ns>/<pod>/<port>          inbound policy               policy

An authority is a service's name and port, or an address and port. `ns` is the client's namespace, whose own profiles,
routes and egress networks count for it alone; without it, only what speaks for all clients does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from urllib.parse import parse_qs

import msgspec

from mesh.api.messages import encode_line
from mesh.control.endpoints import InvalidAuthority, parse_authority
from mesh.control.http import Handler, Request, Response, Stream, Watch
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.names import is_dns_name, is_label
from mesh.control.registry.index import Index
from mesh.control.registry.source import Registry
from mesh.control.translate.authorizations import Cluster
from mesh.control.watches import Complaints, DestinationTopic, InboundTopic, OutboundTopic, State, Topic, Watches

CreateTopic = Callable[[State], Topic]
FindTopic = Callable[[list[str], str], CreateTopic | None]


class Discovery:
    """One registry, its watches, and the server that hands them out."""

    def __init__(self, registry: Registry, log: Log, metrics: Metrics, cluster: Cluster | None = None) -> None:
        self._registry = registry
        self._cluster = cluster or Cluster()
        self._complaints = Complaints(log)
        self._log = log
        self._metrics = metrics
        self._published: list[Callable[[], None]] = []
        self.watches = Watches()
        metrics.gauge("control_watches", "Open watches", lambda: float(len(self.watches)))
        metrics.gauge("registry_version", "Changes of the registry seen", lambda: float(self.watches.state.version))
        metrics.counter("control_updates_total", "Lines sent to open watches because the registry changed")

    def on_publish(self, told: Callable[[], None]) -> None:
        """`told` runs after each publication; it must not block."""
        self._published.append(told)

    def load(self) -> None:
        """Raises RegistryUnreadable."""
        self._registry.load()
        self._publish()

    def poll(self) -> None:
        if self._registry.poll():
            self._publish()

    async def watch_registry(self) -> None:
        """Follows the registry for ever."""
        while True:
            await self._registry.wait()
            self.poll()

    def _publish(self) -> None:
        index = Index(self._registry.resources(), before=self.watches.state.index)
        sent = self.watches.publish(index, time.time())
        self._metrics.add("control_updates_total", float(sent))
        self._log.debug("registry changed", version=self.watches.state.version, lines=sent)
        for told in self._published:
            told()

    # ---- requests

    def destination_handler(self) -> Handler:
        return partial(self._handle, self._destination)

    def policy_handler(self) -> Handler:
        return partial(self._handle, self._policy)

    def destination_debug_handler(self) -> Handler:
        """The same questions, answered once: the snapshot's lines and the end."""
        return partial(self._snapshot, self._destination)

    def policy_debug_handler(self) -> Handler:
        """As `destination_debug_handler`."""
        return partial(self._snapshot, self._policy)

    def _handle(self, topic: FindTopic, request: Request) -> Response | Watch:
        asked = self._asked(topic, request)
        if isinstance(asked, Response):
            return asked
        key, create = asked
        return Watch(partial(self._open, key, create))

    def _snapshot(self, topic: FindTopic, request: Request) -> Response:
        asked = self._asked(topic, request)
        if isinstance(asked, Response):
            return asked
        _, create = asked
        state = self.watches.state
        lines = b"".join(encode_line(message) for message in create(state).snapshot(state))
        return Response(200, lines, "application/x-ndjson")

    def _asked(self, topic: FindTopic, request: Request) -> Response | tuple[str, CreateTopic]:
        """What a request asks for, with the key under which those who ask the same share it; or why it is refused."""
        if request.method != "GET":
            return _refusal(405, "use GET")
        try:
            namespace = _client_namespace(request.query)
            create = topic(request.path.split("/")[1:], namespace)
        except InvalidAuthority as error:
            return _refusal(400, str(error))
        if create is None:
            return _refusal(404, f"no such path: {request.path}")
        return f"{request.path}?{namespace}", create

    def _open(self, key: str, create: CreateTopic, stream: Stream) -> Callable[[], None]:
        self.watches.subscribe(key, create, stream)
        return partial(self.watches.unsubscribe, key, stream)

    def _destination(self, parts: list[str], namespace: str) -> CreateTopic | None:
        match parts:
            case ["v1", "destinations", text]:
                authority = parse_authority(text, self._cluster.domain)
                return lambda state: DestinationTopic(authority, namespace, self._cluster, self._complaints, state)
        return None

    def _policy(self, parts: list[str], namespace: str) -> CreateTopic | None:
        match parts:
            case ["v1", "outbound", text]:
                authority = parse_authority(text, self._cluster.domain)
                return lambda state: OutboundTopic(authority, namespace, self._cluster, self._complaints, state)
            case ["v1", "inbound", own, pod, port]:
                if not is_label(own) or not is_dns_name(pod) or not _is_port(port):
                    raise InvalidAuthority(f"{own}/{pod}/{port} is not NAMESPACE/POD/PORT")
                return lambda state: InboundTopic(own, pod, int(port), self._cluster, self._complaints, state)
        return None


def _client_namespace(query: str) -> str:
    """Raises InvalidAuthority."""
    namespace = parse_qs(query).get("ns", [""])[0]
    if namespace and not is_label(namespace):
        raise InvalidAuthority(f"ns={namespace!r} is not a namespace")
    return namespace


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65_535


def _refusal(status: int, text: str) -> Response:
    return Response(status, msgspec.json.encode({"error": text}))
