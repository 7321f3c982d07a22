"""Certificates of the mesh: trust anchor → issuer → leaf, all ECDSA P-256, as Linkerd makes them.

Made here: anchors and issuers for worlds that bring their own, leaves for `mesh.control.certify`, keys and CSRs for
whoever needs a leaf. Times are Unix seconds; X.509 knows whole seconds only, so both ends are cut down (as Go does)
and callers read `not_after` from the certificate and not from their own arithmetic.

A leaf is valid from `now − skew` to `now + lifetime + skew`, and never longer than any certificate of the issuer chain:
a leaf that outlives its issuer looks healthy and fails every handshake (linkerd2 #3880).
"""

from __future__ import annotations

import itertools
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DEFAULT_LEAF_LIFETIME_SECONDS = 86_400.0
DEFAULT_CLOCK_SKEW_SECONDS = 20.0
CA_LIFETIME_SECONDS = 365 * 86_400.0
"""Of anchors and issuers made here; the value that `linkerd install` uses."""
ISSUER_FILES = ("ca.crt", "tls.crt", "tls.key")
"""Keys of the secret `linkerd-identity-issuer` (type kubernetes.io/tls)."""


class InvalidCredentials(Exception):
    """Certificates or keys that cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that may sign others, its key, and the certificates between it and the trust anchor (exclusive)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def certificate_pem(self) -> str:
        return to_pem(self.certificate)

    @property
    def key_pem(self) -> str:
        return private_key_pem(self.key)

    @property
    def not_before(self) -> float:
        return max(c.not_valid_before_utc.timestamp() for c in (self.certificate, *self.chain))

    @property
    def not_after(self) -> float:
        """Earliest expiry in the chain, Unix seconds."""
        return min(c.not_valid_after_utc.timestamp() for c in (self.certificate, *self.chain))


# ---- authorities -----------------------------------------------------------------------------------------------------


def create_trust_anchor(
    name: str = "root.linkerd.cluster.local", *, now: float | None = None, lifetime: float = CA_LIFETIME_SECONDS
) -> Authority:
    """A self-signed CA. `now` defaults to the wall clock; the certificate is valid for `lifetime` seconds from it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    builder = _ca_builder(subject, subject, key.public_key(), key.public_key(), _or_clock(now), lifetime, None)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def create_issuer(
    anchor: Authority,
    name: str = "identity.linkerd.cluster.local",
    *,
    now: float | None = None,
    lifetime: float = CA_LIFETIME_SECONDS,
) -> Authority:
    """A CA signed by `anchor` that may sign leaves and no further CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _ca_builder(
        _subject(name),
        anchor.certificate.subject,
        key.public_key(),
        anchor.key.public_key(),
        _or_clock(now),
        lifetime,
        0,
    )
    return Authority(builder.sign(anchor.key, hashes.SHA256()), key)


def write_issuer_dir(directory: Path, issuer: Authority, anchor: Authority) -> None:
    """Writes `ca.crt`, `tls.crt` and `tls.key` as a mounted Secret shows them.

    Each file is replaced by rename. A reader that sees one new and one old file finds that key and certificate do not
    match and looks again.
    """
    directory.mkdir(parents=True, exist_ok=True)
    chain = "".join(to_pem(c) for c in (issuer.certificate, *issuer.chain))
    for name, text in zip(ISSUER_FILES, (anchor.certificate_pem, chain, issuer.key_pem), strict=True):
        _replace(directory / name, text)


def load_issuer(certificate_pem: bytes, key_pem: bytes, anchors: list[x509.Certificate], now: float) -> Authority:
    """The issuer in `tls.crt` and `tls.key`, checked as Linkerd checks it.

    Raises:
        InvalidCredentials: unreadable, not a CA, not ECDSA P-256, key of another certificate, not signed by an anchor,
            expired or not yet valid.
    """
    certificates = load_certificates(certificate_pem, "issuer certificate")
    issuer = Authority(certificates[0], load_private_key(key_pem, "issuer key"), tuple(certificates[1:]))
    if issuer.key.public_key() != issuer.certificate.public_key():
        raise InvalidCredentials("issuer key does not belong to the issuer certificate")
    if not _is_ca(issuer.certificate):
        raise InvalidCredentials("issuer certificate is not a CA (basicConstraints CA:TRUE is missing)")
    _check_path(certificates, anchors)
    check_validity(issuer, now)
    return issuer


def check_validity(issuer: Authority, now: float) -> None:
    """Raises InvalidCredentials when a certificate of the issuer chain is expired or not yet valid at `now`."""
    if now > issuer.not_after:
        raise InvalidCredentials(f"issuer certificate expired at {_text(issuer.not_after)}")
    if now < issuer.not_before:
        raise InvalidCredentials(f"issuer certificate is not valid before {_text(issuer.not_before)}")


def _check_path(certificates: list[x509.Certificate], anchors: list[x509.Certificate]) -> None:
    for lower, upper in itertools.pairwise(certificates):
        if not signed_by(lower, upper):
            raise InvalidCredentials("certificates of the issuer chain do not sign one another in order")
    top = certificates[-1]
    if not any(top == anchor or signed_by(top, anchor) for anchor in anchors):
        raise InvalidCredentials("issuer certificate is not signed by any of the trust anchors")


# ---- leaves ----------------------------------------------------------------------------------------------------------


def issue_leaf(
    issuer: Authority,
    identity: str,
    public_key: ec.EllipticCurvePublicKey,
    *,
    now: float,
    lifetime: float = DEFAULT_LEAF_LIFETIME_SECONDS,
    clock_skew: float = DEFAULT_CLOCK_SKEW_SECONDS,
) -> x509.Certificate:
    """A certificate for `identity`, good for both ends of a connection."""
    not_after = min(now + lifetime + clock_skew, issuer.not_after)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_leaf_subject(identity))
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_datetime(now - clock_skew))
        .not_valid_after(_datetime(not_after))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(identity)]), critical=not _leaf_subject(identity).rdns)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    )
    return builder.sign(issuer.key, hashes.SHA256())


def create_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def create_csr(key: ec.EllipticCurvePrivateKey, identity: str) -> str:
    """A PEM request for a leaf with the one name `identity`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_leaf_subject(identity))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(identity)]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


