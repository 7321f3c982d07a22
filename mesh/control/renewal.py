"""Destination and policy get their own leaf from identity, and keep it fresh.

The schedule is the proxies' (`mesh.behavior.renewal`), with one addition: before the first leaf there is nothing to
serve with, so a failed attempt is repeated after 0.1–1 s, as Linkerd's control client reconnects while a first
request waits. The token is read anew for each attempt; projected tokens rotate.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httptools
import msgspec

from mesh.api.messages import CertifyRequest, CertifyResponse
from mesh.behavior.backoff import Backoff
from mesh.behavior.renewal import MAX_REFRESH_SECONDS, next_attempt_delay
from mesh.control.credentials import Credentials, client_context
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.pki import InvalidCredentials, create_csr

ATTEMPT_SECONDS = 5.0
FIRST_BACKOFF_SECONDS = (0.1, 1.0)
MAX_ANSWER_BYTES = 256 * 1024


class AttemptFailed(Exception):
    """No leaf came of an attempt, and why."""


@dataclass(frozen=True, slots=True)
class IdentityAddress:
    host: str
    port: int
    name: str
    """TLS name of identity's certificate."""


class Renewal:
    """Keeps one server's leaf fresh."""

    def __init__(
        self,
        credentials: Credentials,
        identity: IdentityAddress,
        token: Path,
        minimum: float,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._credentials = credentials
        self._identity = identity
        self._token = token
        self._minimum = minimum
        self._log = log
        self._metrics = metrics
        self._csr = create_csr(credentials.key, credentials.identity)
        register_leaf_metrics(metrics, credentials)

    async def first(self) -> None:
        """Returns with the first leaf installed, however long identity takes to answer."""
        backoff = Backoff(*FIRST_BACKOFF_SECONDS, jitter=0.1)
        rng = Random()
        while not await self._attempt(quiet=backoff.steps > 0):
            await asyncio.sleep(backoff.next(rng))

    async def run(self) -> None:
        """Renews for ever."""
        while True:
            await asyncio.sleep(
                next_attempt_delay(time.time(), self._credentials.expires_at, self._minimum, MAX_REFRESH_SECONDS)
            )
            await self._attempt(quiet=False)

    async def _attempt(self, *, quiet: bool) -> bool:
        try:
            response = await asyncio.wait_for(self._ask(), ATTEMPT_SECONDS)
            self._credentials.install(response)
        except (AttemptFailed, InvalidCredentials, OSError, TimeoutError) as error:
            self._metrics.add("control_identity_cert_refreshes_total", result="error")
            (self._log.debug if quiet else self._log.warn)("no new leaf", reason=str(error) or type(error).__name__)
            return False
        self._metrics.add("control_identity_cert_refreshes_total", result="ok")
        self._metrics.set("control_identity_cert_refresh_timestamp_seconds", time.time())
        self._log.info("leaf installed", expires_in_seconds=round(response.valid_until - time.time(), 1))
        return True

    async def _ask(self) -> CertifyResponse:
        try:
            token = self._token.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AttemptFailed(f"token file {self._token}: {error}") from None
        request = CertifyRequest(identity=self._credentials.identity, token=token, csr=self._csr)
        status, body = await post(
            self._identity, client_context(self._credentials.anchors), "/v1/certify", msgspec.json.encode(request)
        )
        if status != 200:
            raise AttemptFailed(f"identity answered {status}: {body[:500].decode(errors='replace')}")
        try:
            return msgspec.json.decode(body, type=CertifyResponse)
        except msgspec.DecodeError as error:
            raise AttemptFailed(f"identity's answer is not a CertifyResponse: {error}") from None


def register_leaf_metrics(metrics: Metrics, credentials: Credentials) -> None:
    """linkerd2-proxy's names, for the server's own leaf."""
    metrics.counter("control_identity_cert_refreshes_total", "Attempts to renew the own leaf, by result")
    metrics.gauge(
        "control_identity_cert_expiration_timestamp_seconds",
        "Unix time at which the own leaf expires",
        lambda: credentials.expires_at or 0.0,
    )
    metrics.gauge("control_identity_cert_refresh_timestamp_seconds", "Unix time of the last renewal")


async def post(address: IdentityAddress, context: ssl.SSLContext, path: str, body: bytes) -> tuple[int, bytes]:
    """One request on a connection of its own. Raises OSError (TLS errors included) and AttemptFailed."""
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=context, server_hostname=address.name
    )
    try:
        head = f"POST {path} HTTP/1.1\r\nhost: {address.name}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        size = 0
        while not answer.complete:
            data = await reader.read(65_536)
            size += len(data)
            if not data or size > MAX_ANSWER_BYTES:
                raise AttemptFailed("identity's answer broke off" if not data else "identity's answer is too long")
            parser.feed_data(data)
        return parser.get_status_code(), bytes(answer.body)
    except httptools.HttpParserError as error:
        raise AttemptFailed(f"identity does not speak HTTP: {error}") from None
    finally:
        writer.transport.abort()  # nothing more is wanted of the connection, not even its goodbye


class _Answer:
    def __init__(self) -> None:
        self.body = bytearray()
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True
