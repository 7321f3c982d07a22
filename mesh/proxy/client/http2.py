"""An HTTP/2 connection to an endpoint, shared by all requests that go there.

    connecting ──► (TLS handshake) ──► SETTINGS of the server ──► open ──► retiring ──► closed
                                                                     │         ▲
                                                                     └─ GOAWAY, or the endpoint was removed

The connection counts as open when the server's SETTINGS are here: in TLS 1.3 a client believes that the handshake is
done before the server has looked at its certificate, and a refusal then would cost the requests that were already sent.

Frames are written once for each turn of the loop, however many requests had something to say. A PING every ten
seconds finds peers that are gone without a word.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mesh.behavior.outcome import Cause
from mesh.proxy.connect_deadline import ConnectDeadline
from mesh.proxy.telemetry import EndpointSeries, TcpSeries
from mesh.proxy.wire.http2 import H2Connection
from mesh.proxy.wire.http2_frames import CANCEL, REFUSED_STREAM, H2ConnectionError
from mesh.proxy.wire.http2_limits import H2Settings
from mesh.proxy.wire.http2_stream import Stream
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

if TYPE_CHECKING:
    from mesh.behavior.backend import EndpointState
    from mesh.proxy.client import Connection
    from mesh.proxy.driver import BackendDriver
    from mesh.proxy.request import Request
    from mesh.proxy.server import Transport

PING_INTERVAL_SECONDS, PING_TIMEOUT_SECONDS = 10.0, 3.0
"""linkerd2-proxy's keepalive of HTTP/2 clients."""
PING = b"gameday!"
DRAIN_LIMIT_BYTES = 64 * 1024
"""Of a response that nobody wants any more, before its stream is reset."""
ORIG_PROTO = {False: (b"l5d-orig-proto", b"HTTP/1.1"), True: (b"l5d-orig-proto", b"HTTP/1.0")}
"""Tells the peer proxy what the app spoke, so that its app hears the same; by whether that was HTTP/1.0."""
SETTINGS = H2Settings()


class ClientStream(Stream):
    """One try of one request."""

    __slots__ = ("_drained", "_ended", "_paused", "_unconsumed", "owner", "request")

    def __init__(self, owner: ClientConnection, request: Request) -> None:
        super().__init__()
        self.owner = owner
        self.request: Request | None = request
        self._ended = False
        self._paused = False
        self._unconsumed = 0
        self._drained = 0

    # ---- Upstream

    @property
    def endpoint(self) -> EndpointState[Request, Connection]:
        return self.owner.endpoint

    def start(self, head: RequestHead, authority: bytes, extra: Headers, body: bytes, end: bool) -> None:
        if not head.http_2:
            extra = [*extra, ORIG_PROTO[head.http_1_0]]
        self.send_request(head, authority, extra, end and not body)
        if body:
            self.send_data(body, end)
        self.owner.touch()

    def send(self, data: bytes, end: bool, trailers: Headers | None) -> None:
        if trailers:
            if data:
                self.send_data(data, False)
            self.send_trailers(trailers)
        else:
            self.send_data(data, end)
        self.owner.touch()
        if self.blocked and self.request is not None:
            self.request.server_paused(True)

    def release(self) -> Connection | None:
        """What is left of the response is read and thrown away, for a reset would cost the peer's patience."""
        self.request = None
        return None if self.owner.gone else self.owner

    def cancel(self) -> Connection | None:
        self.request = None
        owner = self.owner
        if owner.gone:
            return None
        if not self._ended:
            self._ended = True
            self.reset(CANCEL)
        owner.touch()
        return owner

    def pause(self, paused: bool) -> None:
        self._paused = paused
        if not paused and self._unconsumed:
            size, self._unconsumed = self._unconsumed, 0
            self.consumed(size)
            self.owner.touch()

    # ---- the machine's callbacks

    def informational_received(self, head: ResponseHead) -> None:
        if self.request is not None:
            self.request.client.interim(head)

    def head_received(self, head: RequestHead | ResponseHead, end: bool) -> None:
        request = self.request
        if request is None:
            return
        assert isinstance(head, ResponseHead)
        self._ended = end
        if end and head.content_length is None and not head.bodyless and not request.head.http_2:
            head.content_length = 0
        request.response_head(head, end)
        if end and self.request is request:
            self._finish(request, None)

    def data_received(self, data: bytes, end: bool) -> None:
        request = self.request
        size = len(data)
        self._ended = end
        if request is not None:
            if data:
                request.response_body(data)
            if self.request is request:
                if end:
                    self.consumed(size)
                    self._finish(request, None)
                else:
                    self.owner.touched.append(request)
                    if self._paused:
                        self._unconsumed += size
                        return
                    self.consumed(size)
                return
        self.consumed(size)
        self._drained += size
        if self._drained > DRAIN_LIMIT_BYTES and not end:
            self._ended = True
            self.reset(CANCEL)

    def trailers_received(self, trailers: Headers) -> None:
        self._ended = True
        if self.request is not None:
            self._finish(self.request, trailers)

    def reset_received(self, code: int) -> None:
        request, self.request = self.request, None
        self._ended = True
        if request is None:
            return
        connection = None if self.owner.gone else self.owner
        if code == REFUSED_STREAM and request.can_resend():
            request.returned_unsent(connection)
        else:
            request.try_broken(Cause.REFUSED if code == REFUSED_STREAM else Cause.CONNECT, connection)

    def window_opened(self) -> None:
        if self.request is not None and not self.owner.write_paused:
            self.request.server_paused(False)

    def _finish(self, request: Request, trailers: Headers | None) -> None:
        self.request = None
        request.response_end(trailers, self.owner)
        if not request.body_done:
            self.reset(CANCEL)  # an early answer: the server wants no more of the body


