"""Hostile and broken HTTP/2 for both roles of the machine, with h2 as judge for a part of it.

    python -m tests.fuzz.fuzz_http2 --inputs 100000 --seed 1

Every input is a conversation that h2 or our encoder wrote, with its frames dropped, doubled, swapped, cut, retyped and
scribbled over. What must hold for each: no exception but `H2ConnectionError`; calls on a stream in a possible order;
windows, stream counts and everything that is kept within bounds; the same outcome whole and in pieces; no stream left
behind when the connection is lost. One in `JUDGED` also goes to h2: untouched conversations must be read alike, and
where h2 refuses what we take, the reason stands in `EXPLAINED`.

A failure names its seed and number; `--only` runs that one.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import time
import traceback
from collections import Counter

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import hpack

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.hpack import encoded
from mesh.proxy.wire.http2 import H2Connection
from mesh.proxy.wire.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    H2ConnectionError,
    frame_header,
)
from mesh.proxy.wire.http2_limits import MAX_BLOCK_BYTES, H2Settings
from mesh.proxy.wire.http2_link import MAX_RESET_REMEMBERED
from mesh.proxy.wire.http2_stream import Stream
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead

JUDGED = 5
"""One input in so many is shown to h2, which takes twenty times as long as we do."""
OPEN_REQUESTS = 3
"""Requests that a client of ours has open when the server's bytes come."""
SETTINGS_USED = H2Settings(max_concurrent_streams=100, connection_window=65_535)
"""h2's own."""

EXPLAINED = {
    r"Invalid input [\w.]+ in state ConnectionState\.CLOSED": "h2 takes nothing after GOAWAY; streams may finish",
    r"Table size update": "the native decoder takes a table size update anywhere in a block; it does no harm",
    r"Incomplete Huffman string": "the native decoder takes any bits as Huffman padding; the text is the same",
    r"Setting 8 has invalid value": "extended CONNECT is not ours; an unknown setting is ignored",
    r"invalid padding": "a frame of nothing but padding is allowed (sections 6.1 and 6.2)",
    r"Received frame with non-compliant data": "the reserved bit of WINDOW_UPDATE is to be ignored (section 6.9)",
}
"""What h2 refuses and we take, by h2's words."""

ALTSVC = 10
"""h2 knows this extension and checks it; to us it is one of the unknown."""

Frame = tuple[int, int, int, bytes]


class Disagreement(AssertionError):
    """h2 and ours read one conversation differently."""


class Notes(Stream):
    """Checks the order of its calls, keeps what they said, and answers requests."""

    __slots__ = ("answer", "body", "code", "end", "fields", "head", "interim", "trailers")

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer
        """Bytes of body to answer with; -1: nothing is answered."""
        self.head: RequestHead | ResponseHead | None = None
        self.body = b""
        self.trailers: Headers | None = None
        self.interim = 0
        self.end = False
        self.code: int | None = None

    def head_received(self, head: RequestHead | ResponseHead, end: bool) -> None:
        assert self.head is None
        assert self.code is None
        self.head, self.end = head, end
        if self.answer >= 0:
            answer = ResponseHead()
            answer.status = 200
            self.send_response(answer, [], False)
            self.send_data(bytes(self.answer), False)
            self.send_trailers([(b"grpc-status", b"0")])

    def refused(self, cause: Refused) -> None:
        assert self.head is None
        super().refused(cause)
        self.code = -2

    def informational_received(self, head: ResponseHead) -> None:
        assert self.head is None
        self.interim += 1

    def data_received(self, data: bytes, end: bool) -> None:
        assert self.head is not None
        assert not self.end
        assert self.code is None
        self.body += data
        self.end = end
        if self.answer >= 0:
            self.consumed(len(data))

    def trailers_received(self, trailers: Headers) -> None:
        assert self.head is not None
        assert not self.end
        self.trailers, self.end = trailers, True

    def reset_received(self, code: int) -> None:
        assert self.code is None
        assert not self.open
        self.code = code

    def outcome(self) -> tuple[object, ...]:
        head = self.head
        if head is None:
            return (None, self.interim, self.code)
        line: tuple[object, ...] = ()
        if isinstance(head, RequestHead):
            line = (head.method, head.path, head.authority, head.te_trailers)
        else:
            line = (head.status,)
        return (*line, head.headers, head.content_length, self.interim, self.body, self.trailers, self.end, self.code)


