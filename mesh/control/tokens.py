"""Service-account tokens of the worlds without Kubernetes: JWTs signed with the run's Ed25519 key.

Claims are those of a projected Kubernetes token: `sub` = `system:serviceaccount:NS:SA`, `aud` = `identity.l5d.io`,
`exp`. Only the one algorithm is known, so a token cannot choose how it is checked. On Kubernetes a TokenReview stands
here instead, behind the same `verify`.

Rejected: PyJWT (a dependency for 30 lines, with the algorithm choice left open).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mesh.control.names import identity_name, is_dns_name, is_label

AUDIENCE = "identity.l5d.io"
_PREFIX = "system:serviceaccount:"
_MAX_TOKEN_BYTES = 8192


class InvalidToken(Exception):
    """Not a token at all, or one that names no service account."""


class NotAuthenticated(Exception):
    """A well-formed token that proves nothing: forged, expired, or meant for someone else."""


class VerifierUnavailable(Exception):
    """Who could tell does not answer."""


class InvalidTokenKey(Exception):
    """The key file holds no Ed25519 key."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Whom a token speaks for."""

    name: str
    namespace: str

    def identity(self, trust_domain: str) -> str:
        return identity_name(self.name, self.namespace, trust_domain)


class _Header(msgspec.Struct):
    alg: str


class _Claims(msgspec.Struct):
    sub: str
    aud: str | list[str]
    exp: float
    nbf: float = 0.0


class TokenSigner:
    """Writes tokens; held by the world, never by the control plane."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> TokenSigner:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> TokenSigner:
        """Raises InvalidTokenKey."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise InvalidTokenKey(f"no usable PEM private key ({error})") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidTokenKey("the token key must be Ed25519")
        return cls(key)

    @property
    def private_pem(self) -> str:
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    @property
    def public_pem(self) -> str:
        public = self._key.public_key()
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, namespace: str, service_account: str, expires_at: float, audience: str = AUDIENCE) -> str:
        """A token for the service account, good until `expires_at` (Unix seconds)."""
        claims = {"sub": f"{_PREFIX}{namespace}:{service_account}", "aud": [audience], "exp": expires_at}
        signed = _encode(b'{"alg":"EdDSA","typ":"JWT"}') + "." + _encode(msgspec.json.encode(claims))
        return f"{signed}.{_encode(self._key.sign(signed.encode()))}"


class TokenVerifier:
    """Reads tokens; needs the public key only."""

    def __init__(self, key: Ed25519PublicKey, audience: str = AUDIENCE) -> None:
        self._key = key
        self._audience = audience

    @classmethod
    def from_pem(cls, pem: bytes) -> TokenVerifier:
        """Raises InvalidTokenKey."""
        try:
            key = serialization.load_pem_public_key(pem)
        except ValueError as error:
            raise InvalidTokenKey(f"no usable PEM public key ({error})") from None
        if not isinstance(key, Ed25519PublicKey):
            raise InvalidTokenKey("the token key must be Ed25519")
        return cls(key)

    def verify(self, token: str, now: float) -> ServiceAccount:
        """The service account that `token` speaks for at `now`.

        Raises:
            InvalidToken, NotAuthenticated.
        """
        header, claims, signature, signed = _parse(token)
        if header.alg != "EdDSA":
            raise NotAuthenticated(f"token is signed with {header.alg!r}, not EdDSA")
        try:
            self._key.verify(signature, signed)
        except InvalidSignature:
            raise NotAuthenticated("token is not signed by this mesh's token key") from None
        if now >= claims.exp:
            raise NotAuthenticated(f"token expired {now - claims.exp:.0f} s ago")
        if now < claims.nbf:
            raise NotAuthenticated("token is not valid yet")
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if self._audience not in audiences:
            raise NotAuthenticated(f"token is not meant for {self._audience}")
        return service_account_of(claims.sub)


def _parse(token: str) -> tuple[_Header, _Claims, bytes, bytes]:
    parts = token.strip().split(".")
    if len(parts) != 3 or len(token) > _MAX_TOKEN_BYTES:
        raise InvalidToken("token is not a JWT")
    try:
        header = msgspec.json.decode(_decode(parts[0]), type=_Header)
        claims = msgspec.json.decode(_decode(parts[1]), type=_Claims)
        return header, claims, _decode(parts[2]), f"{parts[0]}.{parts[1]}".encode()
    except (msgspec.MsgspecError, binascii.Error, UnicodeError) as error:
        raise InvalidToken(f"token is not a JWT ({error})") from None


def service_account_of(subject: str) -> ServiceAccount:
    """The service account that a token's subject, or a TokenReview's user name, is. Raises InvalidToken."""
    namespace, _, name = subject.removeprefix(_PREFIX).partition(":")
    if not subject.startswith(_PREFIX) or not is_label(namespace) or not is_dns_name(name):
        raise InvalidToken(f"token's subject {subject!r} is not system:serviceaccount:NAMESPACE:NAME")
    return ServiceAccount(name, namespace)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
