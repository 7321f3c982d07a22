"""Calls to other services, over connections kept alive: HTTP/1.1 in absolute form through the pod's outbound proxy, or
straight to the service's name, where the pod's traffic is intercepted (Kubernetes).

A call has no timeout of its own: how long to wait is the mesh's to say. A kept connection that turns out to be closed
before a byte of the answer came is replaced once, as every HTTP client does; such a request was not read by anyone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol, cast

import httptools

from scenarios.model import Call

Answered = Callable[[int | None], None]
"""Called once with the status, or None where no answer came."""

_BODY = b'{"from":"gameday"}'


class Ongoing(Protocol):
    """Where a call is under way."""

    def hang_up(self, answered: Answered, /) -> None:
        """The answer is not wanted any more: `answered` will not be called. Nothing where it was."""


class Caller(Protocol):
    """What a station needs of the network."""

    absolute: bool
    """Whether requests name their authority in the request line, as a proxy wants it."""

    def call(self, authority: str, request: bytes, answered: Answered) -> Ongoing: ...


def request_head(call: Call, authority: str, caller: str, absolute: bool = True) -> bytes:
    """The part of a call's request that is the same each time, without the blank line that ends it."""
    lines = [
        f"{call.method} {f'http://{authority}' if absolute else ''}{call.path} HTTP/1.1",
        f"host: {authority}",
        f"user-agent: gameday-workload/{caller}",
        "accept: application/json",
    ]
    if call.method in ("POST", "PUT", "PATCH"):
        lines += ["content-type: application/json", f"content-length: {len(_BODY)}"]
    return "\r\n".join([*lines, ""]).encode("ascii")


def whole_request(head: bytes, trace: bytes) -> bytes:
    body = _BODY if b"\r\ncontent-length: " in head else b""
    return head + trace + b"\r\n" + body


class DirectClient:
    """A pool of connections for each service that is called, at the address that its name has."""

    absolute = False

    def __init__(self, addresses: Mapping[str, tuple[str, int]], loop: asyncio.AbstractEventLoop) -> None:
        """`addresses`: (ip, port) of each authority. A Service keeps its address for as long as it exists."""
        self._pools = {authority: ProxyClient(*address, loop) for authority, address in addresses.items()}

    def call(self, authority: str, request: bytes, answered: Answered) -> Ongoing:
        return self._pools[authority].call(authority, request, answered)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


class ProxyClient:
    """A pool of connections to one proxy. The one used last is used first, so that a burst's extra ones fall idle."""

    absolute = True

    def __init__(self, host: str, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._port = port
        self._loop = loop
        self._idle: list[_ClientConnection] = []
        self._opening: set[asyncio.Task[None]] = set()

    def call(self, authority: str, request: bytes, answered: Answered) -> Ongoing:
        """Sends; `answered` is never called before this returns."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.send(request, answered, fresh=False)
                return connection
        return self.open(request, answered)

    def open(self, request: bytes, answered: Answered) -> Ongoing:
        """Sends on a new connection."""
        opening = _Opening()
        task = self._loop.create_task(self._connect(request, answered, opening))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return opening

    def release(self, connection: _ClientConnection) -> None:
        self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def _connect(self, request: bytes, answered: Answered, opening: _Opening) -> None:
        try:
            _, connection = await self._loop.create_connection(lambda: _ClientConnection(self), self._host, self._port)
        except OSError:
            if not opening.given_up:
                answered(None)  # no proxy to speak to: the call failed
            return
        if opening.given_up:
            connection.abort()
            return
        opening.connection = connection
        connection.send(request, answered, fresh=True)


class _Opening:
    """A call whose connection is being made, or was."""

    __slots__ = ("connection", "given_up")

    def __init__(self) -> None:
        self.connection: _ClientConnection | None = None
        self.given_up = False

    def hang_up(self, answered: Answered) -> None:
        self.given_up = True
        if self.connection is not None:
            self.connection.hang_up(answered)


class _ClientConnection(asyncio.Protocol):
    def __init__(self, pool: ProxyClient) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answered: Answered | None = None
        self._request = b""
        self._fresh = True
        self._silent = True
        self._again: tuple[Answered, Ongoing] | None = None
        """Where the call went on that found this connection closed."""

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def send(self, request: bytes, answered: Answered, *, fresh: bool) -> None:
        if self._transport is None:  # closed between the connect and now
            answered(None)
            return
        self._request = request
        self._answered = answered
        self._fresh = fresh
        self._silent = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._silent = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        answered, self._answered = self._answered, None
        if self._transport is not None:
            if self._parser.should_keep_alive() and answered is not None:
                self._pool.release(self)
            else:
                self._transport.close()
        if answered is not None:
            answered(status)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail()

    def hang_up(self, answered: Answered) -> None:
        if self._answered is answered:
            self._answered = None
            self.abort()
        elif self._again is not None and self._again[0] is answered:
            self._again[1].hang_up(answered)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _fail(self) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            if self._silent and not self._fresh:
                self._again = (answered, self._pool.open(self._request, answered))
            else:
                answered(None)
        self.abort()