class Owner:
    """One of our connections with all its streams, fed and checked."""

    def __init__(self, *, client: bool, answer: int) -> None:
        self.answer = answer
        self.streams: list[Notes] = []
        self.refusals = 0
        self.error: H2ConnectionError | None = None
        self.connection = H2Connection(self, SETTINGS_USED, client=client, now=float)
        self.connection.start()
        for _ in range(OPEN_REQUESTS if client else 0):
            stream = Notes(-1)
            self.streams.append(stream)
            self.connection.open(stream)
            stream.send_request(_request(), b"cart:80", [], True)
        self.connection.output()

    def accept_stream(self) -> Stream | None:
        self.streams.append(Notes(self.answer))
        return self.streams[-1]

    def settings_received(self, max_concurrent: int) -> None:
        pass

    def goaway_received(self, last_stream_id: int, code: int) -> None:
        pass

    def pong_received(self, opaque: bytes) -> None:
        pass

    def feed(self, pieces: list[bytes]) -> None:
        connection = self.connection
        try:
            for piece in pieces:
                connection.feed(piece)
                self.check()
        except H2ConnectionError as error:
            self.error = error
            self.check()

    def check(self) -> None:
        connection = self.connection
        assert connection._receive_window + connection.credit <= SETTINGS_USED.connection_window
        assert connection._receive_window >= 0 or self.error
        assert connection.send_window >= 0 or self.error
        assert len(connection.streams) <= SETTINGS_USED.max_concurrent_streams
        assert len(connection._rest) < SETTINGS_USED.max_frame + 9
        assert len(connection._reset) <= MAX_RESET_REMEMBERED
        assert connection._block_bytes <= MAX_BLOCK_BYTES + SETTINGS_USED.max_frame
        assert not connection.ring or connection.send_window == 0 or self.error
        assert len({stream.id for stream in connection.ring}) == len(connection.ring) <= len(connection.streams)
        for stream_id, stream in connection.streams.items():
            assert stream.id == stream_id
            assert stream.open
            assert 0 <= stream._held <= SETTINGS_USED.stream_window
            assert stream._receive_window >= 0 or self.error

    def finish(self, fed: int) -> int:
        """Loses the connection; how many bytes we answered."""
        written = len(self.connection.output())
        assert written <= 200 + 3 * fed + sum(300 + max(stream.answer, 0) for stream in self.streams)
        self.connection.lost()
        assert self.connection.streams == {}
        assert not any(stream.open for stream in self.streams)
        return written

    def outcome(self) -> tuple[object, ...]:
        error = self.error and (self.error.code, str(self.error))
        return (error, [stream.outcome() for stream in self.streams])

    @property
    def accepted_everything(self) -> bool:
        resets = sum(1 for stream in self.streams if stream.code is not None)
        return self.error is None and resets == 0 and not self.connection._reset


def _request() -> RequestHead:
    head = RequestHead()
    head.method, head.path = "GET", b"/"
    return head


# ---- conversations to start from

NAMES = (b"x-a", b"content-type", b"traceparent", b"grpc-timeout", b"accept", b"user-agent", b"cookie")
METHODS = (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE")


def _fields(rng: random.Random) -> Headers:
    return [
        (rng.choice(NAMES[:-1]), rng.choice((b"", b"a", b"application/grpc", b"%x" % rng.getrandbits(90), b"v" * 150)))
        for _ in range(rng.randrange(4))
    ]


def _judged_side(*, client: bool) -> h2.connection.H2Connection:
    side = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding=False))
    side.initiate_connection()
    return side


def _message(rng: random.Random, side: h2.connection.H2Connection, stream_id: int, head: Headers) -> None:
    """A whole message, or its beginning."""
    if rng.random() < 0.25:
        side.send_headers(stream_id, head, end_stream=True)
        return
    body = [bytes(rng.randrange(60)) for _ in range(rng.randrange(4))]
    if rng.random() < 0.3:
        head.append((b"content-length", b"%d" % sum(map(len, body))))
    side.send_headers(stream_id, head)
    for piece in body:
        side.send_data(stream_id, piece, pad_length=rng.choice((None, None, None, 0, 7)))
    last = rng.random()
    if last < 0.4:
        side.send_data(stream_id, b"", end_stream=True)
    elif last < 0.7:
        side.send_headers(stream_id, [(b"grpc-status", b"0"), (b"checksum", b"1")], end_stream=True)
    elif last < 0.8:
        side.reset_stream(stream_id, 8)


