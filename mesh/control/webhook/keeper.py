"""Keeps a webhook's certificate: in a Secret that all replicas share, and trusted by the webhook configuration.

    every LOOK seconds, on each replica:
        Secret ── good ──────────────────────► in hand
           └── missing, unusable, or due ─► issue ─► write it back (resourceVersion must match, or look again)
        caBundle of the configuration ── not what the Secret says ─► patch it
        the configuration trusts what is in hand ─► show it from the next handshake on

No leader: whoever comes first writes, and the others see a conflict and read what the first wrote. The order matters
only in that nobody shows a leaf which the API server has no reason to trust yet; until then the one before it is shown,
which `ca.crt` still has. The API server needs a moment to hear of the new bundle, hence `SETTLE_SECONDS`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from mesh.control.credentials import load_chain
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.webhook.certificate import Certificate, issue, problem, trusts
from mesh.kube.api import MERGE_PATCH, Api, ApiFailed, Conflict, Missing
from mesh.kube.kinds import SECRET, Kind

LOOK_SECONDS = 30.0
RETRY_SECONDS = 1.0
SETTLE_SECONDS = 5.0
FILES = ("ca.crt", "tls.crt", "tls.key")

MUTATING = Kind(
    "admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", False
)
VALIDATING = Kind(
    "admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", False
)


@dataclass(frozen=True, slots=True)
class Place:
    """Which webhook it is."""

    namespace: str
    service: str
    secret: str
    configuration: str
    kind: Kind
    """MUTATING or VALIDATING."""

    @property
    def names(self) -> tuple[str, ...]:
        """As the API server calls the service."""
        return (f"{self.service}.{self.namespace}.svc",)


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    labels: dict[str, str] | None = None


class _Configuration(msgspec.Struct):
    metadata: _Meta
    webhooks: list[dict[str, Any]] | None = None


class _Secret(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str] | None = None


class Keeper:
    """The certificate of one webhook, on one replica."""

    def __init__(
        self,
        api: Api,
        place: Place,
        log: Log,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        rng: Random | None = None,
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.ready = asyncio.Event()
        """There is a certificate to show."""
        self._api = api
        self._place = place
        self._log = log
        self._clock = clock
        self._rng = rng or Random()
        self._shown: Certificate | None = None
        self._failed = ""
        metrics.gauge(
            "webhook_cert_expiration_timestamp_seconds",
            "Unix second at which the webhook's certificate expires",
            self._expiry,
        )
        metrics.counter("webhook_cert_issued_total", "Certificates made by this replica")
        self._metrics = metrics

    async def run(self) -> None:
        """Keeps it until cancelled. An API server that is away or refuses is tried again."""
        while True:
            try:
                settled = await self.look()
                self._failed = ""
                delay = LOOK_SECONDS if settled else RETRY_SECONDS
            except ApiFailed as error:
                # Said once for each cause: an API server that is away for an hour is one line.
                if str(error) != self._failed:
                    self._log.warn("webhook certificate not looked after", reason=error)
                    self._failed = str(error)
                delay = RETRY_SECONDS if self._shown is None else LOOK_SECONDS / 3
            await asyncio.sleep(delay * self._rng.uniform(0.8, 1.2))

    async def look(self) -> bool:
        """One round; whether nothing is left to do.

        Raises:
            ApiFailed: the API server does not answer, or refuses.
        """
        try:
            found = await self._current()
            patched = await self._trust(found)
        except Conflict:
            return False  # another replica was quicker
        if found == self._shown:
            return True
        if patched and self._shown is not None:
            await asyncio.sleep(SETTLE_SECONDS)
        load_chain(self.context, found.chain, found.key)
        self._shown = found
        self.ready.set()
        self._log.info("webhook certificate in use", expires_in_seconds=found.expires_at - self._clock())
        return True

    # ---- inside

    async def _current(self) -> Certificate:
        place = self._place
        path = SECRET.path(place.namespace, place.secret)
        try:
            secret = msgspec.json.decode(await self._api.request("GET", path), type=_Secret)
        except Missing:
            return await self._issue(None, "", "there is none")
        certificate = Certificate(*(_text((secret.data or {}).get(name, "")) for name in FILES))
        cause = problem(certificate, place.names, now=self._clock())
        return await self._issue(secret, certificate.ca, cause) if cause else certificate

    async def _issue(self, before: _Secret | None, authorities: str, cause: str) -> Certificate:
        place = self._place
        # Where the Secret is gone or broken, what replicas show is still what we show: it must stay trusted.
        shown = self._shown.ca if self._shown is not None else ""
        made = issue(place.names, authorities + shown, now=self._clock())
        meta: dict[str, Any] = {"name": place.secret, "namespace": place.namespace}
        meta["labels"] = (before.metadata.labels if before is not None else None) or {
            "linkerd.io/control-plane-ns": place.namespace,
            "linkerd.io/control-plane-component": place.service.removeprefix("linkerd-"),
            "app.kubernetes.io/part-of": "gameday-mesh",
        }
        if before is not None:
            meta["resourceVersion"] = before.metadata.resource_version
        data = {
            name: base64.b64encode(text.encode()).decode()
            for name, text in zip(FILES, (made.ca, made.chain, made.key), strict=True)
        }
        body = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": meta, "data": data}
        if before is None:
            await self._api.request("POST", SECRET.path(place.namespace), body=body)
        else:
            await self._api.request("PUT", SECRET.path(place.namespace, place.secret), body=body)
        self._metrics.add("webhook_cert_issued_total")
        self._log.info("webhook certificate issued", secret=place.secret, because=cause)
        return made

    async def _trust(self, certificate: Certificate) -> bool:
        """Makes the configuration trust it; whether it did not before.

        Raises:
            Conflict: somebody else changes it as well.
        """
        place = self._place
        path = place.kind.path(None, place.configuration)
        try:
            found = msgspec.json.decode(await self._api.request("GET", path), type=_Configuration)
        except Missing:
            self._log.debug("no webhook configuration yet", name=place.configuration)
            return False
        wanted = base64.b64encode(certificate.ca.encode()).decode()
        webhooks = found.webhooks or []
        bundles = [str(webhook.get("clientConfig", {}).get("caBundle", "")) for webhook in webhooks]
        if all(bundle == wanted for bundle in bundles):
            return False
        # A merge patch replaces the whole list, so nobody may have changed it since: resourceVersion must match.
        trusting = [webhook | {"clientConfig": webhook["clientConfig"] | {"caBundle": wanted}} for webhook in webhooks]
        body = {"metadata": {"resourceVersion": found.metadata.resource_version}, "webhooks": trusting}
        await self._api.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        self._log.info("webhook configuration trusts the certificate", name=place.configuration)
        return not all(trusts(_text(bundle), certificate) for bundle in bundles)

    def _expiry(self) -> float:
        return self._shown.expires_at if self._shown is not None else 0.0


def _text(encoded: str) -> str:
    """What is no base64 or no text is as good as nothing."""
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
