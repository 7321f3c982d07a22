"""Who this proxy is: gets its certificate, and the next one in time, for ever.

    key + CSR (once, `mesh.proxy.csr`) ──► POST /v1/certify with the token ──► leaf ──► new SSL contexts
                                              ▲                                  │            ▲
                                              └── mesh.behavior.renewal ◄────────┘            │
    trust anchors (`mesh.proxy.trust`), changed ──────────────────────────────────────────────┘

The connection to the identity service authenticates the server only; the token in the request authenticates us.
Therefore a proxy whose certificate has expired can still ask for a new one, and the mesh heals by itself when the
issuer comes back (linkerd/linkerd2#13136 shows what happens otherwise). Renewal makes new contexts for new handshakes;
connections that are open stay as they are. A leaf that does not verify against our own trust anchors is refused and
the old one kept.

New trust anchors do the same with the leaf we have. Where that leaf is not theirs, or the last one offered was refused
because our anchors were still the old ones, the next certificate is asked for at once: proxies hear of a new bundle
seconds apart, and the identity service may sign with the new issuer before we do.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from random import Random
from typing import TypeVar

import msgspec

from mesh.api.messages import CertifyRequest, CertifyResponse
from mesh.behavior.renewal import next_attempt_delay
from mesh.proxy.config import Identity
from mesh.proxy.control import ControlClient, ControlError
from mesh.proxy.metrics import Registry
from mesh.proxy.trust import TrustBundle
from mesh.proxy.wire.contexts import Contexts, anchored_context, contexts_in_steps

CERTIFY_TIMEOUT_SECONDS = 5.0
FIRST_RETRY_SECONDS = 0.5
"""Before the first certificate a proxy is of no use, so it asks more often than `min_refresh` would have it (Linkerd
waits 10 s, which shows in every start that meets a busy issuer)."""
CLOCK_LOOK_SECONDS = 30.0
"""How often the wall clock is looked at while waiting: it is what certificates go by, and it may be set."""

log = logging.getLogger("identity")

T = TypeVar("T")


class IdentityClient:
    """The certificate of this proxy and its contexts. While identity is disabled nobody makes one of these."""

    def __init__(self, config: Identity, registry: Registry, rng: Random, bind_ip: str | None) -> None:
        self._config = config
        self.trust = TrustBundle(config.trust_anchors, config.trust_anchors_file, registry)
        self.trust.on_change(self._trust_changed)
        self._server_only = anchored_context(self.trust.pem)
        self._control = ControlClient(config.service, lambda: self._server_only, registry, rng, bind_ip)
        self.contexts: Contexts | None = None
        self.ready = asyncio.Event()
        self._key = ""
        """PEM; here and in OpenSSL's contexts, and nowhere with a name."""
        self._chain = ""
        """PEM of the leaf in use and its intermediates."""
        self._expires_at: float | None = None
        self._refused = False
        """The last certificate we were given does not verify."""
        self._hurry = asyncio.Event()
        self._adopting: asyncio.Task[None] | None = None
        """New trust anchors."""
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
        """`callback` runs after new contexts are in use."""
        self._renewed.append(callback)

    async def run(self) -> None:
        """Keeps the certificate fresh. Cancel the task to stop."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.trust.watch())
            group.create_task(self._renew())

    async def _renew(self) -> None:
        self._key, csr = await _key_and_csr(self._config.local_name)
        while True:
            try:
                await self._install(await self._certify(csr))
            except (ControlError, OSError, ssl.SSLError, msgspec.DecodeError) as error:
                # Linkerd counts only certificates that failed to install; a failed call is what operators need to see.
                self._error.value += 1
                self._refused = isinstance(error, ssl.SSLError)
                log.warning("no certificate from %s: %s", self._config.service.address, error)
            delay = next_attempt_delay(
                time.time(), self._expires_at, self._config.min_refresh, self._config.max_refresh
            )
            if not self.ready.is_set():
                delay = min(delay, FIRST_RETRY_SECONDS)
            await self._wait(delay)

    async def _wait(self, delay: float) -> None:
        """Until that many seconds have passed by one of two clocks, or there is cause to hurry."""
        due, wall_due = time.monotonic() + delay, time.time() + delay
        while not self._hurry.is_set():
            left = min(due - time.monotonic(), wall_due - time.time())
            if left <= 0:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, CLOCK_LOOK_SECONDS)):
                    await self._hurry.wait()
        self._hurry.clear()

    async def _certify(self, csr: str) -> CertifyResponse:
        with open(self._config.token_file, encoding="ascii") as file:
            token = file.read().strip()
        request = CertifyRequest(identity=self._config.local_name, token=token, csr=csr)
        answer = await self._control.post("/v1/certify", msgspec.json.encode(request), CERTIFY_TIMEOUT_SECONDS)
        return msgspec.json.decode(answer, type=CertifyResponse)

    async def _install(self, response: CertifyResponse) -> None:
        """Raises ssl.SSLError where our peers would not accept the certificate."""
        chain = "\n".join((response.leaf.strip(), *(part.strip() for part in response.intermediates)))
        while True:
            pem = self.trust.pem
            contexts = await in_turns(contexts_in_steps(pem, chain, self._key))
            not_after = await in_turns(verified_in_steps(contexts, self._config.local_name))
            if pem == self.trust.pem:
                break  # else the anchors changed in that turn
        self._chain = chain
        self._expires_at = min(response.valid_until, not_after)
        self._expiration.value = self._expires_at
        self._refreshed.value = time.time()
        self._ok.value += 1
        self._refused = False
        log.info("certificate for %s, valid until %.3f", self._config.local_name, self._expires_at)
        self._use(contexts)

    def _use(self, contexts: Contexts) -> None:
        self.contexts = contexts
        self.ready.set()
        for callback in self._renewed:
            callback()

    def _trust_changed(self) -> None:
        """The same leaf with the new anchors, for new handshakes, ours with the control plane among them."""
        self._server_only = anchored_context(self.trust.pem)
        if not self._chain:
            self._hurry.set()
            return
        self._adopting = asyncio.get_running_loop().create_task(self._adopt(self.trust.pem, self._chain))

    async def _adopt(self, pem: str, chain: str) -> None:
        contexts = await in_turns(contexts_in_steps(pem, chain, self._key))
        verifies = True
        try:
            await in_turns(verified_in_steps(contexts, self._config.local_name))
        except ssl.SSLError as error:
            log.warning("our certificate does not verify with the new trust anchors, asking for another: %s", error)
            verifies = False
        if (pem, chain) != (self.trust.pem, self._chain):
            return  # overtaken by newer ones of either kind
        if self._refused or not verifies:
            self._hurry.set()
        self._use(contexts)


async def in_turns(steps: Generator[None, None, T]) -> T:
    """Goes through the steps, one in each turn of the loop: requests are served in between."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        await asyncio.sleep(0)


def verified_in_steps(contexts: Contexts, name: str) -> Generator[None, None, float]:
    """Shakes hands with ourselves in memory: OpenSSL says whether peers will accept this certificate. Returns when it
    expires, in Unix seconds.

    Raises:
        ssl.SSLError: they will not.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = contexts.control.wrap_bio(down, up, server_side=False, server_hostname=name)
    server = contexts.server.wrap_bio(up, down, server_side=True)
    for _ in range(3):
        for end in (client, server):
            yield
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    leaf = client.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(leaf["notAfter"]))


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
