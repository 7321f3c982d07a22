"""Durations read as Go reads them; messages survive the wire."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.durations import InvalidDuration, format_duration, parse_duration
from mesh.api.messages import (
    AuthorizationSpec,
    Endpoint,
    Endpoints,
    EndpointsChange,
    InboundPolicy,
    InboundRoute,
    NetworkSpec,
    NotFound,
    OutboundPolicy,
    Profile,
    RateLimitSpec,
    decode_line,
    encode_line,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1.5s", 1.5), ("10m", 600), ("24h", 86_400), ("1h30m", 5400), ("0s", 0), ("2d", 172_800)],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "s", "-1s", "1 s", "1x", "1s ", "1s2", ".5s", "١s x"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidDuration):
        parse_duration(text)


@given(st.text(alphabet="0123456789.msh -d", max_size=12))
def test_no_text_gives_anything_but_seconds_or_a_refusal(text: str) -> None:
    try:
        assert parse_duration(text) >= 0.0
    except InvalidDuration:
        return


@given(st.integers(0, 10**9))
def test_a_written_duration_reads_back_to_the_millisecond(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=0.0005)


ENDPOINT = Endpoint(address="127.0.0.1:4143", pod="cart-0", namespace="shop", identity="cart.shop")
STAMP = {"version": 3, "published_at": 4.5}


@pytest.mark.parametrize(
    "message",
    [
        Endpoints(endpoints=(ENDPOINT,), **STAMP),
        EndpointsChange(add=(ENDPOINT,), remove=("127.0.0.2:4143",), **STAMP),
        NotFound(authority="a", **STAMP),
        Profile(authority="a", exists=False, **STAMP),
        OutboundPolicy(authority="a", exists=True, **STAMP),
        InboundPolicy(
            server_kind="server",
            server_name="http",
            server_group="policy.linkerd.io",
            authorizations=(
                AuthorizationSpec(kind="x", name="y", networks=(NetworkSpec(cidr="::/0", except_=("::1",)),)),
            ),
            routes=(InboundRoute(name="r", path_exact="/"),),
            rate_limit=RateLimitSpec(name="l", total=3),
            **STAMP,
        ),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_is_one_line_and_reads_back(message) -> None:
    line = encode_line(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_line(line) == message


@given(st.binary(max_size=60))
def test_a_line_that_is_no_message_is_a_decode_error(line: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        decode_line(line)
