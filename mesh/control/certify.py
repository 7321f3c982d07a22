"""What identity decides: whether a request gets a leaf, and which one. No sockets, no clock.

    fields present ─► CSR: the requested DNS name and nothing else ─► token authentic ─► token speaks for name ─► sign

The order and the checks are Linkerd's (`pkg/identity/service.go`); the HTTP statuses are ours, since its gRPC
`FailedPrecondition` covers three causes that an operator wants to tell apart. Two checks are added: the CSR's own
signature (Linkerd signs for a key that the caller may not hold) and that its key is P-256.

A request is judged by its token alone. The connection's client certificate plays no part, so a proxy whose leaf has
expired can still ask for the next one (real Linkerd's cannot: #13136).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mesh.api.messages import CertifyRequest, CertifyResponse
from mesh.control.names import is_dns_name
from mesh.control.pki import Authority, InvalidCredentials, check_validity, issue_leaf, to_pem
from mesh.control.tokens import InvalidToken, NotAuthenticated, ServiceAccount, VerifierUnavailable


class Refused(Exception):
    """No leaf is issued. Subclasses name the cause; `status` answers the request, `reason` labels the metric."""

    status = 500
    reason = "internal"


class InvalidRequest(Refused):
    """gRPC InvalidArgument: a field is missing or cannot be read."""

    status = 400
    reason = "invalid_argument"


class Unauthenticated(Refused):
    """The token proves nothing."""

    status = 401
    reason = "unauthenticated"


class IdentityMismatch(Refused):
    """The token speaks for another identity than the one requested."""

    status = 403
    reason = "identity_mismatch"


class InvalidCsr(Refused):
    """gRPC FailedPrecondition: the CSR asks for what no token could grant."""

    status = 412
    reason = "failed_precondition"


class IssuerUnavailable(Refused):
    """gRPC Unavailable: no issuer yet, or one that is expired or not yet valid."""

    status = 503
    reason = "issuer_unavailable"


class TokenUnchecked(Refused):
    """Nobody could be asked about the token; ask again."""

    status = 502
    reason = "verifier_unavailable"


class Verifier(Protocol):
    """Checks a token on the spot: signed tokens of the local world."""

    def verify(self, token: str, now: float) -> ServiceAccount: ...


@runtime_checkable
class RemoteVerifier(Protocol):
    """Checks a token by asking somebody: TokenReview on Kubernetes."""

    async def ask(self, token: str) -> ServiceAccount: ...


@dataclass(frozen=True, slots=True)
class LeafTerms:
    """How long leaves live, seconds."""

    lifetime: float
    clock_skew: float


def certify(
    request: CertifyRequest,
    issuer: Authority | None,
    verifier: Verifier,
    terms: LeafTerms,
    trust_domain: str,
    now: float,
) -> CertifyResponse:
    """Judges `request` at `now` and signs.

    Raises:
        Refused: one of its subclasses.
    """
    public_key = examine(request, issuer)
    try:
        account = verifier.verify(request.token, now)
    except TOKEN_PROBLEMS as error:
        raise token_refused(error) from None
    return grant(request, public_key, account, issuer, terms, trust_domain, now)


def examine(request: CertifyRequest, issuer: Authority | None) -> ec.EllipticCurvePublicKey:
    """All that can be judged before the token is; the key to certify. Raises Refused."""
    if issuer is None:
        raise IssuerUnavailable("cert issuer not ready yet")
    for field, value in (("identity", request.identity), ("token", request.token), ("csr", request.csr)):
        if not value:
            raise InvalidRequest(f"missing {field}")
    return _check_csr(_load_csr(request.csr), request.identity)


def grant(
    request: CertifyRequest,
    public_key: ec.EllipticCurvePublicKey,
    account: ServiceAccount,
    issuer: Authority | None,
    terms: LeafTerms,
    trust_domain: str,
    now: float,
) -> CertifyResponse:
    """Signs for whom the token speaks for. Raises Refused."""
    found = account.identity(trust_domain)
    if found != request.identity:
        raise IdentityMismatch(
            f"requested identity did not match provided token: requested={request.identity}; found={found}"
        )
    if issuer is None:
        raise IssuerUnavailable("cert issuer not ready yet")
    return sign(issuer, request.identity, public_key, terms, now)


TOKEN_PROBLEMS = (NotAuthenticated, InvalidToken, VerifierUnavailable)


def token_refused(error: Exception) -> Refused:
    """The refusal for one of `TOKEN_PROBLEMS`."""
    if isinstance(error, NotAuthenticated):
        return Unauthenticated(str(error))
    return InvalidRequest(str(error)) if isinstance(error, InvalidToken) else TokenUnchecked(str(error))


def sign(
    issuer: Authority, identity: str, public_key: ec.EllipticCurvePublicKey, terms: LeafTerms, now: float
) -> CertifyResponse:
    """Signs without asking; identity's own leaf is made this way. Raises IssuerUnavailable."""
    try:
        check_validity(issuer, now)
    except InvalidCredentials as error:
        raise IssuerUnavailable(str(error)) from None
    leaf = issue_leaf(issuer, identity, public_key, now=now, lifetime=terms.lifetime, clock_skew=terms.clock_skew)
    return CertifyResponse(
        leaf=to_pem(leaf),
        intermediates=tuple(to_pem(c) for c in (issuer.certificate, *issuer.chain)),
        valid_until=leaf.not_valid_after_utc.timestamp(),
    )


def _load_csr(text: str) -> x509.CertificateSigningRequest:
    try:
        csr = x509.load_pem_x509_csr(text.encode())
        _ = csr.extensions  # parsed on first use; damage shows here
    except (ValueError, x509.DuplicateExtension) as error:
        raise InvalidRequest(f"csr: no usable PEM certificate request ({error})") from None
    return csr


def _check_csr(csr: x509.CertificateSigningRequest, identity: str) -> ec.EllipticCurvePublicKey:
    if not is_dns_name(identity):
        raise InvalidRequest(f"identity {identity!r} is not a DNS name")
    try:
        names = list(csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    dns_names = [name.value for name in names if isinstance(name, x509.DNSName)]
    if len(dns_names) != 1:
        raise InvalidCsr("CSR must have exactly one DNSName")
    if dns_names[0] != identity:
        raise InvalidCsr(f"CSR name does not match requested identity: csr={dns_names[0]}; req={identity}")
    for attribute in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        if attribute.value not in ("", identity):
            raise InvalidCsr(f"invalid CommonName: {attribute.value!s}")
    for name in names:
        if not isinstance(name, x509.DNSName):
            raise InvalidCsr(f"CSR must not have a name of type {type(name).__name__}")
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidCsr("CSR key must be ECDSA P-256")
    if not csr.is_signature_valid:
        raise InvalidCsr("CSR is not signed with its own key")
    return key
