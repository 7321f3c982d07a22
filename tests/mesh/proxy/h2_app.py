"""An HTTP/2 server on the `h2` library: what the proxy sends over HTTP/2 is judged by another implementation."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from proxy_world import Behaviour, Seen

from benchmarks.ports import free_port
from mesh.proxy.config import Address

FRAME_BYTES = 16_384


class H2App:
    """Answers each stream as `behave` says; bodies are read whole and sent as the client's windows allow.

    A status of 0 resets the stream, -1 sends half of the body and resets it, -2 drops the connection.
    """

    def __init__(self, behave: Behaviour, max_concurrent: int = 2_000, *, early: bool = False) -> None:
        """`early`: answers when the head is here, and never reads the body."""
        self.behave = behave
        self.early = early
        self.max_concurrent = max_concurrent
        self.address = Address("127.0.0.1", free_port())
        self.requests: list[Seen] = []
        self.resets = 0
        self.connections: set[_Connection] = set()
        self.accepted = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> H2App:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), self.address.host, self.address.port)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, app: H2App) -> None:
        self._app = app
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._heads: dict[int, list[tuple[str, str]]] = {}
        self._bodies: dict[int, bytearray] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._window = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._app.connections.add(self)
        self._app.accepted += 1
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self._app.max_concurrent})
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._app.connections.discard(self)
        for task in self._tasks.values():
            task.cancel()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self._take(event)
        self._flush()
        self._window.set()

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._heads[event.stream_id] = list(event.headers)
            self._bodies[event.stream_id] = bytearray()
            if self._app.early:
                self._start(event.stream_id)
        elif self._app.early and isinstance(event, h2.events.DataReceived | h2.events.StreamEnded):
            return
        elif isinstance(event, h2.events.DataReceived):
            self._bodies[event.stream_id] += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self._heads[event.stream_id] += [("trailer-" + name, value) for name, value in event.headers]
        elif isinstance(event, h2.events.StreamEnded):
            self._start(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self._app.resets += 1
            if event.stream_id in self._tasks:
                self._tasks[event.stream_id].cancel()

    def _start(self, stream: int) -> None:
        self._tasks[stream] = asyncio.get_running_loop().create_task(self._answer(stream))

    async def _answer(self, stream: int) -> None:
        headers = dict(self._heads.pop(stream))
        seen = Seen(headers[":method"], headers[":path"], headers, bytes(self._bodies.pop(stream)))
        self._app.requests.append(seen)
        status, fields, body = await self._app.behave(seen)
        if status == -2:
            self.transport.abort()
            return
        # The proxy may have reset the stream meanwhile.
        with contextlib.suppress(h2.exceptions.StreamClosedError, h2.exceptions.ProtocolError):
            if status == 0:
                self.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            else:
                await self._send(stream, status, fields, body)
        self._flush()

    async def _send(self, stream: int, status: int, fields: dict[str, str], body: bytes) -> None:
        trailers = [(name.removeprefix("trailer-"), value) for name, value in fields.items() if "trailer-" in name]
        plain = [(name, value) for name, value in fields.items() if "trailer-" not in name]
        cut = status == -1
        self.h2.send_headers(stream, [(":status", "200" if cut else str(status)), *plain], end_stream=False)
        left = memoryview(body)[: len(body) // 2] if cut else memoryview(body)
        while left:
            room = min(self.h2.local_flow_control_window(stream), FRAME_BYTES)
            if room == 0:
                self._window.clear()
                self._flush()
                await self._window.wait()
                continue
            self.h2.send_data(stream, left[:room].tobytes())
            left = left[room:]
        if cut:
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif trailers:
            self.h2.send_headers(stream, trailers, end_stream=True)
        else:
            self.h2.end_stream(stream)

    def _flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)
