"""Which route a request gets: hosts, paths, methods, headers, queries."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.messages import HttpRouteSpec, OutboundPolicy, Profile, ProfileRoute, ValueMatch
from mesh.behavior.routes import Route, Router, build_router

NO_PROFILE = Profile(version=1, published_at=0.0, authority="a:80", exists=False)


def router(*routes: HttpRouteSpec) -> Router:
    policy = OutboundPolicy(version=1, published_at=0.0, authority="a:80", exists=True, routes=routes)
    return build_router(NO_PROFILE, policy, 0.0)


def matched(
    spec: HttpRouteSpec,
    path: str = "/",
    method: str = "GET",
    headers: list[tuple[bytes, bytes]] | None = None,
    authority: str = "a:80",
) -> bool:
    return router(spec).match(method, path, headers or [], authority) is not None


def spec(**fields: object) -> HttpRouteSpec:
    return HttpRouteSpec(name="r", **fields)  # type: ignore[arg-type]


def test_a_lone_route_without_conditions_needs_no_matching() -> None:
    made = router(spec())
    assert made.only is not None
    assert made.match("GET", "/x?y=1") is made.only
    assert router().only is not None, "nor does a destination without any route"
    assert router(spec(path_exact=("/x",))).only is None


def test_a_request_that_no_route_matches_gets_none() -> None:
    assert router(spec(path_exact=("/x",))).match("GET", "/y") is None


def test_without_any_route_every_request_gets_the_default() -> None:
    found = router().match("GET", "/y")
    assert found is not None
    assert found.name == "default"


@pytest.mark.parametrize(
    ("prefix", "path", "expected"),
    [
        ("/foo", "/foo", True),
        ("/foo", "/foo/", True),
        ("/foo", "/foo/bar", True),
        ("/foo", "/foobar", False),
        ("/foo/", "/foo", True),
        ("/foo/", "/foo/bar?q=1", True),
        ("/foo", "/foo?q=/x", True),
        ("/", "/anything", True),
        ("/foo", "/Foo", False),
    ],
)
def test_a_prefix_matches_whole_segments(prefix: str, path: str, expected: bool) -> None:
    assert matched(spec(path_prefixes=(prefix,)), path) is expected


def test_paths_of_all_kinds_are_alternatives() -> None:
    mixed = spec(path_exact=("/a",), path_prefixes=("/b",), path_regexes=("/c[0-9]", "/d"))
    assert [matched(mixed, p) for p in ("/a", "/b/x", "/c1", "/d", "/c", "/a/x")] == [True] * 4 + [False] * 2


def test_an_expression_matches_the_whole_path_and_not_a_part() -> None:
    digits = spec(path_regexes=("/foo/[0-9]+",))
    assert [matched(digits, p) for p in ("/foo/4", "/bar/foo/4", "/foo/4/x", "/foo/4\n")] == [True, False, False, False]


@pytest.mark.parametrize(
    ("hostname", "authority", "expected"),
    [
        ("cart.shop", "cart.shop:80", True),
        ("cart.shop", "Cart.Shop", True),
        ("cart.shop", "cart.shop.:80", True),
        ("cart.shop", "x.cart.shop", False),
        ("*.shop", "cart.shop:8080", True),
        ("*.shop", "a.cart.shop", True),
        ("*.shop", "shop", False),
        ("*.shop", ".shop", False),
        ("cart.shop", "", False),
    ],
)
def test_hostnames_ignore_case_and_port_and_a_wildcard_needs_a_label(
    hostname: str, authority: str, expected: bool
) -> None:
    assert matched(spec(hostname=hostname), authority=authority) is expected


def test_headers_must_all_match_and_any_of_several_values_will_do() -> None:
    wanted = spec(headers=(ValueMatch(name="x-user", value="qa"), ValueMatch(name="x-v", value="[0-9]+", regex=True)))
    assert matched(wanted, headers=[(b"x-user", b"qa"), (b"x-v", b"12")])
    assert matched(wanted, headers=[(b"x-user", b"dev"), (b"x-user", b"qa"), (b"x-v", b"1")])
    assert not matched(wanted, headers=[(b"x-user", b"qa")])
    assert not matched(wanted, headers=[(b"x-user", b"QA"), (b"x-v", b"12")]), "values are compared with case"
    assert not matched(wanted, headers=[(b"x-user", b"qa"), (b"x-v", b"12a")])


def test_query_parameters_are_decoded_and_must_all_match() -> None:
    wanted = spec(query_params=(ValueMatch(name="q", value="a b"), ValueMatch(name="page", value="[0-9]", regex=True)))
    assert matched(wanted, "/?q=a+b&page=1")
    assert matched(wanted, "/?page=7&x=&q=a%20b")
    assert matched(wanted, "/?q=c&q=a%20b&page=1"), "any of several values will do"
    assert not matched(wanted, "/?q=a+b")
    assert not matched(wanted, "/?q=a+b&page=12")
    assert not matched(wanted, "/")
    assert matched(spec(query_params=(ValueMatch(name="flag", value=""),)), "/?flag")


def test_a_method_matches_exactly() -> None:
    assert matched(spec(methods=("POST",)), method="POST")
    assert not matched(spec(methods=("POST",)), method="post")


def test_a_grpc_route_matches_posts_to_its_service_and_method() -> None:
    method = spec(kind="grpc", methods=("POST",), path_exact=("/shop.Cart/Add",))
    service = spec(kind="grpc", methods=("POST",), path_prefixes=("/shop.Cart",))
    assert matched(method, "/shop.Cart/Add", "POST")
    assert not matched(method, "/shop.Cart/Get", "POST")
    assert not matched(method, "/shop.Cart/Add", "GET")
    assert matched(service, "/shop.Cart/Get", "POST")
    assert not matched(service, "/shop.Carts/Get", "POST")


def test_profile_routes_match_by_method_and_expression_as_before() -> None:
    profile = Profile(
        version=1,
        published_at=0.0,
        authority="a:80",
        exists=True,
        routes=(ProfileRoute(name="p", methods=("GET",), path_regexes=("/x|/y",)),),
    )
    made = build_router(profile, OutboundPolicy(version=1, published_at=0.0, authority="a:80", exists=False), 0.0)
    names = [route.name for path in ("/x", "/y?z", "/xy") if (route := made.match("GET", path)) is not None]
    assert names == ["p", "p", "default"]


def test_a_profile_route_may_ask_for_several_expressions_and_exclude_others() -> None:
    route = ProfileRoute(name="p", path_regexes=("/a.*",), also_paths=(".*z",), not_paths=("/abz", "/acz"))
    profile = Profile(version=1, published_at=0.0, authority="a:80", exists=True, routes=(route,))
    made = build_router(profile, OutboundPolicy(version=1, published_at=0.0, authority="a:80", exists=False), 0.0)
    found = [made.match("GET", path) for path in ("/adz", "/abz", "/acz", "/ad", "/bdz")]
    assert [one.name for one in found if one is not None] == ["p"] + ["default"] * 4


# ---- the first match, on many routes


@given(
    paths=st.lists(st.sampled_from(["/a", "/a/b", "/c", "/"]), min_size=1, max_size=6),
    methods=st.lists(st.sampled_from(["", "GET", "POST"]), min_size=6, max_size=6),
    asked=st.tuples(st.sampled_from(["GET", "POST"]), st.sampled_from(["/a", "/a/b", "/a/b/c", "/c", "/d"])),
)
def test_the_first_route_whose_conditions_hold_is_taken(
    paths: list[str], methods: list[str], asked: tuple[str, str]
) -> None:
    specs = [
        HttpRouteSpec(name=str(i), path_prefixes=(path,), methods=(methods[i],) if methods[i] else ())
        for i, path in enumerate(paths)
    ]
    method, path = asked

    def holds(one: HttpRouteSpec) -> bool:
        prefix = one.path_prefixes[0].rstrip("/")
        return (not one.methods or method in one.methods) and (path + "/").startswith(prefix + "/")

    expected = next((one.name for one in specs if holds(one)), None)
    found: Route | None = router(*specs).match(method, path)
    assert (found.name if found is not None else None) == expected


def test_the_rng_is_not_drawn_for_a_route_without_shares() -> None:
    rng = Random(1)
    before = rng.getstate()
    route = router(spec()).only
    assert route is not None
    assert route.pick_backend(rng) is None
    assert rng.getstate() == before
