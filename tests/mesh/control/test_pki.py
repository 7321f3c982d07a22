"""Chains that openssl and `ssl` accept, lifetimes, and issuers that are refused."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.credentials import load_chain, server_credentials
from mesh.control.pki import (
    InvalidCredentials,
    create_issuer,
    create_key,
    create_trust_anchor,
    issue_leaf,
    load_issuer,
    private_key_pem,
    to_pem,
    write_issuer_dir,
)
from tests.mesh.control.builders import CART, NOW, Realm


@pytest.fixture(scope="module")
def realm() -> Realm:
    return Realm()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_verifies_the_chain_and_shows_p256_and_the_san(realm: Realm, tmp_path: Path) -> None:
    leaf = issue_leaf(realm.issuer, CART, create_key().public_key(), now=NOW)
    for name, certificate in (
        ("anchor", realm.anchor.certificate),
        ("issuer", realm.issuer.certificate),
        ("leaf", leaf),
    ):
        (tmp_path / name).write_text(to_pem(certificate))
    for purpose in ("sslserver", "sslclient"):
        verified = subprocess.run(
            [
                "openssl",
                "verify",
                "-attime",
                str(int(NOW)),
                "-purpose",
                purpose,
                "-x509_strict",
                "-CAfile",
                "anchor",
                "-untrusted",
                "issuer",
                "leaf",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert verified.stdout == "leaf: OK\n", verified.stderr
    text = subprocess.run(
        ["openssl", "x509", "-text", "-noout", "-in", tmp_path / "leaf"], capture_output=True, text=True
    )
    assert f"DNS:{CART}" in text.stdout
    assert "ASN1 OID: prime256v1" in text.stdout
    assert "CA:FALSE" in text.stdout


def test_a_handshake_in_memory_is_tls13_and_shows_the_identity(tmp_path: Path) -> None:
    anchor = create_trust_anchor()
    issuer = create_issuer(anchor)
    credentials = server_credentials(CART, [anchor.certificate], require_client=True)
    server, client = _handshake(credentials.context, issuer, anchor, CART)
    assert server.version() == client.version() == "TLSv1.3"
    assert ("DNS", CART) in client.getpeercert()["subjectAltName"]
    assert server.getpeercert()["subjectAltName"] == (("DNS", CART),)


def _handshake(server_context: ssl.SSLContext, issuer, anchor, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    import time

    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.load_verify_locations(cadata=anchor.certificate_pem)
    for context in (server_context, client_context):
        key = create_key()
        leaf = issue_leaf(issuer, name, key.public_key(), now=time.time())
        load_chain(context, to_pem(leaf) + issuer.certificate_pem, private_key_pem(key))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            break
    return server, client


@given(
    lifetime=st.floats(1.0, 10_000_000.0),
    skew=st.floats(0.0, 100.0),
    issuer_left=st.floats(1.0, 10_000_000.0),
)
def test_a_leaf_never_outlives_its_issuer_and_starts_a_skew_early(
    lifetime: float, skew: float, issuer_left: float
) -> None:
    issuer = create_issuer(_ANCHOR, now=NOW, lifetime=issuer_left)
    leaf = issue_leaf(issuer, CART, _KEY.public_key(), now=NOW, lifetime=lifetime, clock_skew=skew)
    not_after = leaf.not_valid_after_utc.timestamp()
    assert not_after <= issuer.not_after
    assert not_after == min(int(NOW + lifetime + skew), issuer.not_after)
    assert leaf.not_valid_before_utc.timestamp() == int(NOW - skew)


_ANCHOR = create_trust_anchor(now=NOW)
_KEY = create_key()


def test_the_clamp_looks_at_the_whole_issuer_chain(realm: Realm) -> None:
    from dataclasses import replace

    short = create_issuer(realm.anchor, now=NOW, lifetime=50.0)
    chained = replace(realm.issuer, chain=(short.certificate,))
    assert chained.not_after == NOW + 50.0


def test_a_name_too_long_for_the_subject_still_stands_in_the_san(realm: Realm) -> None:
    name = f"{'a' * 60}.shop.serviceaccount.identity.linkerd.cluster.local"
    leaf = issue_leaf(realm.issuer, name, _KEY.public_key(), now=NOW)
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical
    assert list(san.value) == [x509.DNSName(name)]


def test_a_written_issuer_reads_back_and_its_key_is_private(realm: Realm, tmp_path: Path) -> None:
    write_issuer_dir(tmp_path / "issuer", realm.issuer, realm.anchor)
    files = tmp_path / "issuer"
    issuer = load_issuer(
        (files / "tls.crt").read_bytes(), (files / "tls.key").read_bytes(), [realm.anchor.certificate], NOW
    )
    assert issuer.certificate == realm.issuer.certificate
    assert (files / "tls.key").stat().st_mode & 0o077 == 0
    assert sorted(p.name for p in files.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]


REFUSED_ISSUERS = {
    "garbage": (lambda r: (b"x", r.issuer.key_pem), "no usable PEM certificate"),
    "no key": (lambda r: (r.issuer.certificate_pem, b"x"), "no usable PEM private key"),
    "another key": (lambda r: (r.issuer.certificate_pem, private_key_pem(_KEY)), "does not belong"),
    "a leaf": (
        lambda r: (to_pem(issue_leaf(r.issuer, CART, _KEY.public_key(), now=NOW)), private_key_pem(_KEY)),
        "not a CA",
    ),
    "of another anchor": (lambda r: (o := Realm().issuer, (o.certificate_pem, o.key_pem))[1], "trust anchors"),
    "expired": (
        lambda r: (o := create_issuer(r.anchor, now=NOW - 100, lifetime=50), (o.certificate_pem, o.key_pem))[1],
        "expired at",
    ),
    "not yet valid": (
        lambda r: (o := create_issuer(r.anchor, now=NOW + 1000), (o.certificate_pem, o.key_pem))[1],
        "not valid before",
    ),
}


@pytest.mark.parametrize("kind", REFUSED_ISSUERS)
def test_an_issuer_that_cannot_sign_for_this_mesh_is_refused(realm: Realm, kind: str) -> None:
    make, reason = REFUSED_ISSUERS[kind]
    certificate, key = (part.encode() if isinstance(part, str) else part for part in make(realm))
    with pytest.raises(InvalidCredentials, match=reason):
        load_issuer(certificate, key, [realm.anchor.certificate], NOW)
