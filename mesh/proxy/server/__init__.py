"""Connections that clients opened to us: requests come in, answers go out.

`Service` is whoever serves them (the outbound or the inbound side); a `Client` is where one request's answer goes: a
whole HTTP/1 connection, or one stream of an HTTP/2 connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from mesh.proxy.request import Request
    from mesh.proxy.session import Session
    from mesh.proxy.wire.errors import Answer, AnyCause
    from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead


HEAD_TIMEOUT_SECONDS = 10.0
"""For a request's head once its first byte is here; as long as detection waits for the first one."""


class Transport(Protocol):
    """What is asked of an asyncio transport or a TLS shim."""

    def write(self, data: bytes, /) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Connection(Protocol):
    """An accepted connection, as its service keeps it in mind."""

    session: Session

    def drain(self) -> None:
        """The proxy is shutting down: goes now if idle, else after what is under way."""

    def abort(self) -> None: ...


class Service(Protocol):
    """Whoever serves the requests of a connection."""

    draining: bool
    loop: asyncio.AbstractEventLoop

    def request(self, client: Client, head: RequestHead) -> Request: ...
    def refused(self, cause: AnyCause) -> None:
        """A message was refused before it became a request."""

    def connection_opened(self, connection: Connection) -> None: ...
    def connection_closed(self, connection: Connection) -> None: ...


class Client(Protocol):
    """Where a request came from and its answer goes. Nothing is sent before `flush`, except by what ends the answer."""

    session: Session

    @property
    def write_paused(self) -> bool:
        """The client does not keep up with the response's body."""

    def interim(self, head: ResponseHead) -> None:
        """A 1xx response, sent at once."""

    def respond(self, request: Request, head: ResponseHead) -> None: ...
    def send(self, data: bytes) -> None: ...
    def end(self, request: Request, trailers: Headers | None) -> None:
        """The response is complete."""

    def answer(self, request: Request, answer: Answer) -> None:
        """Answers by ourselves; nothing was sent before."""

    def break_off(self) -> None:
        """The response cannot be completed, and the client is to notice."""

    def hold_body(self, hold: bool) -> None:
        """The request's body has nowhere to go for now (or has again)."""

    def taken(self, size: int) -> None:
        """So many bytes of the request's body were passed on."""

    def flush(self) -> None: ...
