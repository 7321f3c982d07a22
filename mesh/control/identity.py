"""The identity component: answers `POST /v1/certify`, reloads its issuer, and signs its own leaf."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from mesh.api.messages import CertifyRequest, CertifyResponse
from mesh.behavior.renewal import MIN_REFRESH_SECONDS, next_attempt_delay
from mesh.control.certify import (
    TOKEN_PROBLEMS,
    InvalidRequest,
    IssuerUnavailable,
    LeafTerms,
    Refused,
    RemoteVerifier,
    Verifier,
    certify,
    examine,
    grant,
    sign,
    token_refused,
)
from mesh.control.credentials import Credentials
from mesh.control.http import Later, Request, Response
from mesh.control.issuer import POLL_SECONDS, Issuers
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.renewal import register_leaf_metrics
from mesh.control.tokens import ServiceAccount

OWN_REFRESH_SECONDS = min(1.0, MIN_REFRESH_SECONDS)
"""Identity asks nobody, so it need not wait ten seconds between attempts."""


class Identity:
    """Certifies proxies, the other components, and itself."""

    def __init__(
        self,
        issuers: Issuers,
        verifier: Verifier | RemoteVerifier,
        terms: LeafTerms,
        trust_domain: str,
        credentials: Credentials,
        log: Log,
        metrics: Metrics,
        *,
        issued: Callable[[ServiceAccount, str], None] = lambda account, text: None,
        refused: Callable[[Refused], None] = lambda cause: None,
    ) -> None:
        """`issued` and `refused` are told of each answer; they must not block."""
        self._issued = issued
        self._refused = refused
        self._issuers = issuers
        self._verifier = verifier
        self._terms = terms
        self._trust_domain = trust_domain
        self._credentials = credentials
        self._log = log
        self._metrics = metrics
        metrics.counter("identity_certify_total", "Requests for a leaf, by result")
        register_leaf_metrics(metrics, credentials)

    def handle(self, request: Request) -> Response | Later:
        if request.path != "/v1/certify":
            return _refusal(404, f"no such path: {request.path}")
        if request.method != "POST":
            return _refusal(405, "use POST")
        verifier = self._verifier
        if isinstance(verifier, RemoteVerifier):
            return Later(self._handle_later(request, verifier))
        now = time.time()
        try:
            message = _decode(request.body)
            response = certify(message, self._issuers.issuer, verifier, self._terms, self._trust_domain, now)
        except Refused as error:
            return self._refuse(error)
        return self._answer(message, response, now)

    async def _handle_later(self, request: Request, verifier: RemoteVerifier) -> Response:
        try:
            message = _decode(request.body)
            key = examine(message, self._issuers.issuer)
            try:
                account = await verifier.ask(message.token)
            except TOKEN_PROBLEMS as error:
                raise token_refused(error) from None
            now = time.time()
            # The issuer of now: it may have been replaced while the token was looked at.
            response = grant(message, key, account, self._issuers.issuer, self._terms, self._trust_domain, now)
        except Refused as error:
            return self._refuse(error)
        until = datetime.fromtimestamp(response.valid_until, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        self._issued(account, f"issued certificate for {message.identity} until {until}")
        return self._answer(message, response, now)

    def _answer(self, message: CertifyRequest, response: CertifyResponse, now: float) -> Response:
        self._metrics.add("identity_certify_total", result="ok")
        lasts = round(response.valid_until - now, 1)
        self._log.info("certified", event="IssuedLeafCertificate", identity=message.identity, seconds=lasts)
        return Response(200, msgspec.json.encode(response))

    def _refuse(self, error: Refused) -> Response:
        self._metrics.add("identity_certify_total", result=error.reason)
        self._log.warn("refused to certify", reason=error, kind=error.reason)
        self._refused(error)
        return _refusal(error.status, str(error))

    def certify_itself(self) -> None:
        """Raises IssuerUnavailable."""
        issuer = self._issuers.issuer
        if issuer is None:
            raise IssuerUnavailable("cert issuer not ready yet")
        identity, key = self._credentials.identity, self._credentials.key.public_key()
        self._credentials.install(sign(issuer, identity, key, self._terms, time.time()))
        self._metrics.add("control_identity_cert_refreshes_total", result="ok")
        self._metrics.set("control_identity_cert_refresh_timestamp_seconds", time.time())

    async def watch_issuer(self) -> None:
        """Polls the issuer for ever, and renews the own leaf when it is due or the issuer is new."""
        due = self._next_renewal()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._issuers.poll() and time.time() < due:
                continue
            try:
                self.certify_itself()
            except IssuerUnavailable as error:
                self._metrics.add("control_identity_cert_refreshes_total", result="error")
                self._log.error("cannot renew the own leaf", reason=error)
            due = self._next_renewal()

    def _next_renewal(self) -> float:
        now = time.time()
        return now + next_attempt_delay(now, self._credentials.expires_at, OWN_REFRESH_SECONDS)

    @property
    def ready(self) -> bool:
        return self._issuers.issuer is not None and self._credentials.expires_at is not None


def _decode(body: bytes) -> CertifyRequest:
    try:
        return msgspec.json.decode(body, type=CertifyRequest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"not a CertifyRequest: {error}") from None


def _refusal(status: int, text: str) -> Response:
    return Response(status, msgspec.json.encode({"error": text}))
