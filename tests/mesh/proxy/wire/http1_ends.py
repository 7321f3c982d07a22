"""Sinks that collect what HTTP/1 readers say, and ways to feed them; shared by the tests and the fuzzer."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.http1 import RequestReader, ResponseReader
from mesh.proxy.wire.http1_fields import MessageError
from mesh.proxy.wire.message import Headers, RequestHead, ResponseHead


@dataclass
class Requests:
    """What a `RequestReader` said."""

    heads: list[RequestHead] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    trailers: list[Headers | None] = field(default_factory=list)
    refused: Refused | None = None

    @property
    def ended(self) -> int:
        return len(self.trailers)

    def request_head(self, head: RequestHead) -> None:
        self.heads.append(head)
        self.bodies.append(b"")

    def request_body(self, data: bytes) -> None:
        assert data
        self.bodies[-1] += data

    def request_end(self, trailers: Headers | None) -> None:
        self.trailers.append(trailers)


@dataclass
class Responses:
    """What a `ResponseReader` said."""

    interim: list[ResponseHead] = field(default_factory=list)
    heads: list[ResponseHead] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    trailers: list[Headers | None] = field(default_factory=list)
    refused: str = ""

    @property
    def ended(self) -> int:
        return len(self.trailers)

    def response_interim(self, head: ResponseHead) -> None:
        self.interim.append(head)

    def response_head(self, head: ResponseHead) -> None:
        self.heads.append(head)
        self.bodies.append(b"")

    def response_body(self, data: bytes) -> None:
        assert data
        self.bodies[-1] += data

    def response_end(self, trailers: Headers | None) -> None:
        self.trailers.append(trailers)


def pieces(data: bytes, how: str, rng: random.Random | None = None) -> list[bytes]:
    """`data` cut: `whole`, `byte by byte`, or at random."""
    if how == "whole":
        return [data]
    if how == "byte by byte":
        return [data[i : i + 1] for i in range(len(data))]
    assert rng is not None
    cuts = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 8)))})
    return [data[a:b] for a, b in pairwise(cuts)]


def read(data: bytes, how: str = "whole", strip: frozenset[bytes] = frozenset()) -> Requests:
    """Everything that `data` says, or MessageError."""
    sink = Requests()
    reader = RequestReader(sink, strip)
    for piece in pieces(data, how):
        reader.feed(piece)
    return sink


def refusal(data: bytes, how: str = "whole") -> Refused | None:
    """Why `data` is refused; None if it is not."""
    try:
        read(data, how)
    except MessageError as error:
        return error.cause
    return None


def request(method: str = "GET", upgrade: bytes = b"") -> RequestHead:
    head = RequestHead()
    head.method = method
    head.upgrade = upgrade
    return head


def answer(
    data: bytes, how: str = "whole", asked: RequestHead | None = None, closed: bool = False
) -> tuple[Responses, ResponseReader]:
    """Everything that `data` says in response to `asked`, or MessageError; and the reader, to go on with."""
    sink = Responses()
    reader = ResponseReader(sink)
    reader.expect(asked or request())
    for piece in pieces(data, how):
        reader.feed(piece)
    if closed:
        reader.end_of_stream()
    return sink, reader
