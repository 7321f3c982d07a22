"""Trust anchors come from a file that may change at any time; what is no bundle leaves the last one in force."""

from __future__ import annotations

import os
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from proxy_world import Pod, World, identity_of, run_in_world, until

from mesh.control import pki
from mesh.proxy.csr import make_key_and_csr
from mesh.proxy.metrics import Registry
from mesh.proxy.trust import InvalidAnchors, TrustBundle, parse_anchors
from mesh.proxy.wire.contexts import make_contexts

OLD, NEW = (pki.create_trust_anchor().certificate_pem for _ in range(2))


class Bundle:
    """A bundle in a file, and what its owner hears."""

    def __init__(self, directory: Path, pem: str) -> None:
        self.path = directory / "ca.crt"
        self.write(pem)
        self.registry = Registry()
        self.trust = TrustBundle(pem, str(self.path), self.registry)
        self.trust.look()
        self.heard: list[str] = []
        self.trust.on_change(lambda: self.heard.append(self.trust.pem))

    def write(self, pem: str) -> None:
        """Another file behind the same path, as with a ConfigMap."""
        other = self.path.with_suffix(".new")
        other.write_text(pem)
        os.replace(other, self.path)

    def metric(self, series: str) -> float:
        lines = self.registry.render().decode().splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == series)

    @property
    def reloads(self) -> tuple[float, float]:
        name = "control_identity_trust_anchors_reloads_total"
        return self.metric(f'{name}{{result="ok"}}'), self.metric(f'{name}{{result="error"}}')


def test_a_bundle_of_several_anchors_is_counted_and_the_first_to_expire_is_told() -> None:
    both = parse_anchors(OLD + NEW)
    assert both.count == 2
    assert both.earliest_expiry == min(parse_anchors(OLD).earliest_expiry, parse_anchors(NEW).earliest_expiry)


@pytest.mark.parametrize(
    "text", ["", "nothing", OLD[:200], OLD + NEW[:200]], ids=["empty", "noise", "cut", "cut later"]
)
def test_what_is_no_bundle_is_refused(text: str) -> None:
    with pytest.raises(InvalidAnchors):
        parse_anchors(text)


def test_a_changed_file_is_taken_and_told(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, OLD)
    bundle.trust.look()
    assert bundle.heard == []
    bundle.write(OLD + NEW)
    bundle.trust.look()
    bundle.trust.look()
    assert bundle.heard == [OLD + NEW]
    assert bundle.metric("control_identity_trust_anchors") == 2
    assert bundle.reloads == (1, 0)


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_broken_file_leaves_the_last_bundle_in_force_is_counted_once_and_looked_at_until_it_is_whole(
    tmp_path: Path, harm: str
) -> None:
    bundle = Bundle(tmp_path, OLD)
    if harm == "gone":
        bundle.path.unlink()
    else:
        bundle.write((OLD + NEW)[:-200])
    for _ in range(3):
        bundle.trust.look()
    assert (bundle.trust.pem, bundle.heard, bundle.reloads) == (OLD, [], (0, 1))
    bundle.write(OLD + NEW)
    bundle.trust.look()
    assert (bundle.heard, bundle.reloads) == ([OLD + NEW], (1, 1))


@pytest.mark.e2e
@pytest.mark.timeout(30)
def test_new_anchors_hold_for_new_handshakes_and_a_leaf_that_is_not_theirs_is_replaced_at_once(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        path = tmp_path / "anchors"
        made.control.lifetime = 86_400.0
        first = made.control.anchor.certificate_pem
        path.write_text(first)
        cart, shop = await made.pod("cart"), await made.pod("shop")
        client = await cart.client()
        assert (await client.request("GET", "/", shop.authority)).status == 200
        identity = cart.proxy.identity
        assert identity is not None
        identity.trust._path = str(path)  # as if it had come from there: the world gives anchors by variable
        identity.trust.look()

        before = identity.contexts
        path.write_text(first + NEW)
        identity.trust.look()
        await until(lambda: identity.contexts is not before)
        assert cart.metric("control_identity_trust_anchors") == 2
        assert made.control.certified.count(identity_of("cart")) == 1, "the leaf is still good"
        await _served_anew(cart, shop)

        before = identity.contexts
        path.write_text(NEW)
        identity.trust.look()
        await until(lambda: identity.contexts is not before)
        refusals = 'tls_handshake_failures_total{direction="control"'
        await until(lambda: refusals in cart.proxy.registry.render().decode(), 10.0)
        assert cart.metric("control_identity_cert_refreshes_total", result="error") >= 1, "asked at once, in vain"
        assert (await client.request("GET", "/", shop.authority)).status == 200, "what is open stays"

    run_in_world(tmp_path, scenario)


async def _served_anew(cart: Pod, shop: Pod) -> None:
    """Over a new connection between the two."""
    for connection in list(shop.proxy.inbound.connections):
        connection.abort()
    await until(lambda: not shop.proxy.inbound.connections)
    client = await cart.client()
    assert (await client.request("GET", "/", shop.authority)).status == 200


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files without a name are Linux's")
@pytest.mark.parametrize("anonymous", [True, False], ids=["Linux", "elsewhere"])
def test_a_key_passes_through_no_directory_or_one_that_is_gone_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anonymous: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent" if anonymous else tmp_path))
    if not anonymous:
        monkeypatch.delattr(os, "memfd_create")
    anchor = pki.create_trust_anchor()
    issuer = pki.create_issuer(anchor)
    key, csr = make_key_and_csr("a.b")
    public = x509.load_pem_x509_csr(csr.encode()).public_key()
    assert isinstance(public, EllipticCurvePublicKey)
    leaf = pki.issue_leaf(issuer, "a.b", public, now=time.time(), lifetime=60.0, clock_skew=20.0)
    made = make_contexts(anchor.certificate_pem, pki.to_pem(leaf) + issuer.certificate_pem, key)
    assert made.server.verify_mode is ssl.CERT_REQUIRED
    assert list(tmp_path.iterdir()) == []
