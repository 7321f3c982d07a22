"""Connections that we opened: requests go out, responses come in.

A connection `begin`s a request and gives an `Upstream` for it: itself where it serves one request at a time (HTTP/1),
a stream where it serves many (HTTP/2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mesh.behavior.backend import EndpointState
    from mesh.proxy.request import Request
    from mesh.proxy.series import EndpointSeries
    from mesh.proxy.wire.message import Headers, RequestHead


class Connection(Protocol):
    """What `mesh.behavior.Backend` passes around for us."""

    endpoint: EndpointState[Request, Connection]
    series: EndpointSeries

    def begin(self, request: Request) -> Upstream: ...
    def close(self) -> None:
        """Takes no new request; closes when what is under way is over."""

    def abort(self) -> None: ...


class Upstream(Protocol):
    """One try of one request, once it has a connection."""

    @property
    def endpoint(self) -> EndpointState[Request, Connection]: ...

    def start(self, head: RequestHead, authority: bytes, extra: Headers, body: bytes, end: bool) -> None:
        """Sends the head and what there is of the body; `end`: that is all of it."""

    def send(self, data: bytes, end: bool, trailers: Headers | None) -> None: ...
    def release(self) -> Connection | None:
        """Nobody wants the rest of the response. Returns what `Backend.finished` is to be given."""

    def cancel(self) -> Connection | None:
        """The same, and at once: the server need not go on either."""

    def pause(self, paused: bool) -> None:
        """Stops or resumes the response's body."""
