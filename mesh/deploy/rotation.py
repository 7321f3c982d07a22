"""Rotation of the issuer and of the trust anchors, as objects to apply.

    issuer          a new one from the anchor's key ─► Secret; identity takes it up at once, leaves change as they renew
    trust anchors   bundle (old + new) ─► issuer from the new one ─► all leaves renewed ─► drop the old

Proxies and control plane read the bundle from a mounted ConfigMap, which identity copies into every namespace, and take
up changes while they run: nothing restarts. What must not happen is that a bundle loses the anchor of a certificate in
use: dropping is refused here while the issuer hangs from it, and by the command while a leaf does, whom it asks.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mesh.control.pki import (
    CA_LIFETIME_SECONDS,
    Authority,
    InvalidCredentials,
    create_issuer,
    load_certificates,
    load_issuer,
    load_private_key,
    signed_by,
    to_pem,
)
from mesh.deploy.credentials import credentials_of
from mesh.deploy.labels import ISSUER, NAMESPACE, TRUST_ROOTS
from mesh.deploy.objects import Credentials, install_objects
from mesh.deploy.values import Values


def load_anchor(certificate_pem: bytes, key_pem: bytes) -> Authority:
    """A trust anchor with its key. Raises InvalidCredentials: unreadable, or not a pair."""
    certificates = load_certificates(certificate_pem, "trust anchor")
    key = load_private_key(key_pem, "trust anchor's key")
    for certificate in certificates:
        if certificate.public_key() == key.public_key():
            return Authority(certificate, key)
    raise InvalidCredentials("the key belongs to none of the trust anchors in the file")


def renewed_issuer(
    installed: Credentials,
    anchor: Authority,
    trust_domain: str,
    *,
    now: float | None = None,
    lifetime: float = CA_LIFETIME_SECONDS,
) -> Credentials:
    """The cluster's credentials with a new issuer, signed by `anchor`. `lifetime`: seconds.

    Raises:
        InvalidCredentials: the cluster does not trust the anchor, or the anchor has expired.
    """
    at = time.time() if now is None else now
    if anchor.certificate not in load_certificates(installed.trust_anchors.encode(), TRUST_ROOTS):
        raise InvalidCredentials(
            "the cluster does not trust this anchor: add it first, with gameday mesh trust-anchors --add"
        )
    if at > anchor.not_after:
        raise InvalidCredentials("the trust anchor has expired: make another, with gameday mesh create-anchor")
    life = min(lifetime, anchor.not_after - at)  # an issuer that outlives its anchor looks healthy and is not
    return credentials_of(
        installed.trust_anchors, create_issuer(anchor, f"identity.linkerd.{trust_domain}", now=at, lifetime=life)
    )


def with_anchors(installed: Credentials, added: Sequence[x509.Certificate]) -> Credentials:
    """The bundle with more anchors; those that it has already stay single."""
    known = load_certificates(installed.trust_anchors.encode(), TRUST_ROOTS)
    bundle = known + [certificate for certificate in added if certificate not in known]
    return _with_bundle(installed, bundle)


def without_anchor(installed: Credentials, fingerprint: str, now: float | None = None) -> Credentials:
    """The bundle without the anchor of that SHA-256 (the beginning is enough).

    Raises:
        InvalidCredentials: no such anchor, several, the last one, or the issuer hangs from it.
    """
    known = load_certificates(installed.trust_anchors.encode(), TRUST_ROOTS)
    wanted = fingerprint.lower().replace(":", "")
    found = [certificate for certificate in known if fingerprint_of(certificate).startswith(wanted)]
    if len(found) != 1 or not wanted:
        have = ", ".join(fingerprint_of(certificate)[:12] for certificate in known)
        raise InvalidCredentials(f"--drop {fingerprint}: not the SHA-256 of exactly one trust anchor; there are {have}")
    rest = [certificate for certificate in known if certificate != found[0]]
    if not rest:
        raise InvalidCredentials("this is the only trust anchor: add its successor first")
    if installed.issuer_certificate:
        try:
            load_issuer(
                installed.issuer_certificate.encode(),
                installed.issuer_key.encode(),
                rest,
                time.time() if now is None else now,
            )
        except InvalidCredentials as error:
            raise InvalidCredentials(f"{error} that would be left: rotate the issuer first") from None
    return _with_bundle(installed, rest)


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def hangs_from(certificate: x509.Certificate, anchors: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """The anchor that signed `certificate`."""
    return next((anchor for anchor in anchors if certificate == anchor or signed_by(certificate, anchor)), None)


def issuer_objects(values: Values, credentials: Credentials) -> list[dict[str, Any]]:
    """The Secret alone, as install would print it."""
    return [item for item in install_objects(values, credentials) if item["metadata"]["name"] == ISSUER]


def bundle_objects(values: Values, credentials: Credentials) -> list[dict[str, Any]]:
    """The ConfigMaps of the trust anchors, and the Secret, which repeats them. What a command starts from is written
    last: one that was killed before that is done again as if it had not been."""
    found = [item for item in install_objects(values, credentials) if item["metadata"]["name"] in (TRUST_ROOTS, ISSUER)]
    origin = ("ConfigMap", NAMESPACE)
    return sorted(found, key=lambda item: (item["kind"], item["metadata"]["namespace"]) == origin)


def _with_bundle(installed: Credentials, bundle: Sequence[x509.Certificate]) -> Credentials:
    text = "".join(to_pem(certificate) for certificate in bundle)
    return Credentials(text, installed.issuer_certificate, installed.issuer_key)
