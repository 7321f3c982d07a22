"""Requests to the API server from the control plane: JSON bytes in and out, one exception for each cause.

    informer, lease, events, token review ──► Api ──► httpx2 (lightkube's client library) ──► API server

Objects stay bytes until whoever asked decodes the fields it wants with msgspec: an informer over Pods keeps a tenth of
what lightkube's own models would.

A peer that is gone without a word (a node that lost power, a firewall that drops) is noticed by TCP keepalive within
`KEEPALIVE_SECONDS`; a server that is alive and says nothing is the informer's to notice.

Rejected: lightkube's AsyncClient.watch (restarts by itself, without bookmarks, backoff, or a sign when it is stuck).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx2
import msgspec
from lightkube.config.client_adapter import ConnectionParams
from lightkube.config.kubeconfig import SingleConfig

REQUEST_SECONDS = 10.0
CONNECT_SECONDS = 4.0
KEEPALIVE_SECONDS = 12
MERGE_PATCH = "application/merge-patch+json"
MAX_LINE_BYTES = 8 << 20
"""A watch event is one object; etcd takes none above 1.5 MiB."""


class Log(Protocol):
    """Where this package says what happens; the control plane's logfmt log fits."""

    def debug(self, message: str, **fields: object) -> None: ...
    def info(self, message: str, **fields: object) -> None: ...
    def warn(self, message: str, **fields: object) -> None: ...
    def error(self, message: str, **fields: object) -> None: ...


class ApiFailed(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, text: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.retry_after = retry_after
        """Seconds; what the server asked for, else 0."""


class Missing(ApiFailed):
    """404: no such object, or no such kind."""


class Conflict(ApiFailed):
    """409: the object exists already, or changed since it was read."""


class Expired(ApiFailed):
    """410: the resourceVersion is too old to go on from."""


class Unreachable(ApiFailed):
    """No answer: refused, timed out, or broken off."""

    def __init__(self, text: str) -> None:
        super().__init__(0, text)


_CAUSES: dict[int, type[ApiFailed]] = {404: Missing, 409: Conflict, 410: Expired}


class Api:
    """One API server."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        """`http` has the server as its base URL, and the credentials."""
        self._http = http
        self.answers = True
        """Whether the server answered when it was last asked."""
        self._reported = False
        self._back = asyncio.Event()

    @classmethod
    def of(cls, config: SingleConfig) -> Api:
        """A client of its own for the cluster of `config`."""
        found = ConnectionParams(trust_env=False).httpx_params(config)
        transport = httpx2.AsyncHTTPTransport(verify=found["verify"], trust_env=False, socket_options=_keepalive())
        timeout = httpx2.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS)
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "gameday-mesh"}
        http = httpx2.AsyncClient(
            base_url=found["base_url"],
            auth=found["auth"],
            transport=transport,
            timeout=timeout,
            headers=headers,
            trust_env=False,
        )
        return cls(http)

    async def close(self) -> None:
        await self._http.aclose()

    async def pause(self, seconds: float) -> None:
        """Waits before the next attempt, and no longer once anybody has got an answer from a server that was away."""
        if self.answers:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._back.wait()
        except TimeoutError:
            pass  # still away

    def report_silence(self) -> bool:
        """Whether it is the caller who says that the server does not answer: one of all, once for each time."""
        first, self._reported = not self._reported, True
        return first

    def _heard(self, status: int) -> None:
        if status < 500 and not self.answers:
            self.answers, self._reported = True, False
            self._back.set()

    def _silent(self, error: Exception) -> Unreachable:
        if self.answers:
            self.answers = False
            self._back = asyncio.Event()
        return Unreachable(str(error) or type(error).__name__)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> bytes:
        """The body of the answer; `body` is sent as JSON.

        Raises:
            ApiFailed: or the subclass for its cause.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {"content-type": content_type} if content is not None else None
        try:
            response = await self._http.request(method, path, params=params, content=content, headers=headers)
        except (httpx2.HTTPError, OSError) as error:
            raise self._silent(error) from None
        self._heard(response.status_code)
        if response.status_code >= 400:
            raise failure(response.status_code, response.content, response.headers.get("retry-after", ""))
        return response.content

    @asynccontextmanager
    async def lines(self, path: str, params: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of an answer as they come, for as long as the block runs; silence is not an error here.

        Raises:
            ApiFailed: as `request`; inside the block too, when the stream breaks off.
        """
        timeout = httpx2.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS, read=None)
        try:
            async with self._http.stream("GET", path, params=params, timeout=timeout) as response:
                self._heard(response.status_code)
                if response.status_code >= 400:
                    content = await response.aread()
                    raise failure(response.status_code, content, response.headers.get("retry-after", ""))
                yield _lines(response.aiter_raw())
        except (httpx2.HTTPError, OSError) as error:
            raise self._silent(error) from None


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    pending: list[bytes] = []
    size = 0
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*pending, line))
            pending, size = [], 0
        if rest:
            pending.append(rest)
            size += len(rest)
            if size > MAX_LINE_BYTES:
                raise Unreachable(f"a line of the stream is longer than {MAX_LINE_BYTES} bytes")


class _Status(msgspec.Struct):
    """meta/v1 Status, as far as it is read."""

    message: str = ""
    reason: str = ""
    code: int = 0


def failure(status: int, body: bytes, retry_after: str = "") -> ApiFailed:
    """The exception for an answer of `status` 400 and above, or for a watch's ERROR event (`status` 0)."""
    try:
        said = msgspec.json.decode(body, type=_Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = _Status(message=body[:200].decode("utf-8", "replace").strip())
    status = status or said.code or 500
    text = said.message or said.reason or "no reason given"
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    return _CAUSES.get(status, ApiFailed)(status, text, seconds)


def _keepalive() -> list[Any]:
    options: list[Any] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    for name, value in (("TCP_KEEPIDLE", 6), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # macOS names them otherwise; the control plane runs on Linux
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, KEEPALIVE_SECONDS * 1000))
    return options
