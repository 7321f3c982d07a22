"""Where a route's requests go, and in what shares."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.api.messages import (
    BackendSpec,
    DstOverride,
    Endpoints,
    FailureAccrualSpec,
    FiltersSpec,
    HeaderChange,
    HttpRouteSpec,
    LoadBiasSpec,
    MirrorSpec,
    NotFound,
    OutboundPolicy,
    Profile,
    ProfileRoute,
    RetryBudgetSpec,
)
from mesh.behavior.backend import BackendSettings
from mesh.behavior.destination import Destination
from mesh.behavior.routes import NO_BACKEND, Route, build_router
from tests.mesh.behavior.test_behavior_destination import Silent, endpoint

OWN = "cart.shop.svc.cluster.local:80"


def route(*backends: BackendSpec) -> Route:
    policy = OutboundPolicy(
        version=1, published_at=0.0, authority=OWN, exists=True, routes=(HttpRouteSpec(name="r", backends=backends),)
    )
    made = build_router(Profile(version=1, published_at=0.0, authority=OWN, exists=False), policy, 0.0).only
    assert made is not None
    return made


def shares(picked: Route, draws: int, seed: int = 5) -> Counter[str | None]:
    rng = Random(seed)
    return Counter(picked.pick_backend(rng) for _ in range(draws))


def test_without_backends_requests_go_to_the_destination_itself() -> None:
    assert route().pick_backend(Random(0)) is None


def test_a_backend_that_is_the_destination_itself_is_told_as_such() -> None:
    assert route(BackendSpec(authority=OWN)).pick_backend(Random(0)) is None


def test_a_canary_of_one_percent_gets_one_percent() -> None:
    counted = shares(
        route(BackendSpec(authority=OWN, weight=99), BackendSpec(authority="canary:80", weight=1)), 200_000
    )
    # Five standard deviations of a binomial with p = 0.01.
    assert abs(counted["canary:80"] - 2_000) < 5 * (200_000 * 0.01 * 0.99) ** 0.5
    assert sum(counted.values()) == 200_000


def test_weight_zero_never_gets_a_request() -> None:
    counted = shares(route(BackendSpec(authority="a:80"), BackendSpec(authority="b:80", weight=0)), 1_000)
    assert counted == {"a:80": 1_000}


def test_all_weights_zero_leave_nowhere_to_go() -> None:
    nowhere = route(BackendSpec(authority="a:80", weight=0), BackendSpec(authority="b:80", weight=0))
    assert nowhere.pick_backend(Random(0)) == NO_BACKEND


def test_a_backend_that_cannot_be_used_keeps_its_share_of_failures() -> None:
    counted = shares(route(BackendSpec(authority="a:80", weight=1), BackendSpec(weight=1)), 2_000)
    assert 800 < counted[NO_BACKEND] < 1_200


class _Fixed(Random):
    """A generator whose next draw is known."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def random(self) -> float:
        return self._value


