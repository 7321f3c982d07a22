"""A message's head, whatever protocol it came in or goes out by.

Header names are lower case throughout: HTTP/2 demands it, and hyper writes HTTP/1 so too. Hop-by-hop headers and
framing are taken out of `headers` into fields; each protocol's writer puts its own back.
"""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]


class RequestHead:
    """A request's line and headers."""

    __slots__ = (
        "authority",
        "chunked",
        "content_length",
        "expect_continue",
        "headers",
        "http_1_0",
        "http_2",
        "keep_alive",
        "method",
        "path",
        "scheme",
        "te_trailers",
        "upgrade",
    )

    def __init__(self) -> None:
        self.method = ""
        self.path = b""
        """Origin form, or `*`; empty for CONNECT."""
        self.scheme = b"http"
        self.authority = b""
        """Of the absolute form where the client used it, else the Host header or `:authority`; may be empty with
        HTTP/1.0."""
        self.headers: Headers = []
        self.content_length: int | None = None
        self.chunked = False
        """The body's length is not known beforehand (HTTP/1: chunks; HTTP/2: DATA frames and no content-length)."""
        self.keep_alive = True
        self.http_1_0 = False
        self.http_2 = False
        self.expect_continue = False
        self.te_trailers = False
        """The client takes trailers (`te: trailers`; gRPC insists on it)."""
        self.upgrade = b""
        """What the client wants to upgrade to, as HTTP/1.1 says it; empty where it does not."""

    def copy(self) -> RequestHead:
        """Another one that says the same, with headers of its own. Field by field, as compiled classes have no
        `__slots__` to go by."""
        head = RequestHead()
        head.method, head.path, head.scheme, head.authority = self.method, self.path, self.scheme, self.authority
        head.headers = list(self.headers)
        head.content_length, head.chunked = self.content_length, self.chunked
        head.keep_alive, head.http_1_0, head.http_2 = self.keep_alive, self.http_1_0, self.http_2
        head.expect_continue, head.te_trailers, head.upgrade = self.expect_continue, self.te_trailers, self.upgrade
        return head

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.content_length)

    @property
    def tunnel(self) -> bool:
        """Whether a positive answer turns the connection into a pipe."""
        return bool(self.upgrade) or self.method == "CONNECT"

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header (lower-case name)."""
        return next((value for known, value in self.headers if known == name), None)

    @property
    def is_grpc(self) -> bool:
        return self.http_2 and (self.get(b"content-type") or b"").startswith(b"application/grpc")


class ResponseHead:
    """A response's status and headers."""

    __slots__ = ("bodyless", "chunked", "content_length", "headers", "keep_alive", "reason", "status", "upgrade")

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        """Of the status line; HTTP/2 has none."""
        self.headers: Headers = []
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = True
        self.bodyless = False
        """No body follows whatever the framing says: answer to HEAD, 204, 304."""
        self.upgrade = b""
        """With 101: what the connection speaks from now on."""

    @property
    def until_close(self) -> bool:
        """The end of the connection is the end of the body (HTTP/1)."""
        return not (self.bodyless or self.chunked or self.content_length is not None)

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header (lower-case name)."""
        return next((value for known, value in self.headers if known == name), None)
