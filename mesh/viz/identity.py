"""viz's own leaf, without which no proxy lets it tap: asked of identity with the service account's token, kept fresh.

The schedule is the proxies' (`mesh.behavior.renewal`). Anchors are read anew with every use, so that a rotated bundle
needs no restart. While there is no leaf everything but tap works, and tap says why it does not.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.api.messages import CertifyRequest, CertifyResponse
from mesh.behavior.backoff import Backoff
from mesh.behavior.renewal import MAX_REFRESH_SECONDS, MIN_REFRESH_SECONDS, next_attempt_delay
from mesh.control.credentials import load_chain
from mesh.control.log import Log
from mesh.viz.counters import Counters
from mesh.viz.failures import describe

ATTEMPT_SECONDS = 5.0
FIRST_BACKOFF_SECONDS = (0.2, 5.0)


class NoLeaf(Exception):
    """There is no certificate to tap with, and why."""


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Where the leaf comes from."""

    address: str
    """`host:port` of identity."""
    identity_name: str
    """TLS name of identity's certificate."""
    local_name: str
    """TLS name to be certified: what the proxies know as TAP_SVC_NAME."""
    token: Path
    anchors: Path


class LeafKeeper:
    """Has the current leaf, once there is one."""

    def __init__(self, settings: IdentitySettings, log: Log, counters: Counters) -> None:
        self._settings = settings
        self._log = log
        self._counters = counters
        key = ec.generate_private_key(ec.SECP256R1())
        self._public = key.public_key()
        self._key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        names = x509.SubjectAlternativeName([x509.DNSName(settings.local_name)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        request = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
        self._csr = request.public_bytes(serialization.Encoding.PEM).decode()
        self._chain = ""
        self._context: tuple[str, ssl.SSLContext] | None = None
        self.expires_at: float | None = None
        self.trouble = "no certificate was asked for yet"
        counters.gauges["viz_leaf_expiration_timestamp_seconds"] = lambda: self.expires_at or 0.0

    async def run(self) -> None:
        """Asks for a leaf, and for the next one in time, for ever."""
        backoff, rng = Backoff(*FIRST_BACKOFF_SECONDS, jitter=0.1), Random()
        while True:
            good = await self._attempt(quiet=backoff.steps > 0)
            if self.expires_at is None:
                await asyncio.sleep(backoff.next(rng))
                continue
            if good:
                backoff.reset()
            await asyncio.sleep(
                next_attempt_delay(time.time(), self.expires_at, MIN_REFRESH_SECONDS, MAX_REFRESH_SECONDS)
            )

    def context(self) -> ssl.SSLContext:
        """For a connection to a proxy: shows the leaf, trusts the anchors.

        Raises:
            NoLeaf: there is none, or it is over.
        """
        if not self._chain:
            raise NoLeaf(self.trouble)
        if self.expires_at is not None and self.expires_at <= time.time():
            raise NoLeaf(f"the certificate has expired and no new one came: {self.trouble}")
        try:
            anchors = self._settings.anchors.read_text()
            if self._context is None or self._context[0] != anchors:
                context = _anchored(anchors)
                load_chain(context, self._chain, self._key_pem)
                self._context = (anchors, context)
        except (OSError, ValueError, ssl.SSLError) as error:
            raise NoLeaf(f"trust anchors in {self._settings.anchors}: {error}") from None
        return self._context[1]

    async def _attempt(self, *, quiet: bool) -> bool:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                response = await self._ask()
            self._install(response)
        except (OSError, ValueError, aiohttp.ClientError, ssl.SSLError, TimeoutError) as error:
            self.trouble = f"identity at {self._settings.address}: {describe(error)}"
            self._counters.add("viz_leaf_refreshes_total", 'result="error"')
            (self._log.debug if quiet else self._log.warn)("no certificate", reason=self.trouble)
            return False
        self._counters.add("viz_leaf_refreshes_total", 'result="ok"')
        self._log.info("certificate installed", expires_in_seconds=round(response.valid_until - time.time(), 1))
        return True

    async def _ask(self) -> CertifyResponse:
        settings = self._settings
        token = settings.token.read_text().strip()
        request = CertifyRequest(identity=settings.local_name, token=token, csr=self._csr)
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"https://{settings.address}/v1/certify",
                data=msgspec.json.encode(request),
                headers={"content-type": "application/json"},
                ssl=_anchored(settings.anchors.read_text()),
                server_hostname=settings.identity_name,
            ) as response,
        ):
            body = await response.read()
            if response.status != 200:
                raise ValueError(f"answered {response.status}: {body[:300].decode(errors='replace').strip()}")
        return msgspec.json.decode(body, type=CertifyResponse)

    def _install(self, response: CertifyResponse) -> None:
        leaf = x509.load_pem_x509_certificate(response.leaf.encode())
        if leaf.public_key() != self._public:
            raise ValueError("the certificate that came is for another key")
        self._chain = "\n".join((response.leaf, *response.intermediates))
        self._context = None
        self.expires_at = response.valid_until
        self.trouble = ""


def _anchored(anchors: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.load_verify_locations(cadata=anchors)
    return context
