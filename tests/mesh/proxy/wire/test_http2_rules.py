"""Rules of RFC 9113 and limits of ours, frame by frame: what breaks a stream, what the connection, what nothing."""

from __future__ import annotations

from collections.abc import Callable

import hpack
import pytest
from http2_peers import CLIENT_START, HOWS, Side, exchange, frame, frames, pieces, request, response

from mesh.proxy.wire import http2_limits as limits
from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.http2_frames import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    H2ConnectionError,
)

HEAD = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"cart:80"), (b":path", b"/a")]
BLOCK = hpack.Encoder().encode(HEAD)
OPEN = frame(HEADERS, END_HEADERS, 1, BLOCK)
WHOLE = frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK)
OK = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88")


def feed_all(side: Side, data: bytes, how: str) -> None:
    for piece in pieces(data, how):
        side.connection.feed(piece)


def word(value: int) -> bytes:
    return value.to_bytes(4, "big")


def setting(name: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, name.to_bytes(2, "big") + word(value))


def server(*after_start: bytes, how: str = "whole", **more: bool) -> Side:
    side = Side(client=False, **more)
    side.connection.output()
    for piece in pieces(CLIENT_START + b"".join(after_start), how):
        side.connection.feed(piece)
    return side


def client(*after_settings: bytes, requests: int = 1) -> Side:
    side = Side(client=True)
    for _ in range(requests):
        side.request(request("POST", chunked=True), end=False)
    side.connection.feed(frame(SETTINGS) + b"".join(after_settings))
    return side


