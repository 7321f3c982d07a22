"""Every way a certify request is refused, and what a granted leaf says."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from mesh.control.certify import (
    IdentityMismatch,
    InvalidCsr,
    InvalidRequest,
    IssuerUnavailable,
    LeafTerms,
    Refused,
    Unauthenticated,
    certify,
)
from mesh.control.pki import create_csr, create_issuer, create_key
from mesh.control.tokens import TokenSigner
from tests.mesh.control.builders import CART, NOW, Realm

TERMS = LeafTerms(86_400.0, 20.0)


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


def _grant(realm: Realm, request, *, issuer=None, now=NOW, terms=TERMS):
    return certify(request, issuer or realm.issuer, realm.verifier, terms, "cluster.local", now)


def _csr(names: list[x509.GeneralName], common_name: str | None = None, key=None) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key or create_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_a_leaf_carries_the_identity_as_its_only_name(realm: Realm) -> None:
    response = _grant(realm, realm.request())
    leaf = x509.load_pem_x509_certificate(response.leaf.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(CART)]
    assert response.valid_until == leaf.not_valid_after_utc.timestamp()


@pytest.mark.parametrize("field", ["identity", "token", "csr"])
def test_a_missing_field_is_an_invalid_request(realm: Realm, field: str) -> None:
    import msgspec

    with pytest.raises(InvalidRequest, match=f"missing {field}"):
        _grant(realm, msgspec.structs.replace(realm.request(), **{field: ""}))


REFUSED_CSRS = {
    "no name": (lambda: _csr([]), "exactly one DNSName"),
    "two names": (lambda: _csr([x509.DNSName(CART), x509.DNSName("other")]), "exactly one DNSName"),
    "another name": (lambda: _csr([x509.DNSName("other")]), "does not match requested identity"),
    "an address too": (
        lambda: _csr([x509.DNSName(CART), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
        "IPAddress",
    ),
    "an email too": (lambda: _csr([x509.DNSName(CART), x509.RFC822Name("a@b.c")]), "RFC822Name"),
    "a URI too": (
        lambda: _csr([x509.DNSName(CART), x509.UniformResourceIdentifier("spiffe://a/b")]),
        "UniformResourceIdentifier",
    ),
    "another common name": (lambda: _csr([x509.DNSName(CART)], "admin"), "invalid CommonName"),
    "an RSA key": (lambda: _csr([x509.DNSName(CART)], key=rsa.generate_private_key(65537, 2048)), "P-256"),
    "another curve": (lambda: _csr([x509.DNSName(CART)], key=ec.generate_private_key(ec.SECP384R1())), "P-256"),
}


@pytest.mark.parametrize("kind", REFUSED_CSRS)
def test_a_csr_that_asks_for_more_or_less_than_the_identity_is_refused(realm: Realm, kind: str) -> None:
    make, reason = REFUSED_CSRS[kind]
    with pytest.raises(InvalidCsr, match=reason) as refused:
        _grant(realm, realm.request(csr=make()))
    assert refused.value.status == 412


def test_a_csr_signed_with_another_key_is_refused(realm: Realm) -> None:
    der = x509.load_pem_x509_csr(create_csr(create_key(), CART).encode()).public_bytes(serialization.Encoding.DER)
    damaged = der[:-1] + bytes([der[-1] ^ 1])
    pem = x509.load_der_x509_csr(damaged).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(InvalidCsr, match="own key"):
        _grant(realm, realm.request(csr=pem))


@pytest.mark.parametrize(
    "text", ["nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"]
)
def test_a_csr_that_cannot_be_read_is_an_invalid_request(realm: Realm, text: str) -> None:
    with pytest.raises(InvalidRequest, match="csr"):
        _grant(realm, realm.request(csr=text))


def test_a_token_of_another_account_is_refused(realm: Realm) -> None:
    with pytest.raises(IdentityMismatch) as refused:
        _grant(realm, realm.request(token=realm.signer.sign("shop", "payment", NOW + 60)))
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "token",
    [
        lambda realm: realm.signer.sign("shop", "cart", NOW - 1),
        lambda realm: realm.signer.sign("shop", "cart", NOW + 60, audience="vault"),
        lambda realm: TokenSigner.generate().sign("shop", "cart", NOW + 60),
    ],
    ids=["expired", "for another audience", "signed by another key"],
)
def test_a_token_that_proves_nothing_is_unauthenticated(realm: Realm, token) -> None:
    with pytest.raises(Unauthenticated) as refused:
        _grant(realm, realm.request(token=token(realm)))
    assert refused.value.status == 401


def test_a_token_that_is_none_is_an_invalid_request(realm: Realm) -> None:
    with pytest.raises(InvalidRequest):
        _grant(realm, realm.request(token="not.a-token"))


def test_without_an_issuer_nothing_is_certified(realm: Realm) -> None:
    with pytest.raises(IssuerUnavailable, match="not ready"):
        certify(realm.request(), None, realm.verifier, TERMS, "cluster.local", NOW)


@pytest.mark.parametrize(("offset", "text"), [(101.0, "expired at"), (-3600.0, "not valid before")])
def test_an_issuer_out_of_its_time_is_refused_and_the_error_says_so(realm: Realm, offset: float, text: str) -> None:
    issuer = create_issuer(realm.anchor, now=NOW, lifetime=100.0)
    with pytest.raises(IssuerUnavailable, match=text) as refused:
        _grant(realm, realm.request(), issuer=issuer, now=NOW + offset)
    assert refused.value.status == 503


def test_every_refusal_has_a_status_and_a_reason_of_its_own() -> None:
    kinds = Refused.__subclasses__()
    assert len({kind.reason for kind in kinds}) == len(kinds) == 6
    assert {kind.status for kind in kinds} == {400, 401, 403, 412, 502, 503}
