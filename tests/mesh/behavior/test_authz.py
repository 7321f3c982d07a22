"""Who is let in: networks, identities, default policies, and those who pretend."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.messages import AuthorizationSpec, InboundRoute, NetworkSpec, ValueMatch
from mesh.behavior.authz import (
    DEFAULT_POLICIES,
    Authorization,
    default_authorizations,
    first_that_allows,
    parse_address,
    parse_network,
)
from mesh.behavior.inbound_routes import InboundRouter

CART = "cart.shop.serviceaccount.identity.linkerd.cluster.local"
INSIDE, OUTSIDE = "10.4.0.9", "8.8.8.8"


def identities(*names: str) -> Authorization:
    return Authorization(AuthorizationSpec(kind="k", name="n", identities=names))


def networks(*specs: NetworkSpec) -> Authorization:
    return Authorization(AuthorizationSpec(kind="k", name="n", networks=specs, client="unauthenticated"))


def lets_in(authorization: Authorization, address: str) -> bool:
    return authorization.allows(parse_address(address), False, None)


# ---- identities


@pytest.mark.parametrize(
    ("pattern", "identity", "expected"),
    [
        (CART, CART, True),
        (CART, CART.upper(), True),
        ("*", CART, True),
        ("*", "", False),
        ("*", "spiffe://root/cart", False),
        ("*.shop.serviceaccount.identity.linkerd.cluster.local", CART, True),
        ("spiffe://root/cart", "spiffe://root/cart", True),
        ("spiffe://root/cart", "spiffe://root/CART", False),
        # pretenders: prefix, suffix and label confusion
        (CART, CART + ".evil.example", False),
        (CART, "evil-" + CART, False),
        (CART, "x." + CART, False),
        ("*.shop.serviceaccount.identity.linkerd.cluster.local", CART.replace(".shop.", ".workshop."), False),
        ("*.shop.serviceaccount.identity.linkerd.cluster.local", CART + ".evil.example", False),
        ("*.shop.local", ".shop.local", False),
        ("*.shop.local", "shop.local", False),
        ("*.shop.local", "spiffe://root/x.shop.local", False),
        ("shop.*", "shop.local", False),
        ("*shop.local", "workshop.local", False),
    ],
)
def test_an_identity_is_matched_by_whole_labels_only(pattern: str, identity: str, expected: bool) -> None:
    assert identities(pattern).allows(None, True, identity) is expected


def test_an_identity_without_tls_proves_nothing() -> None:
    assert not identities("*", CART).allows(None, False, CART)


@pytest.mark.parametrize(
    ("client", "tls", "identity", "expected"),
    [
        ("unauthenticated", False, None, True),
        ("unauthenticated", True, CART, True),
        ("mesh-tls", False, None, False),
        ("mesh-tls", True, None, True),
        ("identities", True, None, False),
        ("identities", True, CART, True),
    ],
)
def test_each_kind_of_proof(client, tls: bool, identity: str | None, expected: bool) -> None:
    spec = AuthorizationSpec(kind="k", name="n", client=client, identities=("*",))
    assert Authorization(spec).allows(None, tls, identity) is expected


_LABELS = st.lists(st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True), min_size=1, max_size=5)


@given(_LABELS, _LABELS)
def test_a_suffix_has_a_name_exactly_when_its_labels_end_the_names(suffix: list[str], name: list[str]) -> None:
    expected = len(name) > len(suffix) and name[-len(suffix) :] == suffix
    assert identities("*." + ".".join(suffix)).allows(None, True, ".".join(name)) is expected


# ---- networks


@pytest.mark.parametrize(
    ("cidr", "address", "expected"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3/8", "10.9.9.9", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.4", False),
        ("fd00::/8", "fd12::1", True),
        ("fd00::/8", "fe80::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("::/0", "10.1.2.3", False),
        ("0.0.0.0/0", "fd00::1", False),
        # an IPv4 client as a dual-stack listener sees it, and a network written so
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "::ffff:11.1.2.3", False),
        ("::/0", "::ffff:10.1.2.3", False),
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "::ffff:11.1.2.3", False),
    ],
)
def test_a_network_has_an_address(cidr: str, address: str, expected: bool) -> None:
    assert lets_in(networks(NetworkSpec(cidr=cidr)), address) is expected


@pytest.mark.parametrize("address", ["10.0.1.5", "::ffff:10.0.1.5"])
def test_except_takes_addresses_out_of_its_own_network_only(address: str) -> None:
    hole = NetworkSpec(cidr="10.0.0.0/8", except_=("10.0.1.0/24",))
    assert not lets_in(networks(hole), address)
    assert lets_in(networks(hole), "10.0.2.5")
    assert lets_in(networks(hole, NetworkSpec(cidr="10.0.1.5")), address)


def test_except_holds_in_any_network() -> None:
    everywhere = networks(NetworkSpec(cidr="0.0.0.0/0", except_=("10.0.0.0/8",)), NetworkSpec(cidr="::/0"))
    assert not lets_in(everywhere, "10.1.1.1")
    assert lets_in(everywhere, OUTSIDE)


def test_a_client_without_an_address_is_only_in_any_network() -> None:
    assert networks(NetworkSpec(cidr="::/0"), NetworkSpec(cidr="0.0.0.0/0")).allows(None, False, None)
    assert not networks(NetworkSpec(cidr="0.0.0.0/0")).allows(None, False, None)


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "ten", "10.0.0.0/8/8", "::1/129"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_network(text)


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_networks_agree_with_arithmetic_and_ignore_the_mapped_form(base, prefix: int, client) -> None:
    mask = 0 if prefix == 0 else (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF
    expected = int(base) & mask == int(client) & mask
    authorization = networks(NetworkSpec(cidr=f"{base}/{prefix}"))
    assert lets_in(authorization, str(client)) is expected
    assert lets_in(authorization, str(ip_address((0xFFFF << 32) | int(client)))) is expected
    assert parse_network(f"::ffff:{base}/{96 + prefix}") == ip_network(f"{base}/{prefix}", strict=False)


# ---- default policies


@pytest.mark.parametrize(
    ("policy", "lets_in_whom"),
    [
        ("all-unauthenticated", {"plain inside", "plain outside", "meshed inside", "meshed outside"}),
        ("all-authenticated", {"meshed inside", "meshed outside"}),
        ("cluster-unauthenticated", {"plain inside", "meshed inside"}),
        ("cluster-authenticated", {"meshed inside"}),
        ("deny", set()),
        ("audit", {"plain inside", "plain outside", "meshed inside", "meshed outside"}),
        ("dany", set()),
    ],
)
def test_each_default_policy_lets_in_whom_its_name_says(policy: str, lets_in_whom: set[str]) -> None:
    authorizations = [Authorization(spec) for spec in default_authorizations(policy)]
    let_in = {
        f"{who} {where}"
        for who, tls, identity in (("plain", False, None), ("meshed", True, CART))
        for where, address in (("inside", INSIDE), ("outside", OUTSIDE))
        if first_that_allows(authorizations, parse_address(address), tls, identity)
    }
    assert let_in == lets_in_whom


def test_only_audit_audits() -> None:
    audits = [p for p in DEFAULT_POLICIES if any(Authorization(s).audit for s in default_authorizations(p))]
    assert audits == ["audit"]


def test_cluster_networks_are_configured() -> None:
    (spec,) = default_authorizations("cluster-unauthenticated", ["8.8.8.0/24"])
    assert lets_in(Authorization(spec), OUTSIDE)
    assert not lets_in(Authorization(spec), INSIDE)


def test_the_first_authorization_that_allows_gives_its_name() -> None:
    granted = first_that_allows([identities("other"), networks(NetworkSpec(cidr="0.0.0.0/0"))], None, True, CART)
    assert granted is None
    both = [identities("other"), identities(CART), identities("*")]
    assert first_that_allows(both, None, True, CART) is both[1]


# ---- routes


def find(router: InboundRouter[str], path: str, method: str = "GET", host: str = "", **headers: str) -> str | None:
    return router.find(method, path.encode(), host.encode(), [(k.encode(), v.encode()) for k, v in headers.items()])


def test_a_route_is_found_by_each_of_its_conditions() -> None:
    routes = [
        (InboundRoute(name="r", path_exact="/healthz", method="GET"), "probe"),
        (InboundRoute(name="r", path_exact="/healthz"), "health"),
        (InboundRoute(name="r", hostname="a.example", path_prefix="/"), "host"),
        (InboundRoute(name="r", hostname="*.b.example"), "subdomain"),
        (InboundRoute(name="r", path_exact="/exact"), "exact"),
        (InboundRoute(name="r", path_regex="/users/[0-9]+"), "regex"),
        (InboundRoute(name="r", path_prefix="/admin/", headers=(ValueMatch(name="X-Role", value="root"),)), "header"),
        (InboundRoute(name="r", path_prefix="/admin"), "prefix"),
        (InboundRoute(name="r", method="DELETE"), "method"),
        (InboundRoute(name="r", query_params=(ValueMatch(name="q", value="[a-z]+", regex=True),)), "query"),
    ]
    router = InboundRouter(routes)
    assert find(router, "/healthz?full=1") == "probe"
    assert find(router, "/healthz", "POST") == "health"
    assert find(router, "/healthz/") is None
    assert find(router, "/", host="A.example:8080") == "host"
    assert find(router, "/", host="x.b.example") == "subdomain"
    assert find(router, "/", host="b.example") is None
    assert find(router, "/", host="evilb.example") is None
    assert find(router, "/exact") == "exact"
    assert find(router, "/users/17") == "regex"
    assert find(router, "/users/17/x") is None
    assert find(router, "/admin/x", **{"x-role": "root"}) == "header"
    assert find(router, "/admin/x", **{"x-role": "rooty"}) == "prefix"
    assert find(router, "/admin") == "prefix"
    assert find(router, "/administrator") is None
    assert find(router, "/", "DELETE") == "method"
    assert find(router, "/?a=1&q=abc") == "query"
    assert find(router, "/?q=ABC") is None


def test_an_exact_path_does_not_overtake_a_more_specific_route_before_it() -> None:
    routes = [
        (InboundRoute(name="r", hostname="a.example", path_prefix="/x"), "host"),
        (InboundRoute(name="r", path_exact="/x"), "exact"),
        (InboundRoute(name="default"), "default"),
    ]
    router = InboundRouter(routes)
    assert find(router, "/x", host="a.example") == "host"
    assert find(router, "/x", host="b.example") == "exact"
    assert find(router, "/y") == "default"