@settings(max_examples=60)
@given(weights=st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_each_backend_owns_exactly_its_share_of_the_unit_interval(weights: list[int]) -> None:
    picked = route(*(BackendSpec(authority=f"b{i}:80", weight=weight) for i, weight in enumerate(weights)))
    total = sum(weights)
    counted: Counter[str | None] = Counter(picked.pick_backend(_Fixed((step + 0.5) / total)) for step in range(total))
    if total == 0:
        assert picked.pick_backend(Random(0)) == NO_BACKEND
    else:
        assert counted == {f"b{i}:80": weight for i, weight in enumerate(weights) if weight}


def test_a_backends_own_filters_come_with_it() -> None:
    change = FiltersSpec(request_headers=HeaderChange(set=(("x-canary", "1"),)))
    picked = route(BackendSpec(authority="a:80", filters=change)).pick(Random(0))
    assert picked.filters is not None
    assert picked.filters.request(b"/", b"cart", [])[2] == [(b"x-canary", b"1")]


def test_dst_overrides_share_out_all_routes_of_a_profile() -> None:
    profile = Profile(
        version=1,
        published_at=0.0,
        authority=OWN,
        exists=True,
        routes=(ProfileRoute(name="p", path_regexes=("/p",)),),
        retry_budget=RetryBudgetSpec(),
        dst_overrides=(DstOverride(authority=OWN, weight=900), DstOverride(authority="v2:80", weight=100)),
    )
    made = build_router(profile, OutboundPolicy(version=1, published_at=0.0, authority=OWN, exists=True), 0.0)
    for path in ("/p", "/other"):
        found = made.match("GET", path)
        assert found is not None
        counted = shares(found, 5_000)
        assert 350 < counted["v2:80"] < 650
        assert counted[None] == 5_000 - counted["v2:80"]


# ---- the destination knows what it needs


def heard(policy: OutboundPolicy, profile: Profile | None = None, authority: str = OWN) -> Destination[str, int]:
    made: Destination[str, int] = Destination(authority, BackendSettings(), Silent(), Random(0))
    made.apply(0.0, Endpoints(version=1, published_at=0.0, endpoints=(endpoint("x"),)))
    made.apply(0.0, profile or Profile(version=1, published_at=0.0, authority=authority, exists=False))
    made.apply(0.0, policy)
    return made


def test_a_destination_names_the_others_that_its_routes_need() -> None:
    mirrored = FiltersSpec(mirrors=(MirrorSpec(authority="shadow:80"),))
    backends = (
        BackendSpec(authority=OWN),
        BackendSpec(authority="v2:80", filters=FiltersSpec(mirrors=(MirrorSpec(authority="deep:80"),))),
        BackendSpec(),
        BackendSpec(authority="off:80", weight=0),
    )
    routes = (HttpRouteSpec(name="r", filters=mirrored, backends=backends),)
    policy = OutboundPolicy(version=1, published_at=0.0, authority=OWN, exists=True, routes=routes)
    assert heard(policy).backend_authorities == {"v2:80", "shadow:80", "deep:80"}


def test_breaker_and_load_bias_of_the_policy_are_off_under_a_profile() -> None:
    policy = OutboundPolicy(
        version=1,
        published_at=0.0,
        authority=OWN,
        exists=True,
        failure_accrual=FailureAccrualSpec(),
        load_bias=LoadBiasSpec(),
    )
    profile = Profile(version=1, published_at=0.0, authority=OWN, exists=True, retry_budget=RetryBudgetSpec())
    for made, biased in ((heard(policy), True), (heard(policy, profile), False)):
        assert made.backend is not None
        state = made.backend.endpoints["x"]
        state.load.pending = 1
        made.backend.finished(0.0, state, None, 0.01, True)
        assert (state.load.cost(0.0) > 1.0) is biased
        assert (state.accrual is not None) is biased


@pytest.mark.parametrize(
    ("profile_opaque", "protocol", "expected"),
    [(False, "detect", "detect"), (False, "http2", "http2"), (True, "http1", "opaque")],
)
def test_what_is_known_of_the_protocol(profile_opaque: bool, protocol: str, expected: str) -> None:
    policy = OutboundPolicy(version=1, published_at=0.0, authority=OWN, exists=True, protocol=protocol)
    profile = Profile(version=1, published_at=0.0, authority=OWN, exists=profile_opaque, opaque=profile_opaque)
    assert heard(policy, profile).protocol == expected


def test_an_address_that_an_egress_network_covers_is_its_own_endpoint() -> None:
    address = "198.51.100.7:443"
    made: Destination[str, int] = Destination(address, BackendSettings(), Silent(), Random(0))
    made.apply(0.0, NotFound(version=1, published_at=0.0, authority=address))
    made.apply(0.0, Profile(version=1, published_at=0.0, authority=address, exists=False))
    assert not made.not_found, "of an address that is known only once its policy was heard"
    assert not made.usable
    made.apply(0.0, OutboundPolicy(version=1, published_at=0.0, authority=address, exists=True, egress="allow"))
    assert made.usable
    assert not made.not_found
    assert made.backend is not None
    assert list(made.backend.endpoints) == [address]


def test_an_address_that_no_egress_network_covers_is_not_found() -> None:
    address = "198.51.100.7:443"
    made: Destination[str, int] = Destination(address, BackendSettings(), Silent(), Random(0))
    made.apply(0.0, NotFound(version=1, published_at=0.0, authority=address))
    made.apply(0.0, OutboundPolicy(version=1, published_at=0.0, authority=address, exists=False))
    assert made.not_found