def requests_of_h2(rng: random.Random) -> bytes:
    """What a client written with h2 may send."""
    side = _judged_side(client=True)
    for number in range(rng.randrange(1, 5)):
        head = [
            (b":method", rng.choice(METHODS)),
            (b":scheme", b"http"),
            (b":authority", b"cart:80"),
            (b":path", rng.choice((b"/", b"/shop.Cart/Get", b"/a?b=%d" % rng.randrange(99)))),
            *_fields(rng),
        ]
        if rng.random() < 0.3:
            head.append((b"te", b"trailers"))
        _message(rng, side, 2 * number + 1, head)
        _company(rng, side, 2 * number + 1)
    return side.data_to_send()


def responses_of_h2(rng: random.Random) -> bytes:
    """What a server written with h2 may answer to `OPEN_REQUESTS` requests."""
    client, server = _judged_side(client=True), _judged_side(client=False)
    for number in range(OPEN_REQUESTS):
        head = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"cart:80"), (b":path", b"/")]
        client.send_headers(2 * number + 1, head, end_stream=True)
    server.receive_data(client.data_to_send())
    for stream_id in rng.sample((1, 3, 5), rng.randrange(1, 4)):
        if rng.random() < 0.2:
            server.send_headers(stream_id, [(b":status", b"103"), (b"link", b"a")])
        _message(rng, server, stream_id, [(b":status", rng.choice((b"200", b"404", b"503"))), *_fields(rng)])
        _company(rng, server, stream_id)
    return server.data_to_send()


def _company(rng: random.Random, side: h2.connection.H2Connection, stream_id: int) -> None:
    chance = rng.random()
    if chance < 0.1:
        side.ping(b"12345678")
    elif chance < 0.2:
        side.increment_flow_control_window(rng.randrange(1, 5_000))
    elif chance < 0.25:
        side.update_settings({rng.choice((1, 3, 4)): rng.randrange(70_000)})


def requests_without_table(rng: random.Random) -> bytes:
    """Requests by our own encoder: losing one does not spoil the table, so that mutations reach further."""
    data = PREFACE + _frame((SETTINGS, 0, 0, b""))
    for number in range(rng.randrange(1, 5)):
        block = b"".join(
            map(
                encoded,
                [
                    (b":method", rng.choice(METHODS)),
                    (b":scheme", b"http"),
                    (b":authority", b"cart:80"),
                    (b":path", b"/a"),
                    *_fields(rng),
                ],
            )
        )
        data += _frame((HEADERS, END_HEADERS, 2 * number + 1, block))
        data += _frame((DATA, rng.choice((0, END_STREAM)), 2 * number + 1, bytes(rng.randrange(50))))
    return data


# ---- mutation


