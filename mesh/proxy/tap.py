"""Tap: who may, watches requests live as they pass (port 4190, as in Linkerd).

    POST /v1/tap  {"match": …, "limit": …, "sampleRate": …, "maxRps": …, "headers": …}
        ──► one JSON object a line: requestInit, responseInit, responseEnd of each request that matches

Mutual TLS, and only the identity named by LINKERD2_PROXY_TAP_SVC_NAME is served; anybody else gets 403. At most
`MAX_SESSIONS` at a time, each with a bounded queue: a reader that lags loses events, which are counted, and never slows
a request. While nobody taps, nothing of this is called: the observer is plugged in with the first session and out with
the last.

A filter may ask for what is known only later: the status, or the endpoint that balancing chose. Then a request's
`requestInit` waits for the first moment at which the filter can be judged; without such terms it goes out at once.

Connections are asyncio streams, for none of this is on a request's way. They are accepted here and not by a TLS server
of asyncio: such a server keeps the certificate that it began with, and replacing it at each renewal loses connections
that are just being accepted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from http import HTTPStatus
from random import Random
from time import monotonic
from typing import Literal

import msgspec

from mesh.proxy.metrics import Registry
from mesh.proxy.observe import Observed, Watched, plug, unplug
from mesh.proxy.wire.message import Headers

MAX_SESSIONS = 8
MAX_CONNECTIONS = 64
"""That have not proved who they are; past it, a newcomer takes the place of one of the address that holds most. As many
again of the identity that may tap."""
ACCEPT_PAUSE_SECONDS = 0.1
QUEUE_EVENTS = 1024
MAX_WATCHED = 10_000
"""Requests that one session follows at a time."""
MAX_HEAD_BYTES, MAX_BODY_BYTES = 16 * 1024, 64 * 1024
REQUEST_TIMEOUT_SECONDS = 10.0
FORBIDDEN_TIMEOUT_SECONDS = 1.0
"""For the request of an identity that may not tap: it is read, so that 403 arrives, and not waited for."""
WRITE_TIMEOUT_SECONDS = 30.0
"""A reader that takes nothing for so long is taken for dead."""
MAX_TEXT = 4096
"""Of a path or a header's value."""
SECRET_HEADERS = frozenset({b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"})

log = logging.getLogger("tap")


class InvalidTap(ValueError):
    """The request for a tap makes no sense; the text is for the user."""


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One end. `ip` may be a network; `labels` are those that the endpoint has: pod, namespace, identity."""

    ip: str = ""
    port: int | None = None
    identity: str = ""
    labels: dict[str, str] = {}


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """All that is given must hold. `status`: 503, or 5 for the class."""

    all: tuple[Match, ...] = ()
    any: tuple[Match, ...] = ()
    not_: Match | None = msgspec.field(default=None, name="not")
    direction: Literal["", "inbound", "outbound"] = ""
    method: str = ""
    scheme: str = ""
    authority: str = ""
    path: str = ""
    path_prefix: str = ""
    route: str = ""
    status: int | None = None
    grpc_status: int | None = None
    source: Peer | None = None
    destination: Peer | None = None


class TapRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a client asks for."""

    match: Match = Match()
    limit: int = 0
    """Requests until the stream ends; 0: none."""
    sample_rate: float = 1.0
    max_rps: float = 0.0
    """Requests per second; 0: no limit."""
    headers: bool = False
    """Whether request headers are shown. Credentials and cookies never are."""


def parse_tap(body: bytes) -> TapRequest:
    """The request in a body.

    Raises:
        InvalidTap: it is none.
    """
    try:
        wanted = msgspec.json.decode(body or b"{}", type=TapRequest)
    except msgspec.DecodeError as error:
        raise InvalidTap(str(error)) from None
    if wanted.limit < 0 or wanted.max_rps < 0:
        raise InvalidTap("limit and maxRps must not be negative")
    if not 0.0 < wanted.sample_rate <= 1.0:
        raise InvalidTap("sampleRate must be above 0 and at most 1")
    compile_match(wanted.match)
    return wanted


Predicate = Callable[[Observed], bool]


def compile_match(match: Match) -> Predicate:
    """A function that judges requests.

    Raises:
        InvalidTap: an address is none.
    """
    tests: list[Predicate] = []
    if match.direction:
        tests.append(lambda r: r.owner.direction == match.direction)
    if match.method:
        method = match.method.upper()
        tests.append(lambda r: r.head.method == method)
    for wanted, read in ((match.scheme, "scheme"), (match.path, "path")):
        if wanted:
            tests.append(_equals(read, wanted.encode()))
    if match.authority:
        same = _authority(match.authority.lower())
        tests.append(lambda r: same(r.authority) or same(r.head.authority.decode("latin-1").lower()))
    if match.path_prefix:
        prefix = match.path_prefix.encode()
        tests.append(lambda r: r.head.path.startswith(prefix))
    if match.route:
        tests.append(lambda r: r.route_name == match.route)
    if match.status is not None:
        status = match.status
        tests.append(lambda r: status in (r.status, r.status // 100))
    if match.grpc_status is not None:
        tests.append(lambda r: r.grpc_status == match.grpc_status)
    if match.source is not None:
        tests.append(_source(match.source))
    if match.destination is not None:
        tests.append(_destination(match.destination))
    tests.extend(compile_match(part) for part in match.all)
    if match.any:
        alternatives = tuple(compile_match(part) for part in match.any)
        tests.append(lambda r: any(test(r) for test in alternatives))
    if match.not_ is not None:
        negated = compile_match(match.not_)
        tests.append(lambda r: not negated(r))
    return lambda r: all(test(r) for test in tests)


def _authority(wanted: str) -> Callable[[str], bool]:
    """One without a port means any port: who looks at a service does not know what its clients wrote."""
    with_port = wanted.rpartition(":")[2].isdecimal()
    return lambda said: said == wanted or (not with_port and said.rpartition(":")[0] == wanted)


Moment = Literal["began", "responded", "ended"]


def judged_at(match: Match) -> Moment:
    """The first moment at which all terms of a match are known."""
    moments: list[Moment] = [judged_at(part) for part in (*match.all, *match.any)]
    if match.not_ is not None:
        moments.append(judged_at(match.not_))
    if match.grpc_status is not None or "ended" in moments:
        return "ended"
    late = match.status is not None or match.destination is not None or match.route
    return "responded" if late or "responded" in moments else "began"


def _equals(field: str, value: bytes) -> Predicate:
    return lambda r: getattr(r.head, field) == value


def _source(wanted: Peer) -> Predicate:
    at = _address(wanted)

    def test(request: Observed) -> bool:
        session = request.session
        labels = {"identity": session.peer_identity or ""}
        return at(session.peer) and _labelled(wanted, labels)

    return test


def _destination(wanted: Peer) -> Predicate:
    at = _address(wanted)

    def test(request: Observed) -> bool:
        endpoint = request.endpoint
        if endpoint is None:
            return at(request.session.local) and _labelled(wanted, {})
        spec = endpoint.spec
        labels = {"pod": spec.pod, "namespace": spec.namespace, "identity": spec.identity or ""}
        return at(spec.address) and _labelled(wanted, labels)

    return test


def _labelled(wanted: Peer, labels: dict[str, str]) -> bool:
    if wanted.identity and labels.get("identity", "") != wanted.identity:
        return False
    return all(labels.get(name) == value for name, value in wanted.labels.items())


def _address(wanted: Peer) -> Callable[[str], bool]:
    try:
        network = ipaddress.ip_network(wanted.ip, strict=False) if wanted.ip else None
    except ValueError:
        raise InvalidTap(f"{wanted.ip!r} is neither an address nor a network") from None

    def test(address: str) -> bool:
        host, _, port = address.rpartition(":")
        if wanted.port is not None and port != str(wanted.port):
            return False
        if network is None:
            return True
        try:
            return ipaddress.ip_address(host.strip("[]")) in network
        except ValueError:
            return False

    return test


class _Followed:
    """A request that a session follows."""

    __slots__ = ("id", "responded_at", "shown", "started_at")

    def __init__(self, number: int, now: float) -> None:
        self.id = number
        self.started_at = now
        self.responded_at = 0.0
        self.shown = False


class Session:
    """One stream of events."""

    def __init__(self, wanted: TapRequest, rng: Random, clock: Callable[[], float] = monotonic) -> None:
        self.events: deque[bytes] = deque()
        self.filled = asyncio.Event()
        self.dropped = 0
        self._wanted = wanted
        self._matches = compile_match(wanted.match)
        self._moment = judged_at(wanted.match)
        self._rng = rng
        self._clock = clock
        self._followed: dict[Observed, _Followed] = {}
        self._number = 0
        self._taken = 0
        self._window = 0.0
        self._in_window = 0

    @property
    def over(self) -> bool:
        """Its limit is reached and every request that it shows has ended."""
        limit = self._wanted.limit
        return bool(limit) and self._taken >= limit and not any(f.shown for f in self._followed.values())

    def began(self, request: Observed) -> None:
        if self._full() or len(self._followed) >= MAX_WATCHED:
            return
        if self._wanted.sample_rate < 1.0 and self._rng.random() >= self._wanted.sample_rate:
            return
        followed = _Followed(self._number, self._clock())
        self._number += 1
        if self._moment != "began":
            self._followed[request] = followed
        elif self._matches(request) and self._admit():
            self._followed[request] = followed
            self._show(request, followed)

    def responded(self, request: Observed, status: int) -> None:
        followed = self._followed.get(request)
        if followed is None:
            return
        followed.responded_at = self._clock()
        if not followed.shown and self._moment == "responded":
            if not (self._matches(request) and self._admit()):
                del self._followed[request]
                return
            self._show(request, followed)
        if followed.shown:
            self._response_init(request, followed, status)

    def ended(self, request: Observed) -> None:
        followed = self._followed.pop(request, None)
        if followed is None:
            return
        if not followed.shown:
            if not (self._matches(request) and self._admit()):
                return
            self._show(request, followed)
            if followed.responded_at:
                self._response_init(request, followed, request.status)
        now = self._clock()
        end: dict[str, object] = {"sinceRequestInitUs": _micros(now - followed.started_at)}
        if followed.responded_at:
            end["sinceResponseInitUs"] = _micros(now - followed.responded_at)
        end.update(httpStatus=request.status, requestBytes=request.received, responseBytes=request.returned)
        if request.grpc_status is not None:
            end["grpcStatus"] = request.grpc_status
        if request.cause is not None:
            end["error"] = request.cause.value
        self._emit("responseEnd", request, followed, end)
        if self.over:
            self.filled.set()

    # ---- inside

    def _full(self) -> bool:
        return bool(self._wanted.limit) and self._taken >= self._wanted.limit

    def _admit(self) -> bool:
        """Counts a request against the limit and the rate."""
        if self._full():
            return False
        if self._wanted.max_rps:
            now = self._clock()
            if now - self._window >= 1.0:
                self._window, self._in_window = now, 0
            if self._in_window >= self._wanted.max_rps:
                return False
            self._in_window += 1
        self._taken += 1
        return True

    def _show(self, request: Observed, followed: _Followed) -> None:
        head = request.head
        followed.shown = True
        event: dict[str, object] = {
            "method": head.method,
            "scheme": head.scheme.decode("latin-1"),
            "authority": head.authority.decode("latin-1")[:MAX_TEXT],
            "path": head.path.decode("latin-1")[:MAX_TEXT],
        }
        if self._wanted.headers:
            event["headers"] = _shown(head.headers)
        self._emit("requestInit", request, followed, event)

    def _response_init(self, request: Observed, followed: _Followed, status: int) -> None:
        since = _micros(followed.responded_at - followed.started_at)
        self._emit("responseInit", request, followed, {"sinceRequestInitUs": since, "httpStatus": status})

    def _emit(self, name: str, request: Observed, followed: _Followed, event: dict[str, object]) -> None:
        if len(self.events) >= QUEUE_EVENTS:
            self.dropped += 1
            return
        session = request.session
        line = {
            "event": name,
            "id": followed.id,
            "proxyDirection": request.owner.direction,
            "source": _end(session.peer, identity=session.peer_identity or ""),
            "destination": _where(request),
            "tls": session.tls,
            "route": request.route_name,
            **event,
        }
        self.events.append(msgspec.json.encode(line) + b"\n")
        self.filled.set()


def _micros(seconds: float) -> int:
    return int(seconds * 1e6)


def _where(request: Observed) -> dict[str, object]:
    endpoint = request.endpoint
    if endpoint is None:
        return _end(request.session.local, authority=request.authority)
    spec = endpoint.spec
    return _end(spec.address, pod=spec.pod, namespace=spec.namespace, identity=spec.identity or "")


def _end(address: str, **labels: str) -> dict[str, object]:
    host, _, port = address.rpartition(":")
    known: dict[str, object] = {name: value for name, value in labels.items() if value}
    return {"ip": host.strip("[]"), "port": int(port) if port.isdecimal() else 0, **known}


def _shown(headers: Headers) -> list[tuple[str, str]]:
    return [
        (name.decode("latin-1"), value.decode("latin-1")[:MAX_TEXT])
        for name, value in headers
        if name not in SECRET_HEADERS
    ]


class Tap:
    """The sessions, and the observer behind them."""

    def __init__(self, owners: Sequence[Watched], registry: Registry, rng: Random) -> None:
        self._owners = owners
        self._rng = rng
        self._sessions: list[Session] = []
        self._dropped = registry.counters(
            "tap_events_dropped_total", "Events lost because a tap's reader lagged."
        ).counter()
        registry.collect("tap_sessions", "gauge", "Taps now open.", lambda: [({}, float(len(self._sessions)))])

    def open(self, wanted: TapRequest) -> Session | None:
        """A session for that request; None: there are too many."""
        if len(self._sessions) >= MAX_SESSIONS:
            return None
        session = Session(wanted, self._rng)
        self._sessions.append(session)
        plug(self._owners, self)
        return session

    def close(self, session: Session) -> None:
        self._count(session)
        self._sessions.remove(session)
        if not self._sessions:
            unplug(self._owners, self)

    # ---- observer

    def began(self, request: Observed) -> None:
        for session in self._sessions:
            session.began(request)
            self._count(session)

    def responded(self, request: Observed, status: int) -> None:
        for session in self._sessions:
            session.responded(request, status)
            self._count(session)

    def ended(self, request: Observed) -> None:
        for session in self._sessions:
            session.ended(request)
            self._count(session)

    def _count(self, session: Session) -> None:
        if session.dropped:
            self._dropped.value += session.dropped
            session.dropped = 0


class TapServer:
    """The listener. Without a name that may tap, nobody makes one."""

    def __init__(self, tap: Tap, allowed: str, context: Callable[[], ssl.SSLContext | None]) -> None:
        """`context` is asked for each connection, so renewals take effect."""
        self._tap = tap
        self._allowed = allowed
        self._context = context
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

        self._unknown: dict[asyncio.Task[None], str] = {}
        """Connections that have not proved who they are, in the order of their coming, and their addresses."""

    def start(self, host: str, port: int) -> int:
        """Listens; returns the port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        self._socket.setblocking(False)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(self._socket))
        return int(self._socket.getsockname()[1])

    async def stop(self) -> None:
        tasks = [*self._serving, *([self._accepting] if self._accepting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("tap: %s", error)  # no descriptors left; the client waits in the backlog
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            context = self._context()
            if context is None or len(self._serving) - len(self._unknown) >= MAX_CONNECTIONS:
                connection.close()
                continue
            if len(self._unknown) >= MAX_CONNECTIONS:
                self._make_room()
            task = loop.create_task(self._handle(connection, context))
            self._serving.add(task)
            self._unknown[task] = str(peer[0])
            task.add_done_callback(self._over)

    def _make_room(self) -> None:
        """Ends the longest silence of the address that holds most connections: whoever may tap says so in
        milliseconds, and a pod that only connects must not keep them out."""
        (most, _), *_ = Counter(self._unknown.values()).most_common(1)
        task = next(task for task, peer in self._unknown.items() if peer == most)
        del self._unknown[task]
        task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._unknown.pop(task, None)

    async def _handle(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(MAX_HEAD_BYTES, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)  # uvloop returns another one than it was given
        transport: asyncio.Transport | None = None
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=REQUEST_TIMEOUT_SECONDS,
            )
            await self._serve(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        except (OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError) as error:
            log.info("tap: %s", error or type(error).__name__)
        finally:
            if transport is not None:
                transport.abort()
            else:
                connection.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        allowed = self._allowed in _names(writer.get_extra_info("peercert"))
        task = asyncio.current_task()
        if allowed and task is not None:
            self._unknown.pop(task, None)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS if allowed else FORBIDDEN_TIMEOUT_SECONDS):
                method, path, body = await _read_request(reader)
        except _BadRequest as error:
            await _answer(writer, error.status, str(error))
            return
        if not allowed:
            await _answer(writer, 403, "this identity may not tap")
        elif path.partition("?")[0] != "/v1/tap":
            await _answer(writer, 404, "there is only /v1/tap")
        elif method != "POST":
            await _answer(writer, 405, "only POST", "allow: POST\r\n")
        else:
            try:
                wanted = parse_tap(body)
            except InvalidTap as error:
                await _answer(writer, 400, str(error))
                return
            session = self._tap.open(wanted)
            if session is None:
                await _answer(writer, 503, f"{MAX_SESSIONS} taps are open already")
                return
            try:
                await _stream(session, reader, writer)
            finally:
                self._tap.close(session)


async def _stream(session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n")
    gone = asyncio.get_running_loop().create_task(_until_closed(reader))
    gone.add_done_callback(lambda _: session.filled.set())
    try:
        while not gone.done():
            session.filled.clear()
            data = b"".join(session.events)
            session.events.clear()
            over = session.over
            if data:
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            if over:
                writer.write(b"0\r\n\r\n")
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                await writer.drain()
            if over:
                await _finish(writer)
                return
            await session.filled.wait()
    finally:
        gone.cancel()


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with suppress(OSError, ssl.SSLError):  # any end of the client ends the stream
        while await reader.read(4096):
            pass


class _BadRequest(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _BadRequest(431, "the head is too large") from None
    line, *rest = head[:-4].decode("latin-1").split("\r\n")
    parts = line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise _BadRequest(400, "no HTTP/1 request")
    headers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in rest)}
    if "transfer-encoding" in headers:
        raise _BadRequest(411, "content-length is needed")
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise _BadRequest(400, "content-length is no number")
    if int(length) > MAX_BODY_BYTES:
        raise _BadRequest(413, "the body is too large")
    return parts[0], parts[1], await reader.readexactly(int(length))


async def _answer(writer: asyncio.StreamWriter, status: int, text: str, extra: str = "") -> None:
    body = text.encode() + b"\n"
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: text/plain\r\n{extra}"
    writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
    async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
        await writer.drain()
        await _finish(writer)


async def _finish(writer: asyncio.StreamWriter) -> None:
    """Closes in order, so that the client has all of the answer."""
    writer.close()
    with suppress(OSError, ssl.SSLError, TimeoutError):  # the client was faster
        async with asyncio.timeout(1.0):
            await writer.wait_closed()


def _names(certificate: dict[str, Iterable[tuple[str, str]]] | None) -> set[str]:
    entries = (certificate or {}).get("subjectAltName", ())
    return {value for kind, value in entries if kind == "DNS"}