class ClientConnection(asyncio.Protocol):
    """One connection of one endpoint, shared."""

    __slots__ = (
        "_dirty",
        "_driver",
        "_feeding",
        "_h2",
        "_heard",
        "_pinged",
        "_retiring",
        "_tcp",
        "_timer",
        "_up",
        "deadline",
        "endpoint",
        "gone",
        "private",
        "series",
        "touched",
        "transport",
        "write_paused",
    )

    def __init__(
        self,
        driver: BackendDriver,
        endpoint: EndpointState[Request, Connection],
        series: EndpointSeries,
        tcp: TcpSeries,
    ) -> None:
        self._driver = driver
        self.endpoint = endpoint
        self.series = series
        self._tcp = tcp
        self._h2 = H2Connection(self, SETTINGS, client=True)
        self.transport: Transport = None  # type: ignore[assignment]  # set by connection_made, before any use
        self.private = None
        self.deadline: ConnectDeadline | None = None
        """For the handshake and the server's SETTINGS."""
        self.gone = False
        """The transport is closed, or closing by our own doing."""
        self.touched: list[Request] = []
        """Requests whose clients are to be written to after this read."""
        self.write_paused = False
        self._up = False
        self._retiring = False
        self._dirty = False
        self._feeding = False
        self._heard = False
        self._pinged = False
        self._timer: asyncio.TimerHandle | None = None

    # ---- asyncio.Protocol, or the upper side of a TLS shim

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # a shim, too
        self.transport = transport
        self._tcp.opened.value += 1
        if self.gone:
            transport.abort()  # TCP came up after its deadline, and that is told already
            return
        self._h2.start()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._tcp.read.value += len(data)
        if self.gone:
            return
        self._heard = True
        self._feeding = True
        try:
            self._h2.feed(data)
        except H2ConnectionError:
            self._fail()
            return
        finally:
            self._feeding = False
        self._flush()
        if self.touched:
            touched, self.touched = self.touched, []
            for request in touched:
                request.client.flush()

    def eof_received(self) -> None:
        """The transport closes, and `connection_lost` says what that meant."""

    def connection_lost(self, error: Exception | None) -> None:
        self._tcp.closed.value += 1
        self._stop_timer()
        if not self._up:
            if not self.gone:
                self.gone = True
                self._driver.not_established(self, error)
            return
        self._gone()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._pause_all(True)

    def resume_writing(self) -> None:
        self.write_paused = False
        self._pause_all(False)

    # ---- Connection

    def begin(self, request: Request) -> ClientStream:
        stream = ClientStream(self, request)
        self._h2.open(stream)
        return stream

    def close(self) -> None:
        self._retiring = True
        self.touch()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
        self._gone()

    # ---- H2Sink

    def accept_stream(self) -> Stream | None:
        return None  # servers open none: push is refused by the machine

    def settings_received(self, max_concurrent: int) -> None:
        if self._up:
            self._driver.resized(self, max_concurrent)
            return
        self._up = True
        self._timer = self._driver.loop.call_later(PING_INTERVAL_SECONDS, self._ping)
        self._driver.established(self, max_concurrent)

    def goaway_received(self, last_stream_id: int, code: int) -> None:
        self._retiring = True
        self._driver.lost(self)

    def pong_received(self, opaque: bytes) -> None:
        """That anything was heard is enough."""

    # ---- inside

    def touch(self) -> None:
        """Something is to be written, or the last request is gone: see to it at the end of this turn of the loop."""
        if not self._dirty and not self._feeding:
            self._dirty = True
            self._driver.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._dirty = False
        if self.gone:
            return
        data = self._h2.output()
        if data:
            self._tcp.written.value += len(data)
            self.transport.write(data)
        if self._retiring and not self._h2.streams:
            self._leave()

    def _leave(self) -> None:
        """Closes a connection that has nothing left to do."""
        self._h2.goaway()
        data = self._h2.output()
        if data:
            self.transport.write(data)
        self.transport.close()
        self._gone()

    def _fail(self) -> None:
        """The peer broke the protocol: says so and closes."""
        data = self._h2.output()
        if data:
            self.transport.write(data)
        self.transport.close()
        if self._up:
            self._gone()
        else:
            self.gone = True
            self._driver.not_established(self, None)

    def _gone(self) -> None:
        if self.gone:
            return
        self.gone = True
        self._stop_timer()
        self._driver.lost(self)
        self._h2.lost()

    def _pause_all(self, paused: bool) -> None:
        for stream in list(self._h2.streams.values()):
            assert isinstance(stream, ClientStream)
            if stream.request is not None and not (stream.blocked and not paused):
                stream.request.server_paused(paused)

    def _ping(self) -> None:
        self._timer = None
        if self._pinged and not self._heard:
            self.abort()
            return
        if self._heard:
            self._pinged = self._heard = False
            self._timer = self._driver.loop.call_later(PING_INTERVAL_SECONDS, self._ping)
            return
        self._pinged = True
        self._h2.ping(PING)
        self._flush()
        self._timer = self._driver.loop.call_later(PING_TIMEOUT_SECONDS, self._ping)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