def _frame(frame: Frame) -> bytes:
    kind, flags, stream_id, payload = frame
    return frame_header.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def _split(data: bytes) -> list[Frame]:
    found: list[Frame] = []
    while len(data) >= 9:
        packed, flags, stream_id = frame_header.unpack_from(data)
        size = packed >> 8
        found.append((packed & 0xFF, flags, stream_id, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


BLOCKS = [
    hpack.Encoder().encode(fields)
    for fields in (
        [(b":status", b"200")],
        [(b":status", b"103")],
        [(b"a", b"b")],
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")],
        [(b":method", b"CONNECT"), (b":authority", b"a")],
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/"), (b"cookie", b"a")] * 2,
        [(b":method", b"POST"), (b":scheme", b"http"), (b"host", b"a"), (b":path", b"/")],
        [(b"connection", b"close")],
    )
]
PAYLOADS = [b"", bytes(4), b"\0\0\0\x01", b"\x7f\xff\xff\xff", bytes(5), bytes(6), bytes(8), b"\0\x04\0\0\0\0", *BLOCKS]
PAYLOADS += [
    b"\0\x04\x7f\xff\xff\xff",
    b"\0\x05\0\0\x40\0",
    b"\0\x01\0\0\0\0",
    b"\x03abc",
    bytes(300),
    b"\x20\x82",
    b"\x82\x20",
]
FLAGS = (0, 1, 4, 5, 8, 9, 0x0C, 0x0D, 0x24, 0x25, 0x2D, 0xFF)
IDS = (0, 0, 1, 1, 3, 3, 5, 7, 9, 2, 2**31 - 1, 2**32 - 1)


def _random_frame(rng: random.Random) -> Frame:
    kind = rng.choice((0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8, 9, 9, 0x99))
    return (kind, rng.choice(FLAGS), rng.choice(IDS), rng.choice(PAYLOADS))


def mutated(rng: random.Random, frames: list[Frame]) -> bytes:
    """The frames after one to three accidents, as bytes."""
    frames = list(frames)
    scribbles = 0
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not frames:
            frames = [_random_frame(rng)]
        at = rng.randrange(len(frames))
        kind, flags, stream_id, payload = frames[at]
        accident = rng.randrange(11)
        if accident == 0:
            del frames[at]
        elif accident == 1:
            frames.insert(at, frames[at])
        elif accident == 2:
            other = rng.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
        elif accident == 3:
            frames[at] = (kind, rng.choice(FLAGS), stream_id, payload)
        elif accident == 4:
            frames[at] = (kind, flags, rng.choice(IDS), payload)
        elif accident == 5:
            frames[at] = (rng.choice((*range(10), 0x99)), flags, stream_id, payload)
        elif accident == 6:
            frames[at] = (kind, flags, stream_id, payload[: rng.randrange(len(payload) + 1)])
        elif accident == 7 and payload:
            spot = rng.randrange(len(payload))
            frames[at] = (kind, flags, stream_id, payload[:spot] + rng.randbytes(1) + payload[spot + 1 :])
        elif accident == 8 and kind == HEADERS and len(payload) > 2:
            cut = rng.randrange(1, len(payload))
            frames[at] = (kind, flags & ~END_HEADERS, stream_id, payload[:cut])
            frames.insert(at + 1, (9, rng.choice((0, END_HEADERS, END_HEADERS)), stream_id, payload[cut:]))
        elif accident == 9:
            scribbles += 1
        else:
            frames.insert(at, _random_frame(rng))
    data = bytearray(b"".join(map(_frame, frames)))
    for _ in range(scribbles):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _pieces(rng: random.Random, data: bytes) -> list[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


# ---- judgement


class Read:
    """What h2 made of one stream, in our words."""

    def __init__(self) -> None:
        self.fields: Headers = []
        self.interim = 0
        self.body = b""
        self.trailers: Headers | None = None
        self.end = False
        self.code: int | None = None

    def outcome(self, *, client: bool) -> tuple[object, ...]:
        if not self.fields:
            return (None, self.interim, self.code)
        named = dict(self.fields)
        rest = [field for field in self.fields if field[0][:1] != b":" and field[0] not in (b"te", b"content-length")]
        length = int(named[b"content-length"]) if b"content-length" in named else None
        if client:
            line: tuple[object, ...] = (int(named[b":status"]),)
        else:
            line = (named[b":method"].decode(), named[b":path"], named[b":authority"], b"te" in named)
        return (*line, rest, length, self.interim, self.body, self.trailers, self.end, self.code)


def judged_by_h2(data: bytes, *, client: bool) -> tuple[str | None, dict[int, Read]]:
    """h2's complaint, if it has one, and what it read of each stream."""
    side = _judged_side(client=client)
    streams: dict[int, Read] = {}
    for number in range(OPEN_REQUESTS if client else 0):
        head = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"cart:80"), (b":path", b"/")]
        side.send_headers(2 * number + 1, head, end_stream=True)
        streams[2 * number + 1] = Read()
    try:
        events = side.receive_data(data)
    except h2.exceptions.ProtocolError as error:
        return f"{type(error).__name__}: {error}", streams
    for event in events:
        stream_id = getattr(event, "stream_id", None)
        if not stream_id:
            continue
        read = streams.setdefault(stream_id, Read())
        if isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived):
            read.fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, h2.events.InformationalResponseReceived):
            read.interim += 1
        elif isinstance(event, h2.events.DataReceived):
            read.body += event.data
        elif isinstance(event, h2.events.TrailersReceived):
            read.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
        elif isinstance(event, h2.events.StreamEnded):
            read.end = True
        elif isinstance(event, h2.events.StreamReset):
            read.code = int(event.error_code)
    return None, streams


