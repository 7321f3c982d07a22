"""Who holds on to a trust anchor that is to be dropped, with real certificates."""

from __future__ import annotations

from dataclasses import replace

from mesh.commands.anchor_holders import Holders, holders_among
from mesh.commands.check.facts import Served
from mesh.control.pki import create_issuer, create_trust_anchor
from tests.mesh.commands.healthy import ANCHOR, APP, NOW, PROXY, leaf_chain

SUCCESSOR = create_trust_anchor("root.successor", now=NOW - 3600)
RENEWED = leaf_chain(create_issuer(SUCCESSOR, now=NOW - 3600))
REST = [SUCCESSOR.certificate]


def among(*proxies: object, own: tuple[Served, ...] = (), now: float = NOW) -> Holders:
    return holders_among(proxies, own, ANCHOR.certificate, REST, now)  # type: ignore[arg-type]


def test_a_leaf_of_the_old_issuer_holds_and_a_renewed_one_does_not() -> None:
    assert among(PROXY) == Holders(("shop/cart-1",), ())
    assert among(replace(PROXY, chain_pem=RENEWED)) == Holders((), ())


def test_a_leaf_that_has_expired_holds_nothing() -> None:
    assert among(PROXY, now=NOW + 2 * 86_400) == Holders((), ())


def test_a_leaf_that_the_rest_vouches_for_as_well_is_free() -> None:
    assert holders_among([PROXY], (), ANCHOR.certificate, [ANCHOR.certificate], NOW) == Holders((), ())


def test_a_ready_proxy_that_shows_nothing_is_not_known_and_one_that_is_not_ready_serves_nobody() -> None:
    waiting = replace(APP, containers={"app": True, "linkerd-proxy": False})
    assert among(replace(PROXY, chain_pem="")) == Holders((), ("shop/cart-1",))
    assert among(replace(PROXY, chain_pem="", pod=waiting)) == Holders((), ())


def test_the_control_planes_own_leaves_count_and_the_webhooks_certificates_do_not() -> None:
    own = (
        Served(component="identity", pod="linkerd-identity-x", chain_pem=RENEWED),
        Served(component="policy", pod="linkerd-destination-x", chain_pem=leaf_chain()),
        Served(component="destination", pod="linkerd-destination-x", problem="timed out"),
        Served(component="proxy-injector", pod="linkerd-proxy-injector-x", chain_pem=leaf_chain()),
    )
    assert among(own=own) == Holders(("linkerd-destination-x (policy)",), ("linkerd-destination-x (destination)",))