# ---- PEM -------------------------------------------------------------------------------------------------------------


def to_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def load_certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    """Raises InvalidCredentials, naming `what`, when there is none or one is damaged."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InvalidCredentials(f"{what}: no usable PEM certificate ({error})") from None


def load_private_key(pem: bytes, what: str) -> ec.EllipticCurvePrivateKey:
    """Raises InvalidCredentials, naming `what`, for anything but an unencrypted ECDSA P-256 key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise InvalidCredentials(f"{what}: no usable PEM private key ({error})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidCredentials(f"{what}: must be ECDSA P-256")
    return key


# ---- parts -----------------------------------------------------------------------------------------------------------


def _ca_builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: float,
    lifetime: float,
    path_length: int | None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_datetime(now - DEFAULT_CLOCK_SKEW_SECONDS))
        .not_valid_after(_datetime(now + lifetime))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _leaf_subject(identity: str) -> x509.Name:
    """X.509 allows a common name 64 characters; a longer identity stands in the SAN alone."""
    return _subject(identity) if len(identity) <= 64 else x509.Name([])


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def signed_by(certificate: x509.Certificate, upper: x509.Certificate) -> bool:
    """Whether `upper` signed `certificate`, by name and key; validity is not looked at."""
    try:
        certificate.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature):
        return False  # another name, another key type, or another key: all mean no
    return True


def _datetime(at: float) -> datetime:
    return datetime.fromtimestamp(int(at), UTC)


def _text(at: float) -> str:
    return _datetime(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def _or_clock(now: float | None) -> float:
    return now if now is not None else datetime.now(UTC).timestamp()


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.chmod(temporary, 0o600 if path.suffix == ".key" else 0o644)
    os.replace(temporary, path)
