"""How the parts that watch requests are hooked into the proxy: tracing, access log, tap.

    owner.observers = (tracer, access log, tap)        a tuple, empty in most proxies
    owner.recorder                                     is told of failures only, and so costs successes nothing

    head known ──► began ──► routed, sent … ──► responded ──► bytes … ──► ended        in the order of the tuple

Each moment costs the data path one look at the tuple. Who watches only for a while (tap) plugs itself in when somebody
listens and out again afterwards, so nothing is called for it the rest of the time; it may therefore be told of the end
of a request whose beginning it has not seen, and must not mind.

An observer keeps what it must remember of a request in a dict of its own, keyed by the request: requests carry no
fields for features that are off. Observers run on the data path and may neither wait nor raise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mesh.api.messages import Endpoint
    from mesh.proxy.recorder import Recorder
    from mesh.proxy.wire.errors import AnyCause
    from mesh.proxy.wire.message import Headers, RequestHead


class Watched(Protocol):
    """A side of the proxy whose requests can be observed."""

    direction: str
    """`inbound` or `outbound`."""
    observers: tuple[Observer, ...]
    recorder: Recorder | None


class ObservedSession(Protocol):
    """The client's connection (`mesh.proxy.session.Session`)."""

    peer: str
    local: str
    peer_identity: str | None
    tls: bool
    informational: bool


class ObservedEndpoint(Protocol):
    """Where the last try went (`EndpointState`)."""

    @property
    def spec(self) -> Endpoint: ...


class Observed(Protocol):
    """What an observer may read of a request. Times are of `time.monotonic`."""

    @property
    def owner(self) -> Watched: ...
    @property
    def head(self) -> RequestHead: ...
    @property
    def session(self) -> ObservedSession: ...
    @property
    def extra(self) -> Headers:
        """Headers that are sent upstream besides the client's; an observer may add some in `began`."""

    @property
    def started_at(self) -> float: ...
    @property
    def responded_at(self) -> float:
        """When the answer's head went out; 0 where none has."""

    @property
    def status(self) -> int:
        """Of the answer; 0 where the client has had none."""

    @property
    def grpc_status(self) -> int | None: ...
    @property
    def cause(self) -> AnyCause | None:
        """Why the proxy itself answered, or broke the answer off."""

    @property
    def received(self) -> int:
        """Bytes of the request's body."""

    @property
    def returned(self) -> int:
        """Bytes of the response's body."""

    @property
    def attempts(self) -> int: ...
    @property
    def endpoint(self) -> ObservedEndpoint | None: ...
    @property
    def route_name(self) -> str: ...
    @property
    def authority(self) -> str: ...


class Observer(Protocol):
    """Is told of each request at its three moments."""

    def began(self, request: Observed, /) -> None:
        """Its head is known and it is not routed yet: headers may still be added, replaced or dropped."""

    def responded(self, request: Observed, status: int, /) -> None:
        """The head of an answer is about to go to the client."""

    def ended(self, request: Observed, /) -> None:
        """It is over, whatever happened; exactly once."""


def plug(owners: Iterable[Watched], observer: Observer) -> None:
    """From now on `observer` is told of the owners' requests."""
    for owner in owners:
        if observer not in owner.observers:
            owner.observers = (*owner.observers, observer)


def unplug(owners: Iterable[Watched], observer: Observer) -> None:
    """`observer` is told of nothing any more."""
    for owner in owners:
        owner.observers = tuple(other for other in owner.observers if other is not observer)