CONNECTION_ERRORS: dict[str, tuple[bytes, int]] = {
    "DATA without a stream": (frame(DATA, 0, 0, b"a"), PROTOCOL_ERROR),
    "DATA on an idle stream": (frame(DATA, 0, 1, b"a"), PROTOCOL_ERROR),
    "DATA on a stream of the server's": (frame(DATA, 0, 2, b"a"), PROTOCOL_ERROR),
    "DATA on a closed stream": (OPEN + frame(RST_STREAM, 0, 1, word(8)) + frame(DATA, 0, 1, b"a"), STREAM_CLOSED),
    "padding longer than DATA": (OPEN + frame(DATA, PADDED, 1, b"\x05abc"), PROTOCOL_ERROR),
    "HEADERS without a stream": (frame(HEADERS, END_HEADERS, 0, BLOCK), PROTOCOL_ERROR),
    "HEADERS on a stream of the server's": (frame(HEADERS, END_HEADERS, 2, BLOCK), PROTOCOL_ERROR),
    "HEADERS on a stream below the last": (
        frame(HEADERS, END_HEADERS, 3, BLOCK) + frame(HEADERS, END_HEADERS, 1, BLOCK),
        STREAM_CLOSED,
    ),
    "padding longer than HEADERS": (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05abc"), PROTOCOL_ERROR),
    "HEADERS too short for a priority": (frame(HEADERS, END_HEADERS | 0x20, 1, b"abc"), PROTOCOL_ERROR),
    "a block that is no HPACK": (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), COMPRESSION_ERROR),
    "a block that ends inside a field": (frame(HEADERS, END_HEADERS, 1, b"\x63"), COMPRESSION_ERROR),
    "another frame inside a block": (frame(HEADERS, 0, 1, BLOCK) + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    "CONTINUATION of another stream": (
        frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, END_HEADERS, 3),
        PROTOCOL_ERROR,
    ),
    "CONTINUATION of nothing": (frame(CONTINUATION, END_HEADERS, 1), PROTOCOL_ERROR),
    "PRIORITY without a stream": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    "PRIORITY of four bytes": (frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
    "RST_STREAM on an idle stream": (frame(RST_STREAM, 0, 1, word(8)), PROTOCOL_ERROR),
    "RST_STREAM of three bytes": (OPEN + frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
    "SETTINGS of a stream": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "SETTINGS of five bytes": (frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    "SETTINGS ACK with content": (frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    "ENABLE_PUSH of 2": (setting(2, 2), PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE of 2^31": (setting(4, 2**31), FLOW_CONTROL_ERROR),
    "INITIAL_WINDOW_SIZE that overflows a stream": (
        OPEN + frame(WINDOW_UPDATE, 0, 1, word(2**31 - 1 - 65_535)) + setting(4, 65_536),
        FLOW_CONTROL_ERROR,
    ),
    "MAX_FRAME_SIZE of 16,383": (setting(5, 16_383), PROTOCOL_ERROR),
    "MAX_FRAME_SIZE of 2^24": (setting(5, 2**24), PROTOCOL_ERROR),
    "PUSH_PROMISE": (OPEN + frame(PUSH_PROMISE, END_HEADERS, 1, word(2) + BLOCK), PROTOCOL_ERROR),
    "PING of seven bytes": (frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "PING of a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "GOAWAY of seven bytes": (frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "GOAWAY of a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "WINDOW_UPDATE of three bytes": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    "WINDOW_UPDATE by nothing": (frame(WINDOW_UPDATE, 0, 0, word(0)), PROTOCOL_ERROR),
    "WINDOW_UPDATE that overflows": (frame(WINDOW_UPDATE, 0, 0, word(2**31 - 1)), FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE on an idle stream": (frame(WINDOW_UPDATE, 0, 1, word(1)), PROTOCOL_ERROR),
    "a frame larger than announced": (frame(77, 0, 0, bytes(16_385)), FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("what", CONNECTION_ERRORS)
def test_the_connection_ends_with(what: str, how: str) -> None:
    data, code = CONNECTION_ERRORS[what]
    side = Side(client=False)
    side.connection.output()
    with pytest.raises(H2ConnectionError) as caught:
        feed_all(side, CLIENT_START + data, how)
    assert caught.value.code == code
    kind, _, _, payload = frames(side.connection.output())[-1]
    assert (kind, payload[4:8]) == (GOAWAY, word(code))
    side.connection.feed(OPEN)  # nothing is read any more
    side.connection.lost()
    assert side.connection.streams == {}


STREAM_ERRORS: dict[str, tuple[bytes, int]] = {
    "DATA after the end": (WHOLE + frame(DATA, 0, 1, b"a"), STREAM_CLOSED),
    "HEADERS after the end": (WHOLE + WHOLE, STREAM_CLOSED),
    "trailers that do not end the stream": (OPEN + frame(HEADERS, END_HEADERS, 1, b"\x10\x01a\x01b"), PROTOCOL_ERROR),
    "trailers with a pseudo-header": (OPEN + WHOLE, PROTOCOL_ERROR),
    "WINDOW_UPDATE by nothing": (OPEN + frame(WINDOW_UPDATE, 0, 1, word(0)), PROTOCOL_ERROR),
    "WINDOW_UPDATE that overflows": (OPEN + frame(WINDOW_UPDATE, 0, 1, word(2**31 - 1)), FLOW_CONTROL_ERROR),
    "more DATA than the window": (OPEN + frame(DATA, 0, 1, bytes(16_000)) * 5, FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize("what", STREAM_ERRORS)
def test_the_stream_alone_ends_with(what: str) -> None:
    data, code = STREAM_ERRORS[what]
    side = server(data, consuming=False)
    assert side.accepted[0].code == code
    assert frames(side.connection.output())[-1] == (RST_STREAM, 0, 1, word(code))
    side.connection.feed(frame(HEADERS, END_HEADERS | END_STREAM, 3, BLOCK))
    assert side.accepted[1].ended


def test_a_peer_that_ignores_the_connections_window_is_cut_off() -> None:
    side = server(consuming=False)
    opened = b"".join([frame(HEADERS, END_HEADERS, 2 * n + 1, BLOCK) for n in range(20)])
    side.connection.feed(opened)
    too_much = b"".join([frame(DATA, 0, 2 * n + 1, bytes(16_000)) * 4 for n in range(20)])
    with pytest.raises(H2ConnectionError, match="connection's window"):
        side.connection.feed(too_much)
    assert sum(len(stream.body) for stream in side.accepted) <= 1024 * 1024


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", frame(SETTINGS)])
def test_a_client_without_the_preface_is_refused(data: bytes) -> None:
    with pytest.raises(H2ConnectionError, match="preface"):
        Side(client=False).connection.feed(data)


@pytest.mark.parametrize("first", [OPEN, frame(PING, 0, 0, bytes(8)), frame(SETTINGS, ACK)])
def test_settings_come_first(first: bytes) -> None:
    with pytest.raises(H2ConnectionError, match="SETTINGS do not come first"):
        Side(client=False).connection.feed(PREFACE + first)


@pytest.mark.parametrize(
    "ignored",
    {
        "PRIORITY on an idle stream": frame(PRIORITY, 0, 9, bytes(5)),
        "an unknown frame": frame(0xBB, 0xFF, 12, b"anything"),
        "an unknown setting": setting(0x99, 7),
        "WINDOW_UPDATE on a closed stream": WHOLE
        + frame(RST_STREAM, 0, 1, word(8))
        + frame(WINDOW_UPDATE, 0, 1, word(5)),
        "RST_STREAM twice": OPEN + frame(RST_STREAM, 0, 1, word(8)) * 2,
    }.values(),
)
def test_what_must_be_ignored_is(ignored: bytes) -> None:
    side = server(ignored, frame(HEADERS, END_HEADERS | END_STREAM, 3, BLOCK))
    assert side.accepted[-1].ended


CLIENT_ERRORS: dict[str, tuple[bytes, int]] = {
    "an answer to nothing": (frame(HEADERS, END_HEADERS, 9, b"\x88"), PROTOCOL_ERROR),
    "a stream that the server opens": (frame(HEADERS, END_HEADERS, 2, b"\x88"), PROTOCOL_ERROR),
    "PUSH_PROMISE": (frame(PUSH_PROMISE, END_HEADERS, 1, word(2) + BLOCK), PROTOCOL_ERROR),
    "ENABLE_PUSH of 1": (setting(2, 1), PROTOCOL_ERROR),
}


@pytest.mark.parametrize("what", CLIENT_ERRORS)
def test_a_server_ends_the_connection_with(what: str) -> None:
    data, code = CLIENT_ERRORS[what]
    with pytest.raises(H2ConnectionError) as caught:
        client(data)
    assert caught.value.code == code


def block_of(*fields: tuple[bytes, bytes]) -> bytes:
    return hpack.Encoder().encode(fields)


BAD_ANSWERS: dict[str, bytes] = {
    "DATA before the head": frame(DATA, 0, 1, b"a"),
    "no status": frame(HEADERS, END_HEADERS, 1, block_of((b"a", b"b"))),
    "a status of two digits": frame(HEADERS, END_HEADERS, 1, block_of((b":status", b"20"))),
    "an interim response that ends": frame(HEADERS, END_HEADERS | END_STREAM, 1, block_of((b":status", b"103"))),
    "101": frame(HEADERS, END_HEADERS, 1, block_of((b":status", b"101"))),
    "a request's pseudo-header": frame(HEADERS, END_HEADERS, 1, block_of((b":status", b"200"), (b":path", b"/"))),
    "a body of 204": frame(HEADERS, END_HEADERS, 1, b"\x89") + frame(DATA, 0, 1, b"a"),
    "less than the content-length": frame(
        HEADERS, END_HEADERS, 1, block_of((b":status", b"200"), (b"content-length", b"5"))
    )
    + frame(DATA, END_STREAM, 1, b"abcd"),
    "more than the content-length": frame(
        HEADERS, END_HEADERS, 1, block_of((b":status", b"200"), (b"content-length", b"5"))
    )
    + frame(DATA, 0, 1, b"abcdef"),
    "no body where one was announced": frame(
        HEADERS, END_HEADERS | END_STREAM, 1, block_of((b":status", b"200"), (b"content-length", b"5"))
    ),
    "trailers too early": frame(HEADERS, END_HEADERS, 1, block_of((b":status", b"200"), (b"content-length", b"5")))
    + frame(HEADERS, END_HEADERS | END_STREAM, 1, block_of((b"a", b"b"))),
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_an_answer_is_refused_with(what: str) -> None:
    side = Side(client=True)
    stream = side.request(request("POST", chunked=True), end=False)
    other = side.request(request())
    side.connection.feed(frame(SETTINGS) + BAD_ANSWERS[what] + frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x88"))
    assert stream.code == PROTOCOL_ERROR
    assert other.ended


def test_an_answer_to_head_has_a_length_and_no_body() -> None:
    side = Side(client=True)
    stream = side.request(request("HEAD"))
    block = block_of((b":status", b"200"), (b"content-length", b"5"))
    side.connection.feed(frame(SETTINGS) + frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
    assert (stream.ended, stream.code, stream.head and stream.head.content_length) == (True, None, 5)


# ---- limits, each by its name


def flood(make: Callable[[int], bytes], how_many: int, side: Side | None = None) -> tuple[int, str]:
    """How many of `make(n)` were taken before the connection ended, and why it did."""
    side = side or server(OPEN)
    for number in range(how_many):
        try:
            side.connection.feed(make(number))
        except H2ConnectionError as error:
            return number, str(error)
        side.connection.output()
    return how_many, ""


FLOODS: dict[str, tuple[limits.Limit, Callable[[int], bytes]]] = {
    "rapid reset": (
        limits.RAPID_RESET,
        lambda n: frame(HEADERS, END_HEADERS, 2 * n + 3, BLOCK) + frame(RST_STREAM, 0, 2 * n + 3, word(CANCEL)),
    ),
    "streams that make us reset them": (
        limits.RAPID_RESET,
        lambda n: frame(HEADERS, END_HEADERS, 2 * n + 3, BLOCK) + frame(WINDOW_UPDATE, 0, 2 * n + 3, word(0)),
    ),
    "malformed heads": (limits.RAPID_RESET, lambda n: frame(HEADERS, END_HEADERS, 2 * n + 3, b"\x82")),
    "PING": (limits.PING_FLOOD, lambda n: frame(PING, 0, 0, bytes(8))),
    "PING ACK": (limits.PING_FLOOD, lambda n: frame(PING, ACK, 0, bytes(8))),
    "GOAWAY": (limits.SETTINGS_FLOOD, lambda n: frame(GOAWAY, 0, 0, bytes(8))),
    "SETTINGS": (limits.SETTINGS_FLOOD, lambda n: frame(SETTINGS)),
    "SETTINGS ACK": (limits.SETTINGS_FLOOD, lambda n: frame(SETTINGS, ACK)),
    "empty DATA": (limits.EMPTY_DATA_FLOOD, lambda n: frame(DATA, 0, 1)),
    "DATA of padding": (limits.EMPTY_DATA_FLOOD, lambda n: frame(DATA, PADDED, 1, b"\x05" + bytes(5))),
    "PRIORITY": (limits.IGNORED_FLOOD, lambda n: frame(PRIORITY, 0, 1, bytes(5))),
    "unknown frames": (limits.IGNORED_FLOOD, lambda n: frame(0x99, 0, 1)),
    "WINDOW_UPDATE": (limits.WINDOW_UPDATE_FLOOD, lambda n: frame(WINDOW_UPDATE, 0, 1, word(1))),
}


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood_ends_the_connection_and_names_its_limit(what: str) -> None:
    limit, make = FLOODS[what]
    taken, cause = flood(make, limit.burst + 50)
    assert cause == limit.cause
    assert limit.burst - 20 <= taken <= limit.burst + 20


@pytest.mark.parametrize("what", FLOODS)
def test_the_same_frames_at_leisure_do_no_harm(what: str) -> None:
    limit, make = FLOODS[what]
    side = server(OPEN)

    def after_a_while(number: int) -> bytes:
        side.time += 1.05 / limit.per_second
        return make(number)

    assert flood(after_a_while, limit.burst + 50, side)[1] == ""


def test_interim_responses_without_end_are_stopped() -> None:
    interim = frame(HEADERS, END_HEADERS, 1, block_of((b":status", b"103")))
    taken, cause = flood(lambda n: interim, 200, client())
    assert (taken, cause) == (limits.INFORMATIONAL_FLOOD.burst, limits.INFORMATIONAL_FLOOD.cause)


def test_resets_of_streams_that_lived_are_no_flood() -> None:
    side = server()

    def patient(number: int) -> bytes:
        side.connection.feed(frame(HEADERS, END_HEADERS, 2 * number + 1, BLOCK))
        side.time += limits.RAPID_SECONDS * 1.01
        return frame(RST_STREAM, 0, 2 * number + 1, word(CANCEL))

    limit = limits.RAPID_RESET
    assert flood(patient, limit.burst + 50, side)[1] == ""
    # The clock refills the allowance too: hold it still to see that none was spent.
    assert limit not in side.connection._allowances


def test_refused_streams_count_as_opened_in_vain() -> None:
    side = server()
    side.accepting = False
    taken, cause = flood(lambda n: frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, BLOCK), 1_200, side)
    assert (taken, cause) == (limits.RAPID_RESET.burst, limits.RAPID_RESET.cause)


def test_a_block_without_end_is_stopped_by_its_bytes() -> None:
    side = server()
    side.connection.feed(frame(HEADERS, 0, 1, bytes(16_000)))
    with pytest.raises(H2ConnectionError, match="too much CONTINUATION") as caught:
        side.connection.feed(frame(CONTINUATION, 0, 1, bytes(16_384)) * 8)
    assert caught.value.code == ENHANCE_YOUR_CALM


def test_a_block_without_end_is_stopped_by_its_frames() -> None:
    side = server()
    side.connection.feed(frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * limits.MAX_CONTINUATIONS)
    with pytest.raises(H2ConnectionError, match="too much CONTINUATION"):
        side.connection.feed(frame(CONTINUATION, 0, 1))


OVERSIZED = {
    "many fields": [(b"x-%d" % n, b"v" * 2_000) for n in range(33)],
    "few large fields": [(b"x-%d" % n, b"v" * 11_000) for n in range(6)],
    "one field of the table again and again": [(b"x", b"v" * 3_900)] * 17,
}


@pytest.mark.parametrize("what", OVERSIZED)
def test_a_header_list_over_64_kib_is_refused_and_the_table_stays_right(what: str) -> None:
    encoder = hpack.Encoder()
    # Known from an earlier request: seventeen times 3,900 bytes take a block of thirty.
    data = frame(HEADERS, END_HEADERS | END_STREAM, 1, encoder.encode([*HEAD, OVERSIZED[what][0]], huffman=False))
    block = encoder.encode([*HEAD, *OVERSIZED[what], (b"last", b"entry")], huffman=False)
    cuts = range(0, len(block), 16_384)
    data += frame(HEADERS, 0, 3)
    data += b"".join([frame(CONTINUATION, 0, 3, block[start : start + 16_384]) for start in cuts])
    side = server(data + frame(CONTINUATION, END_HEADERS, 3))
    assert side.accepted[1].cause is Refused.HEAD_TOO_LARGE
    assert frames(side.connection.output())[-1] == (RST_STREAM, 0, 3, word(PROTOCOL_ERROR))
    side.connection.feed(frame(HEADERS, END_HEADERS | END_STREAM, 5, encoder.encode([*HEAD, (b"last", b"entry")])))
    head = side.accepted[2].head
    assert head is not None
    assert head.headers == [(b"last", b"entry")]


def test_a_refused_head_can_be_answered_and_its_body_is_dropped() -> None:
    class Polite(Side):
        def accept_stream(self) -> object:  # type: ignore[override]
            stream = super().accept_stream()
            assert stream is not None
            stream.refused = lambda cause: stream.send_response(response(431), [], False)  # type: ignore[method-assign]
            return stream

    side = Polite(client=False)
    other = Side(client=True)
    headers = [(b"x-%d" % n, b"v" * 2_000) for n in range(33)]
    stream = other.request(request("POST", headers=headers, chunked=True), end=False)
    stream.send_data(b"z" * 50_000, False)
    exchange(side, other)
    assert stream.head is not None
    assert (stream.head.status, side.accepted[0].body) == (431, b"")  # type: ignore[union-attr]
    side.accepted[0].send_data(b"too large", True)
    exchange(side, other)
    assert (stream.body, stream.ended, stream.code) == (b"too large", True, NO_ERROR)
    assert side.connection.streams == other.connection.streams == {}


def test_a_small_block_that_unfolds_to_a_mebibyte_ends_the_connection() -> None:
    bomb = block_of((b"a", b"v" * 4_000)) + b"\xbe" * 300
    with pytest.raises(H2ConnectionError) as caught:
        server(frame(HEADERS, END_HEADERS, 1, bomb))
    assert caught.value.code == COMPRESSION_ERROR


def test_data_beyond_the_window_of_a_stream_that_we_reset_is_no_longer_forgiven() -> None:
    side = server(OPEN)
    side.accepted[0].reset(CANCEL)
    side.connection.feed(frame(DATA, 0, 1, bytes(16_000)) * 4)
    with pytest.raises(H2ConnectionError, match="reset"):
        side.connection.feed(frame(DATA, 0, 1, bytes(16_000)))


@pytest.mark.parametrize("last", [frame(RST_STREAM, 0, 1, word(CANCEL)), frame(DATA, END_STREAM, 1, b"a")])
def test_after_its_own_end_a_stream_that_we_reset_is_closed_for_good(last: bytes) -> None:
    side = server(OPEN)
    side.accepted[0].reset(CANCEL)
    side.connection.feed(frame(DATA, 0, 1, b"a") + last)
    with pytest.raises(H2ConnectionError) as caught:
        side.connection.feed(frame(DATA, 0, 1, b"a"))
    assert caught.value.code == STREAM_CLOSED


def test_padding_is_credited_at_once() -> None:
    side = server(OPEN)
    for _ in range(5_000):  # 1.3 MB of padding, more than all windows
        side.connection.feed(frame(DATA, PADDED, 1, b"\xff" + b"a" + bytes(255)))
    assert side.accepted[0].body == b"a" * 5_000


def test_a_large_block_is_cut_into_frames_of_which_the_last_ends_it() -> None:
    side = server(WHOLE)
    side.accepted[0].send_response(response(200, [(b"x", b"v" * 40_000)]), [], True)
    assert [(kind, flags) for kind, flags, *_ in frames(side.connection.output())[1:]] == [
        (HEADERS, END_STREAM),
        (CONTINUATION, 0),
        (CONTINUATION, END_HEADERS),
    ]


def test_quiet_times_save_up_no_more_than_the_burst() -> None:
    limit = limits.Limit("a test", burst=3, per_second=1, per_useful_frame=1)
    allowance = limits.Allowance(limit, 0.0, 0)
    assert [allowance.spend(1_000.0, 1_000) for _ in range(5)] == [True, True, True, False, False]


def test_a_peer_that_never_opens_its_window_costs_what_was_sent_to_it() -> None:
    side = server(setting(4, 0), WHOLE)
    stream = side.accepted[0]
    stream.send_response(response(), [], False)
    side.connection.output()
    sent = 0
    while not stream.blocked:
        stream.send_data(bytes(16_384), False)
        sent += 16_384
    assert sent == limits.HIGH_WATER + 16_384
    assert side.connection.output() == b""
    stream.reset(CANCEL)
    assert stream._backlog is None


def test_streams_that_are_reset_while_they_wait_for_the_connections_window_leave_nothing() -> None:
    side = server(setting(4, 1_000_000), OPEN)
    side.accepted[0].send_data(bytes(65_535), False)
    for number in range(1, 5):
        side.connection.feed(frame(HEADERS, END_HEADERS, 2 * number + 1, BLOCK))
        for _ in range(3):
            side.accepted[number].send_data(b"waits", False)
        side.connection.feed(frame(WINDOW_UPDATE, 0, 0, word(7)))
        side.accepted[number].send_data(b"waits", False)
        assert list(side.connection.ring) == [side.accepted[number]]
        side.connection.feed(frame(RST_STREAM, 0, 2 * number + 1, word(CANCEL)))
        assert not side.connection.ring


def test_streams_refused_over_the_limit_are_told_so() -> None:
    side = Side(client=False, settings=limits.H2Settings(max_concurrent_streams=1))
    side.connection.output()
    side.connection.feed(CLIENT_START + OPEN + frame(HEADERS, END_HEADERS, 3, BLOCK))
    assert frames(side.connection.output())[-1] == (RST_STREAM, 0, 3, word(REFUSED_STREAM))


def test_trailers_wait_for_the_data_before_them() -> None:
    side = server(setting(4, 5), WHOLE)
    stream = side.accepted[0]
    stream.send_response(response(), [], False)
    stream.send_data(b"0123456789", False)
    stream.send_trailers([(b"a", b"b")])
    stream.send_data(b"after the end", True)
    assert [entry[0] for entry in frames(side.connection.output())] == [SETTINGS, SETTINGS, HEADERS, DATA]
    side.connection.feed(frame(WINDOW_UPDATE, 0, 1, word(50)))
    data, trailers = frames(side.connection.output())
    assert (data[0], data[3]) == (DATA, b"56789")
    assert (trailers[0], trailers[1]) == (HEADERS, END_HEADERS | END_STREAM)


def test_a_smaller_table_of_the_peer_is_acknowledged_in_the_next_block() -> None:
    side = server(setting(1, 0), WHOLE)
    side.accepted[0].send_response(response(), [], True)
    written = frames(side.connection.output())
    assert written[-1][3] == b"\x20\x88"


def test_the_last_stream_id_ends_the_connection_gently() -> None:
    side = client(requests=0)
    side.connection._next_id = 2**31 - 3
    assert side.request(request()).id == 2**31 - 3
    assert side.connection.usable
    assert side.request(request()).id == 2**31 - 1
    assert not side.connection.usable
    assert side.goaways == [(2**31 - 1, NO_ERROR)]
