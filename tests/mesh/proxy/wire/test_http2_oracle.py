"""Conversations of each role with h2, an independent implementation; what h2 writes is fed in pieces of every size."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from http2_peers import HOWS, Notes, Side, frames, pieces, request, response

from mesh.proxy.wire.http2_frames import CANCEL, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, NO_ERROR, REFUSED_STREAM
from mesh.proxy.wire.http2_limits import H2Settings
from mesh.proxy.wire.message import RequestHead, ResponseHead

HEAD = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"cart:80"), (b":path", b"/shop.Cart/Get?a=1")]
SETTINGS = h2.settings.SettingCodes


class Oracle:
    """h2 on the other end of one of our connections."""

    def __init__(self, side: Side, how: str = "whole", *, client: bool, consuming: bool = True) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.side = side
        self.how = how
        self.consuming = consuming
        self.events: list[h2.events.Event] = []
        self.bodies: dict[int, bytes] = {}

    def talk(self) -> None:
        """Carries what both have to say until both are silent."""
        ours = self.side.connection
        while True:
            data = ours.output()
            if data:
                for event in self.h2.receive_data(data):
                    self.events.append(event)
                    if isinstance(event, h2.events.DataReceived):
                        self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                        if self.consuming and event.flow_controlled_length:
                            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            theirs = self.h2.data_to_send()
            if not data and not theirs:
                return
            for piece in pieces(theirs, self.how):
                ours.feed(piece)

    def send_all(self, stream_id: int, data: bytes, *, end: bool, pad: int | None = None) -> None:
        """h2 does not queue: what exceeds the window is sent when we have opened it again."""
        while data:
            self.talk()
            room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size)
            room -= 0 if pad is None else pad + 1
            assert room > 0, "our side does not give credit"
            piece, data = data[:room], data[room:]
            self.h2.send_data(stream_id, piece, end_stream=end and not data, pad_length=pad)
        self.talk()

    def of(self, kind: type[h2.events.Event]) -> list[h2.events.Event]:
        return [event for event in self.events if isinstance(event, kind)]


def serving(how: str = "whole", **more: bool) -> tuple[Side, Oracle]:
    side = Side(client=False, **more)
    oracle = Oracle(side, how, client=True)
    oracle.talk()
    return side, oracle


def calling(how: str = "whole", consuming: bool = True, settings: H2Settings | None = None) -> tuple[Side, Oracle]:
    side = Side(client=True, settings=settings)
    oracle = Oracle(side, how, client=False, consuming=consuming)
    oracle.talk()
    return side, oracle


def request_of(stream: Notes) -> RequestHead:
    assert isinstance(stream.head, RequestHead)
    return stream.head


def response_of(stream: Notes) -> ResponseHead:
    assert isinstance(stream.head, ResponseHead)
    return stream.head


every_how = pytest.mark.parametrize("how", HOWS)


@every_how
def test_a_request_with_body_and_trailers_comes_in_and_its_answer_goes_out(how: str) -> None:
    side, oracle = serving(how)
    oracle.h2.send_headers(1, [*HEAD, (b"te", b"trailers"), (b"x-a", b"1")])
    oracle.send_all(1, b"z" * 200_000, end=False)
    oracle.h2.send_headers(1, [(b"checksum", b"9")], end_stream=True)
    oracle.talk()
    (stream,) = side.accepted
    head = request_of(stream)
    assert (head.method, head.path, head.authority, head.te_trailers) == ("POST", HEAD[3][1], b"cart:80", True)
    assert head.headers == [(b"x-a", b"1")]
    assert (stream.body, stream.trailers, stream.ended) == (b"z" * 200_000, [(b"checksum", b"9")], True)

    stream.send_response(response(103, [(b"link", b"</a>")]), [], False)
    stream.send_response(response(200, [(b"content-type", b"application/grpc")]), [(b"x-added", b"2")], False)
    stream.send_data(b"y" * 300_000, False)
    stream.send_trailers([(b"grpc-status", b"0")])
    oracle.talk()
    (interim,) = oracle.of(h2.events.InformationalResponseReceived)
    assert (b":status", b"103") in interim.headers
    (answer,) = oracle.of(h2.events.ResponseReceived)
    assert answer.headers == [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"x-added", b"2")]
    assert oracle.bodies[1] == b"y" * 300_000
    (trailers,) = oracle.of(h2.events.TrailersReceived)
    assert trailers.headers == [(b"grpc-status", b"0")]
    assert side.connection.streams == {}


@every_how
def test_a_request_goes_out_and_its_answer_comes_in(how: str) -> None:
    side, oracle = calling(how)
    stream = side.request(request("POST", b"/a", content_length=150_000, te_trailers=True), end=False)
    stream.send_data(b"z" * 150_000, True)
    oracle.talk()
    (received,) = oracle.of(h2.events.RequestReceived)
    assert dict(received.headers) == {
        b":method": b"POST",
        b":scheme": b"http",
        b":authority": b"cart:80",
        b":path": b"/a",
        b"te": b"trailers",
        b"content-length": b"150000",
    }
    assert oracle.bodies[1] == b"z" * 150_000
    oracle.h2.send_headers(1, [(b":status", b"103"), (b"link", b"</a>")])
    oracle.h2.send_headers(1, [(b":status", b"200"), (b"content-length", b"100000")])
    oracle.send_all(1, b"y" * 100_000, end=False, pad=40)
    oracle.h2.send_headers(1, [(b"checksum", b"9")], end_stream=True)
    oracle.talk()
    assert stream.interim == [103]
    assert (response_of(stream).status, response_of(stream).content_length) == (200, 100_000)
    assert (stream.body, stream.trailers) == (b"y" * 100_000, [(b"checksum", b"9")])
    assert side.connection.streams == {}


@every_how
def test_a_large_head_travels_in_continuation_both_ways(how: str) -> None:
    large = [(b"x-%d" % number, b"v" * 1_000) for number in range(50)]
    side, oracle = serving(how)
    # A server written with h2 has the same limit of 64 KiB as we.
    oracle.h2.send_headers(1, [*HEAD, *large], end_stream=True)
    oracle.talk()
    assert request_of(side.accepted[0]).headers == large
    side.accepted[0].send_response(response(200, large), [], True)
    oracle.talk()
    (answer,) = oracle.of(h2.events.ResponseReceived)
    assert answer.headers[1:] == large


def test_a_head_sent_with_padding_and_priority_is_read() -> None:
    side, oracle = serving("byte by byte")
    oracle.h2.send_headers(1, HEAD, end_stream=True, priority_weight=3, priority_depends_on=0)
    oracle.h2.prioritize(1, weight=9)
    oracle.talk()
    assert side.accepted[0].ended


def test_bodies_wait_for_a_window_and_their_owner_is_told() -> None:
    side, oracle = calling(consuming=False)
    stream = side.request(request("POST", chunked=True), end=False)
    stream.send_data(b"z" * 200_000, True)
    oracle.talk()
    assert len(oracle.bodies[1]) == 65_535
    assert stream.blocked
    oracle.h2.increment_flow_control_window(130_000)
    oracle.talk()
    assert len(oracle.bodies[1]) == 65_535, "the stream's own window is still shut"
    oracle.h2.increment_flow_control_window(90_000, 1)
    oracle.talk()
    assert (len(oracle.bodies[1]), stream.blocked, stream.opened) == (155_535, True, 0)
    oracle.h2.increment_flow_control_window(30_000, 1)
    oracle.talk()
    assert (stream.blocked, stream.opened) == (False, 1)
    oracle.h2.increment_flow_control_window(60_000)
    oracle.h2.increment_flow_control_window(60_000, 1)
    oracle.talk()
    assert oracle.bodies[1] == b"z" * 200_000
    assert not stream.sending


def test_the_peer_may_send_no_more_than_we_have_passed_on() -> None:
    side, oracle = serving(consuming=False)
    oracle.h2.send_headers(1, HEAD)
    for _ in range(3):
        oracle.h2.send_data(1, b"z" * 16_384)
    oracle.talk()
    assert oracle.h2.local_flow_control_window(1) == 65_535 - 3 * 16_384
    side.accepted[0].consumed(16_384)
    oracle.talk()
    assert oracle.h2.local_flow_control_window(1) == 65_535 - 3 * 16_384, "credit goes out in batches"
    side.accepted[0].consumed(2 * 16_384)
    oracle.talk()
    assert oracle.h2.local_flow_control_window(1) == 65_535


def test_a_change_of_the_initial_window_moves_open_streams_below_zero_and_back() -> None:
    side, oracle = calling(consuming=False)
    stream = side.request(request("POST", chunked=True), end=False)
    stream.send_data(b"z" * 50_000, False)
    oracle.talk()
    oracle.h2.update_settings({SETTINGS.INITIAL_WINDOW_SIZE: 20_000})
    oracle.talk()
    stream.send_data(b"y" * 5_000, True)
    oracle.talk()
    assert len(oracle.bodies[1]) == 50_000
    oracle.h2.update_settings({SETTINGS.INITIAL_WINDOW_SIZE: 52_000})
    oracle.talk()
    assert len(oracle.bodies[1]) == 52_000
    oracle.h2.update_settings({SETTINGS.INITIAL_WINDOW_SIZE: 60_000})
    oracle.talk()
    assert oracle.bodies[1] == b"z" * 50_000 + b"y" * 5_000
    assert not stream.sending


def test_settings_of_the_peer_are_kept_to() -> None:
    side, oracle = calling()
    oracle.h2.update_settings(
        {SETTINGS.MAX_FRAME_SIZE: 20_000, SETTINGS.HEADER_TABLE_SIZE: 0, SETTINGS.MAX_CONCURRENT_STREAMS: 7}
    )
    oracle.talk()
    assert side.connection.peer_max_concurrent == side.allowed[-1] == 7
    stream = side.request(request("POST", chunked=True, headers=[(b"x", b"v" * 30_000)]), end=False)
    stream.send_data(b"z" * 40_000, True)
    oracle.talk()
    assert len(oracle.of(h2.events.RequestReceived)) == 1
    assert max(event.flow_controlled_length for event in oracle.of(h2.events.DataReceived)) == 20_000


def test_streams_share_the_connections_window_in_turns() -> None:
    side, oracle = calling(consuming=False)
    oracle.h2.update_settings({SETTINGS.INITIAL_WINDOW_SIZE: 1_000_000})
    oracle.talk()
    streams = [side.request(request("POST", chunked=True), end=False) for _ in range(3)]
    for stream in streams:
        stream.send_data(b"z" * 200_000, True)
    oracle.talk()
    assert oracle.bodies == {1: b"z" * 65_535}
    oracle.h2.increment_flow_control_window(6 * 16_384)
    oracle.talk()
    assert {stream_id: len(body) for stream_id, body in oracle.bodies.items()} == {
        1: 65_535 + 2 * 16_384,
        3: 2 * 16_384,
        5: 2 * 16_384,
    }
    oracle.h2.increment_flow_control_window(1_000_000)
    oracle.talk()
    assert [len(body) for body in oracle.bodies.values()] == [200_000] * 3


def test_a_reset_by_the_client_ends_the_stream_and_credits_what_it_held() -> None:
    side, oracle = serving(consuming=False)
    oracle.h2.send_headers(1, HEAD)
    for _ in range(3):
        oracle.h2.send_data(1, b"z" * 16_384)
    oracle.h2.reset_stream(1, CANCEL)
    oracle.talk()
    (stream,) = side.accepted
    assert stream.code == CANCEL
    assert side.connection.credit == 3 * 16_384
    stream.send_response(response(), [], True)
    stream.consumed(3 * 16_384)
    assert side.connection.credit == 3 * 16_384, "not twice"
    assert side.connection.output() == b""


def test_frames_that_cross_our_reset_are_dropped_and_their_bytes_credited() -> None:
    side, oracle = serving()
    oracle.h2.send_headers(1, HEAD)
    oracle.talk()
    side.accepted[0].reset(CANCEL)
    oracle.h2.send_data(1, b"z" * 10_000)
    oracle.h2.send_headers(1, [(b"checksum", b"9")], end_stream=True)
    oracle.h2.send_headers(3, HEAD, end_stream=True)
    crossing = oracle.h2.data_to_send()
    side.connection.feed(crossing)
    assert side.connection.credit == 10_000
    assert (side.accepted[0].body, side.accepted[0].code) == (b"", None)
    assert side.accepted[1].ended
    oracle.talk()
    (event,) = oracle.of(h2.events.StreamReset)
    assert event.error_code == CANCEL


def test_goaway_of_the_peer_returns_what_it_has_not_seen() -> None:
    side, oracle = calling()
    seen, unseen = side.request(request()), side.request(request())
    oracle.talk()
    oracle.h2.send_headers(1, [(b":status", b"204")], end_stream=True)
    answer = oracle.h2.data_to_send()
    oracle.h2.close_connection(NO_ERROR, last_stream_id=1)
    side.connection.feed(oracle.h2.data_to_send() + answer)
    assert (response_of(seen).status, seen.code) == (204, None)
    assert unseen.code == REFUSED_STREAM
    assert side.goaways == [(1, NO_ERROR)]
    assert not side.connection.usable


def test_our_goaway_lets_streams_under_way_finish() -> None:
    side, oracle = serving()
    oracle.h2.send_headers(1, HEAD)
    oracle.talk()
    side.connection.goaway()
    assert side.connection.sent_goaway
    oracle.h2.send_headers(3, HEAD, end_stream=True)
    side.connection.feed(oracle.h2.data_to_send())
    assert len(side.accepted) == 2, "it was under way when we said goodbye"
    side.connection.goaway_final()
    side.connection.goaway_final()
    for stream in side.accepted:
        stream.send_response(response(204), [], True)
    written = frames(side.connection.output())
    assert [payload[:8] for kind, _, _, payload in written if kind == GOAWAY] == [
        b"\x7f\xff\xff\xff\0\0\0\0",
        b"\0\0\0\x03\0\0\0\0",
    ]
    assert [stream_id for kind, _, stream_id, _ in written if kind == HEADERS] == [1, 3]
    assert [stream.code for stream in side.accepted] == [None, None]


def test_a_lost_connection_ends_every_stream() -> None:
    side, oracle = calling()
    streams = [side.request(request()) for _ in range(3)]
    oracle.talk()
    side.connection.lost()
    assert [stream.code for stream in streams] == [-1] * 3
    assert side.connection.streams == {}


def test_pings_are_answered_and_answers_reported() -> None:
    side, oracle = serving()
    oracle.h2.ping(b"12345678")
    side.connection.ping(b"abcdefgh")
    oracle.talk()
    assert [event.ping_data for event in oracle.of(h2.events.PingAckReceived)] == [b"12345678"]
    assert side.pongs == [b"abcdefgh"]


def test_more_streams_than_announced_are_refused_and_the_others_served() -> None:
    side = Side(client=False, settings=H2Settings(max_concurrent_streams=2))
    oracle = Oracle(side, client=True)
    for stream_id in (1, 3, 5):
        oracle.h2.send_headers(stream_id, HEAD)
    for stream_id in (1, 3, 5):
        oracle.h2.send_data(stream_id, b"z" * 10, end_stream=True)
    oracle.talk()
    (refused,) = oracle.of(h2.events.StreamReset)
    assert (refused.stream_id, refused.error_code) == (5, REFUSED_STREAM)
    assert [stream.body for stream in side.accepted] == [b"z" * 10] * 2


def test_an_owner_that_drains_refuses_streams_unpunished() -> None:
    side, oracle = serving()
    side.accepting = False
    side.connection.goaway()
    side.connection.out.clear()
    for stream_id in range(1, 5_001, 2):
        oracle.h2.send_headers(stream_id, HEAD, end_stream=True)
        oracle.talk()
    assert [event.error_code for event in oracle.of(h2.events.StreamReset)] == [REFUSED_STREAM] * 2_500
    assert not [e for e in oracle.of(h2.events.ConnectionTerminated) if e.error_code == ENHANCE_YOUR_CALM]
