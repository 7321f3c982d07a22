"""Tokens: what they prove and how they fail."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.tokens import InvalidToken, InvalidTokenKey, NotAuthenticated, TokenSigner, TokenVerifier

NOW = 1_800_000_000.0
SIGNER = TokenSigner.generate()
VERIFIER = TokenVerifier.from_pem(SIGNER.public_pem.encode())


def test_a_token_names_its_service_account() -> None:
    account = VERIFIER.verify(SIGNER.sign("shop", "cart", NOW + 1), NOW)
    assert (account.namespace, account.name) == ("shop", "cart")
    assert account.identity("cluster.local") == "cart.shop.serviceaccount.identity.linkerd.cluster.local"


def test_a_token_is_good_up_to_its_expiry_and_not_at_it() -> None:
    token = SIGNER.sign("shop", "cart", NOW)
    VERIFIER.verify(token, NOW - 0.001)
    with pytest.raises(NotAuthenticated, match="expired"):
        VERIFIER.verify(token, NOW)


def test_a_token_without_signature_is_not_trusted_by_its_own_word() -> None:
    claims = SIGNER.sign("shop", "cart", NOW + 60).split(".")[1]
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    with pytest.raises(NotAuthenticated, match="none"):
        VERIFIER.verify(f"{header}.{claims}.", NOW)


@pytest.mark.parametrize(("namespace", "name"), [("", "cart"), ("shop", ""), ("Shop", "cart"), ("shop", "a:b")])
def test_a_subject_that_is_no_service_account_is_invalid(namespace: str, name: str) -> None:
    with pytest.raises(InvalidToken, match="subject"):
        VERIFIER.verify(SIGNER.sign(namespace, name, NOW + 60), NOW)


@given(position=st.integers(0, 250), bit=st.integers(0, 6))
def test_a_token_with_any_bit_changed_is_refused(position: int, bit: int) -> None:
    token = _TOKEN
    place = position % len(token)
    changed = token[:place] + chr(ord(token[place]) ^ (1 << bit)) + token[place + 1 :]
    try:
        account = VERIFIER.verify(changed, NOW)
    except (InvalidToken, NotAuthenticated):
        return
    # The last character of a base64 part has bits that stand for nothing, and surrounding blanks are cut.
    assert account == VERIFIER.verify(token, NOW)


_TOKEN = SIGNER.sign("shop", "cart", NOW + 60)


@given(st.text(max_size=300))
def test_any_text_is_refused_without_a_traceback(text: str) -> None:
    with pytest.raises((InvalidToken, NotAuthenticated)):
        VERIFIER.verify(text, NOW)


def test_the_key_file_must_hold_an_ed25519_key() -> None:
    from mesh.control.pki import create_key, private_key_pem

    with pytest.raises(InvalidTokenKey):
        TokenVerifier.from_pem(b"nonsense")
    with pytest.raises(InvalidTokenKey, match="Ed25519"):
        TokenSigner.from_pem(private_key_pem(create_key()).encode())
    assert TokenSigner.from_pem(SIGNER.private_pem.encode()).public_pem == SIGNER.public_pem
