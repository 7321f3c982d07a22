"""Certificates as the checks look at them: read, whether valid now and for how long, and what they are made of."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mesh.control.pki import InvalidCredentials, load_certificates, signed_by

LONG_ENOUGH_SECONDS = 60 * 86_400.0
"""What Linkerd asks of anchors and issuers: time to plan a rotation."""
RSA_BITS = (2048, 4096)


def read(pem: str, what: str) -> list[x509.Certificate]:
    """The certificates in `pem`; empty where it is damaged or has none."""
    try:
        return load_certificates(pem.encode(), what)
    except InvalidCredentials:
        return []


def name(certificate: x509.Certificate) -> str:
    """How people find it again: `1234 root.linkerd.cluster.local`."""
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    text = str(common[0].value) if common else ", ".join(dns_names(certificate)) or "(no name)"
    return f"{certificate.serial_number % 10**10} {text}"


def dns_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def expiry(certificate: x509.Certificate) -> float:
    """Unix seconds."""
    return certificate.not_valid_after_utc.timestamp()


def out_of_time(certificate: x509.Certificate, now: float) -> str:
    """Why it does not hold at `now`; empty: it does."""
    if now > expiry(certificate):
        return f"{name(certificate)}: expired at {timestamp(expiry(certificate))}"
    start = certificate.not_valid_before_utc.timestamp()
    return f"{name(certificate)}: not valid before {timestamp(start)}" if now < start else ""


def ends_soon(certificate: x509.Certificate, now: float, within: float = LONG_ENOUGH_SECONDS) -> str:
    """When it expires, where that is less than `within` seconds from `now`; empty: later, or already."""
    left = expiry(certificate) - now
    if not 0 <= left < within:
        return ""
    return f"{name(certificate)}: will expire at {timestamp(expiry(certificate))} (in {days(left)})"


def unsupported(certificate: x509.Certificate, *, allow_rsa: bool) -> str:
    """Why the proxies cannot use its key; empty: they can.

    Anchors may be ECDSA P-256 or RSA of 2048 or 4096 bits, issuers ECDSA P-256 only (linkerd2 pkg/issuercerts).
    """
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        good, kind = isinstance(key.curve, ec.SECP256R1), f"ECDSA {key.curve.name}"
    elif isinstance(key, rsa.RSAPublicKey):
        good, kind = allow_rsa and key.key_size in RSA_BITS, f"RSA {key.key_size}"
    else:
        good, kind = False, type(key).__name__
    wanted = "ECDSA P-256 or RSA 2048/4096" if allow_rsa else "ECDSA P-256"
    return "" if good else f"{name(certificate)}: key is {kind}, must be {wanted}"


def vouched(chain: Sequence[x509.Certificate], anchors: Iterable[x509.Certificate]) -> bool:
    """Whether the chain's certificates sign one another in order, and an anchor the last; validity is not looked at."""
    if not chain or not all(signed_by(lower, upper) for lower, upper in itertools.pairwise(chain)):
        return False
    return any(chain[-1] == anchor or signed_by(chain[-1], anchor) for anchor in anchors)


def timestamp(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def days(seconds: float) -> str:
    """`12 days`, `5 hours`, `40 seconds`: the largest unit of which there are two."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} seconds"
