"""Who this proxy is: gets its certificate, and the next one in time, for ever.

    key + CSR (once, `mesh.proxy.csr`) ──► POST /v1/certify with the token ──► leaf ──► new SSL contexts
                                              ▲                                  │
                                              └── mesh.behavior.renewal ◄────────┘

The connection to the identity service authenticates the server only; the token in the request authenticates us.
Therefore a proxy whose certificate has expired can still ask for a new one, and the mesh heals by itself when the
issuer comes back (linkerd/linkerd2#13136 shows what happens otherwise). Renewal makes new contexts for new handshakes;
connections that are open stay as they are. A leaf that does not verify against our own trust anchors is refused and
the old one kept.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
import time
from collections.abc import Callable
from random import Random

import msgspec

from mesh.api.messages import CertifyRequest, CertifyResponse
from mesh.behavior.renewal import next_attempt_delay
from mesh.proxy.config import Identity
from mesh.proxy.control import ControlClient, ControlError
from mesh.proxy.metrics import Registry
from mesh.proxy.wire.tls import Contexts, anchored_context, make_contexts

CERTIFY_TIMEOUT_SECONDS = 5.0
FIRST_RETRY_SECONDS = 0.5
"""Before the first certificate a proxy is of no use, so it asks more often than `min_refresh` would have it (Linkerd
waits 10 s, which shows in every start that meets a busy issuer)."""

log = logging.getLogger("identity")


class IdentityClient:
    """The certificate of this proxy and its contexts. While identity is disabled nobody makes one of these."""

    def __init__(self, config: Identity, registry: Registry, rng: Random, bind_ip: str | None) -> None:
        self._config = config
        self._server_only = anchored_context(config.trust_anchors)
        self._control = ControlClient(config.service, lambda: self._server_only, registry, rng, bind_ip)
        self.contexts: Contexts | None = None
        self.ready = asyncio.Event()
        self._expires_at: float | None = None
        self._renewed: list[Callable[[], None]] = []
        self._expiration = registry.gauges(
            "control_identity_cert_expiration_timestamp_seconds", "Unix second at which our leaf expires."
        ).counter()
        self._refreshed = registry.gauges(
            "control_identity_cert_refresh_timestamp_seconds", "Unix second of the last certificate."
        ).counter()
        refreshes = registry.counters("control_identity_cert_refreshes_total", "Attempts to get a certificate.")
        self._ok = refreshes.counter({"result": "ok"})
        self._error = refreshes.counter({"result": "error"})

    def on_renewal(self, callback: Callable[[], None]) -> None:
        """`callback` runs after each new certificate is in use."""
        self._renewed.append(callback)

    async def run(self) -> None:
        """Keeps the certificate fresh. Cancel the task to stop."""
        key, csr = await _key_and_csr(self._config.local_name)
        while True:
            try:
                self._install(await self._certify(csr), key)
            except (ControlError, OSError, ssl.SSLError, msgspec.DecodeError) as error:
                # Linkerd counts only certificates that failed to install; a failed call is what operators need to see.
                self._error.value += 1
                log.warning("no certificate from %s: %s", self._config.service.address, error)
            delay = next_attempt_delay(
                time.time(), self._expires_at, self._config.min_refresh, self._config.max_refresh
            )
            if not self.ready.is_set():
                delay = min(delay, FIRST_RETRY_SECONDS)
            await asyncio.sleep(delay)

    async def _certify(self, csr: str) -> CertifyResponse:
        with open(self._config.token_file, encoding="ascii") as file:
            token = file.read().strip()
        request = CertifyRequest(identity=self._config.local_name, token=token, csr=csr)
        answer = await self._control.post("/v1/certify", msgspec.json.encode(request), CERTIFY_TIMEOUT_SECONDS)
        return msgspec.json.decode(answer, type=CertifyResponse)

    def _install(self, response: CertifyResponse, key: str) -> None:
        chain = "\n".join((response.leaf.strip(), *(part.strip() for part in response.intermediates)))
        contexts = make_contexts(self._config.trust_anchors, chain, key)
        _verify_own(contexts, self._config.local_name)
        self.contexts = contexts
        self._expires_at = response.valid_until
        self._expiration.value = response.valid_until
        self._refreshed.value = time.time()
        self._ok.value += 1
        log.info("certificate for %s, valid until %.3f", self._config.local_name, response.valid_until)
        self.ready.set()
        for callback in self._renewed:
            callback()


def _verify_own(contexts: Contexts, name: str) -> None:
    """Shakes hands with ourselves in memory: OpenSSL says whether peers will accept this certificate.

    Raises:
        ssl.SSLError: they will not.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        contexts.control.wrap_bio(down, up, server_side=False, server_hostname=name),
        contexts.server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


async def _key_and_csr(name: str) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mesh.proxy.csr", name), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the key could not be made: mesh.proxy.csr exited with {process.returncode}")
    mark = "-----BEGIN CERTIFICATE REQUEST-----"
    key, _, csr = output.decode().partition(mark)
    return key, mark + csr
