"""Secrets of type kubernetes.io/tls → facts. Keys are looked at once, compared, and dropped."""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from mesh.commands.check.certificates import read
from mesh.commands.check.reader import Json


def secret_pem(secret: Json | None) -> tuple[str | None, bool]:
    """`tls.crt` (None: no Secret, or nothing in it), and whether `tls.key` is its key."""
    data = (secret or {}).get("data") or {}
    certificate = _decoded(data.get("tls.crt"))
    if not certificate:
        return None, True
    return certificate.decode("utf-8", "replace"), _matches(certificate, _decoded(data.get("tls.key")))


def _decoded(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except binascii.Error:
        return b""


def _matches(certificate_pem: bytes, key_pem: bytes) -> bool:
    chain = read(certificate_pem.decode("utf-8", "replace"), "tls.crt")
    if not chain:
        return True  # there is no certificate to compare with, and that is said elsewhere
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    shape = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*shape) == chain[0].public_key().public_bytes(*shape)