def judge(data: bytes, owner: Owner, *, client: bool, untouched: bool, tally: Counter[str]) -> None:
    complaint, streams = judged_by_h2(data, client=client)
    if complaint is None:
        if untouched:
            theirs = [streams[stream_id].outcome(client=client) for stream_id in sorted(streams)]
            ours = [stream.outcome() for stream in owner.streams]
            if owner.error or ours != theirs:
                raise Disagreement(f"h2: {theirs}\nours: {owner.outcome()}")
            tally["read alike"] += 1
        else:
            tally["both took it" if owner.accepted_everything else "we are stricter"] += 1
        return
    if untouched:
        raise Disagreement(f"h2 refuses its own words: {complaint}")
    if not owner.accepted_everything:
        tally["both refused it"] += 1
        return
    for pattern, why in EXPLAINED.items():
        if re.search(pattern, complaint):
            tally[f"h2 alone refused it: {why}"] += 1
            return
    raise Disagreement(f"h2 refuses what we take: {complaint}")


# ---- the run


class Pool:
    """Conversations to mutate; each is written once and used many times."""

    SIZE = 150

    def __init__(self, rng: random.Random) -> None:
        self.valid = {True: [responses_of_h2(rng) for _ in range(self.SIZE)]}
        self.valid[False] = [rng.choice((requests_of_h2, requests_without_table))(rng) for _ in range(self.SIZE)]
        self.frames = {
            client: [_split(data.removeprefix(PREFACE)) for data in conversations]
            for client, conversations in self.valid.items()
        }


def one(pool: Pool, seed: int, number: int, tally: Counter[str]) -> None:
    """One input, decided by seed and number alone."""
    rng = random.Random(seed << 32 | number)
    client = rng.random() < 0.4
    which = rng.randrange(Pool.SIZE)
    untouched = rng.random() < 0.05
    if untouched:
        data = pool.valid[client][which]
    elif rng.random() < 0.15:
        data = b"".join([_frame(_random_frame(rng)) for _ in range(rng.randrange(1, 8))])
        data = (b"" if client else PREFACE) + _frame((SETTINGS, 0, 0, b"")) + data
    else:
        data = (b"" if client else PREFACE) + mutated(rng, pool.frames[client][which])
    judged = number % JUDGED == 0
    answer = -1 if judged else rng.choice((-1, 0, 10, 70_000, 200_000))
    owner = Owner(client=client, answer=answer)
    owner.feed([data])
    if judged and not any(kind == ALTSVC for kind, *_ in _split(data.removeprefix(PREFACE))):
        whole = data[: len(data) - len(owner.connection._rest)]  # h2 complains of half a frame already
        judge(whole, owner, client=client, untouched=untouched, tally=tally)
    if number % 3 == 0:
        again = Owner(client=client, answer=answer)
        again.feed(_pieces(rng, data))
        assert again.outcome() == owner.outcome(), "whole and in pieces differ"
        again.finish(len(data))
    owner.finish(len(data))
    tally["ended by us" if owner.error else "survived"] += 1


def run(inputs: int, seed: int, first: int = 0) -> Counter[str]:
    """Runs `inputs` inputs; raises at the first that breaks a rule, naming it."""
    pool = Pool(random.Random(seed))
    tally: Counter[str] = Counter()
    for number in range(first, first + inputs):
        try:
            one(pool, seed, number, tally)
        except Exception as error:
            raise AssertionError(f"fuzz_http2 seed {seed} input {number}: {type(error).__name__}: {error}") from error
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description="Hostile HTTP/2 for both roles.")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="number of the one input to run")
    arguments = parser.parse_args()
    # The native decoder writes a line for every block that ends inside a field; failures are told on stdout.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    start = time.monotonic()
    first, inputs = (0, arguments.inputs) if arguments.only is None else (arguments.only, 1)
    try:
        tally = run(inputs, arguments.seed, first)
    except AssertionError:
        traceback.print_exc(file=sys.stdout)
        sys.exit(1)
    seconds = time.monotonic() - start
    print(f"http2: {inputs} inputs in {seconds:.1f} s, {inputs / seconds:.0f}/s")
    for what, count in tally.most_common():
        print(f"  {count:8} {what}")


if __name__ == "__main__":
    main()
