"""The certificate of a webhook: a leaf, signed by a CA that is made for it and signs nothing else.

The CA's key is thrown away: whoever needs another leaf makes another CA. `ca.crt` holds the new CA first and then
those before it that are still valid, so that the webhook configuration can trust old and new at the same time, and a
replica may change over whenever it comes to it.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass

from cryptography import x509

from mesh.control import pki
from mesh.control.pki import InvalidCredentials

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
LIFETIME_SECONDS = 365 * 86_400.0
"""Linkerd's for webhooks (there, made by Helm and renewed by an upgrade)."""
RENEW_LEFT = 1 / 3
"""Renewed when less than this part of the life is left: four months of an API server that nobody reaches."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the Secret holds (type kubernetes.io/tls, and `ca.crt`). PEM."""

    ca: str
    """The CA of the leaf first."""
    chain: str
    key: str

    @property
    def leaf(self) -> x509.Certificate:
        return pki.load_certificates(self.chain.encode(), "tls.crt")[0]

    @property
    def expires_at(self) -> float:
        """Unix seconds."""
        return self.leaf.not_valid_after_utc.timestamp()


def issue(names: tuple[str, ...], before: str = "", *, now: float | None = None) -> Certificate:
    """A new certificate for a server of these DNS names; the first is the one that it is called by.

    `before`: the CAs (PEM) that are trusted now; those that have expired are left out, and so are those that are
    damaged.
    """
    now = time.time() if now is None else now
    authority = pki.create_trust_anchor(f"{names[0]} CA", now=now, lifetime=LIFETIME_SECONDS)
    key = pki.create_key()
    leaf = pki.issue_leaf(authority, names[0], key.public_key(), now=now, lifetime=LIFETIME_SECONDS)
    valid = [one for one in _readable(before) if one.not_valid_after_utc.timestamp() > now]
    kept = list(dict.fromkeys((authority.certificate, *valid)))
    return Certificate("".join(pki.to_pem(one) for one in kept), pki.to_pem(leaf), pki.private_key_pem(key))


def problem(certificate: Certificate, names: tuple[str, ...], *, now: float | None = None) -> str:
    """Why another certificate is due; empty where none is."""
    now = time.time() if now is None else now
    try:
        leaf = certificate.leaf
        key = pki.load_private_key(certificate.key.encode(), "tls.key")
        authorities = pki.load_certificates(certificate.ca.encode(), "ca.crt")
        named = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (InvalidCredentials, x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        return str(error)
    if key.public_key() != leaf.public_key():
        return "tls.key does not belong to tls.crt"
    if not pki.signed_by(leaf, authorities[0]):
        return "tls.crt is not signed by ca.crt"
    if names[0] not in named.get_values_for_type(x509.DNSName):
        return f"tls.crt is not for {names[0]}"
    for one in (leaf, authorities[0]):
        start, end = one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp()
        if now < start:
            return "tls.crt is not valid yet"
        if now > end - (end - start) * RENEW_LEFT:
            return "tls.crt expires soon" if now < end else "tls.crt has expired"
    return ""


def trusts(bundle: str, certificate: Certificate) -> bool:
    """Whether clients with `bundle` as their CAs (PEM) accept the certificate."""
    return any(pki.signed_by(certificate.leaf, authority) for authority in _readable(bundle))


def _readable(pem: str) -> list[x509.Certificate]:
    """Those that can be read: what was there before is no reason not to go on."""
    found: list[x509.Certificate] = []
    for one in _CERTIFICATE.findall(pem):
        with suppress(InvalidCredentials):
            found += pki.load_certificates(one.encode(), "ca.crt")
    return found
