"""One request's tries: budget retries, annotation retries, and the deadlines of both."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.messages import (
    HttpRouteSpec,
    OutboundPolicy,
    Profile,
    ProfileRoute,
    ResponseClass,
    RetryBudgetSpec,
    RetrySpec,
    TimeoutSpec,
)
from mesh.behavior.exchange import Exchange, Step
from mesh.behavior.outcome import Cause
from mesh.behavior.routes import Route, Router, build_router

NO_PROFILE = Profile(version=1, published_at=0.0, authority="a", exists=False)
NO_POLICY = OutboundPolicy(version=1, published_at=0.0, authority="a", exists=False)


def profile(*routes: ProfileRoute, budget: RetryBudgetSpec | None = None) -> Router:
    made = Profile(
        version=1,
        published_at=0.0,
        authority="a",
        exists=True,
        routes=routes,
        retry_budget=budget or RetryBudgetSpec(min_retries_per_second=1, ttl_seconds=1.0),
    )
    return build_router(made, NO_POLICY, 0.0)


def policy(*routes: HttpRouteSpec) -> Router:
    return build_router(
        NO_PROFILE, OutboundPolicy(version=1, published_at=0.0, authority="a", exists=True, routes=routes), 0.0
    )


def limited(**fields: object) -> Route:
    retry = RetrySpec(**{"statuses": ((500, 599),), **fields})  # type: ignore[arg-type]
    return found(policy(HttpRouteSpec(name="r", retry=retry)))


def found(router: Router, method: str = "GET", path: str = "/") -> Route:
    route = router.match(method, path)
    assert route is not None
    return route


def exchange(route: Route | None, replayable: bool = True) -> Exchange:
    assert route is not None
    made = Exchange(route, 0.0, Random(7), replayable)
    assert made.begin(0.0) is Step.TRY
    return made


# ---- ServiceProfile


def test_profile_retries_a_failed_response_at_once_while_the_budget_pays() -> None:
    route = profile(ProfileRoute(name="r", is_retryable=True)).match("GET", "/")
    assert route is not None
    tries = exchange(route)
    assert tries.responded(0.0, 503) is Step.TRY  # the reserve pays for one
    assert tries.responded(0.0, 503) is Step.DONE
    assert (tries.status, tries.attempts, tries.retries_granted, tries.retry_denied) == (503, 2, 1, True)


def test_profile_never_retries_without_a_response() -> None:
    route = profile(ProfileRoute(name="r", is_retryable=True)).match("GET", "/")
    for cause in Cause:
        assert exchange(route).failed(0.0, cause) is Step.DONE


def test_profile_route_that_is_not_retryable_deposits_and_gives_up() -> None:
    router = profile(
        ProfileRoute(name="no", methods=("GET",)),
        ProfileRoute(name="yes", methods=("POST",), is_retryable=True),
        budget=RetryBudgetSpec(retry_ratio=0.5, min_retries_per_second=0, ttl_seconds=10.0),
    )
    for _ in range(2):
        assert exchange(router.match("GET", "/")).responded(0.0, 500) is Step.DONE
    assert exchange(router.match("POST", "/")).responded(0.0, 500) is Step.TRY, "routes share the budget"


def test_profile_timeout_spans_all_tries() -> None:
    route = profile(ProfileRoute(name="r", is_retryable=True, timeout_seconds=1.0)).match("GET", "/")
    assert route is not None
    tries = exchange(route)
    assert tries.next_deadline() == 1.0
    assert tries.responded(0.4, 500) is Step.TRY
    assert tries.next_deadline() == 1.0
    assert tries.expired(1.0) is Step.DONE
    assert (tries.status, tries.cause) == (504, Cause.REQUEST_TIMEOUT)


def test_response_classes_decide_what_failed() -> None:
    classes = (ResponseClass(min=500, max=500, is_failure=False), ResponseClass(min=404, max=404, is_failure=True))
    route = profile(ProfileRoute(name="r", is_retryable=True, response_classes=classes)).match("GET", "/")
    assert exchange(route).responded(0.0, 500) is Step.DONE
    assert exchange(route).responded(0.0, 404) is Step.TRY


# ---- annotations


def test_limit_bounds_the_retries_of_each_request() -> None:
    tries = exchange(limited(limit=2))
    for attempt in (1, 2):
        assert tries.responded(0.0, 500) is Step.WAIT
        assert tries.attempts == attempt
        assert tries.resume(tries.resume_at) is Step.TRY
    assert tries.responded(0.0, 500) is Step.DONE
    assert tries.retry_denied


def test_backoff_between_tries_grows_from_its_minimum() -> None:
    route = limited(limit=3, backoff_jitter=0.0)
    tries = exchange(route)
    waits = []
    now = 0.0
    for _ in range(3):
        assert tries.responded(now, 500) is Step.WAIT
        waits.append(tries.resume_at - now)
        now = tries.resume_at
        tries.resume(now)
    assert waits == pytest.approx([0.025, 0.05, 0.1])


def test_statuses_outside_the_ranges_are_not_retried() -> None:
    assert exchange(limited()).responded(0.0, 429) is Step.DONE


@pytest.mark.parametrize("cause", list(Cause))
def test_of_the_causes_only_failfast_response_timeout_and_refused_streams_are_retried(cause: Cause) -> None:
    expected = Step.WAIT if cause in (Cause.FAILFAST, Cause.RESPONSE_TIMEOUT, Cause.REFUSED) else Step.DONE
    assert exchange(limited()).failed(0.0, cause) is expected


def test_try_timeout_does_not_apply_to_the_last_try() -> None:
    tries = exchange(limited(limit=1, timeout_seconds=0.1))
    assert tries.next_deadline() == pytest.approx(0.1)
    assert tries.expired(0.1) is Step.WAIT
    assert tries.resume(tries.resume_at) is Step.TRY
    assert tries.next_deadline() is None


def test_response_timeout_applies_to_every_try() -> None:
    route = policy(
        HttpRouteSpec(name="r", retry=RetrySpec(statuses=((500, 599),)), timeouts=TimeoutSpec(response_seconds=0.5))
    ).match("GET", "/")
    assert route is not None
    tries = exchange(route)
    assert tries.expired(0.5) is Step.WAIT
    tries.resume(1.0)
    assert tries.next_deadline() == pytest.approx(1.5)
    assert tries.expired(1.5) is Step.DONE
    assert (tries.status, tries.cause) == (504, Cause.RESPONSE_TIMEOUT)


def test_no_retry_is_begun_that_the_request_timeout_would_cut_off_before_it_starts() -> None:
    route = policy(
        HttpRouteSpec(
            name="r",
            retry=RetrySpec(statuses=((500, 599),), backoff_jitter=0.0),
            timeouts=TimeoutSpec(request_seconds=0.02),
        )
    ).match("GET", "/")
    assert exchange(route).responded(0.0, 503) is Step.DONE


def test_a_body_that_cannot_be_replayed_rules_out_retries_of_both_kinds() -> None:
    assert exchange(limited(), replayable=False).responded(0.0, 500) is Step.DONE
    route = profile(ProfileRoute(name="r", is_retryable=True)).match("GET", "/")
    assert exchange(route, replayable=False).responded(0.0, 500) is Step.DONE


@given(
    limit=st.integers(0, 5),
    statuses=st.lists(st.sampled_from([200, 404, 429, 500, 503]), min_size=10, max_size=10),
    seed=st.integers(0, 99),
)
def test_attempts_never_exceed_limit_plus_one(limit: int, statuses: list[int], seed: int) -> None:
    tries = Exchange(limited(limit=limit), 0.0, Random(seed))
    tries.begin(0.0)
    now = 0.0
    for status in statuses:
        step = tries.responded(now, status)
        if step is Step.DONE:
            break
        now = tries.resume_at
        tries.resume(now)
    assert tries.attempts <= limit + 1
    assert tries.status == statuses[tries.attempts - 1]


# ---- routes


def test_a_profile_switches_off_the_policy() -> None:
    rules = OutboundPolicy(
        version=1,
        published_at=0.0,
        authority="a",
        exists=True,
        routes=(HttpRouteSpec(name="r", retry=RetrySpec(statuses=((500, 599),))),),
    )
    exists = Profile(version=1, published_at=0.0, authority="a", exists=True, retry_budget=RetryBudgetSpec())
    router = build_router(exists, rules, 0.0)
    assert router.from_profile
    assert exchange(router.match("GET", "/")).responded(0.0, 500) is Step.DONE


@pytest.mark.parametrize(
    ("path", "name"),
    [("/cart", "cart"), ("/cart/1?x=/pay", "cart"), ("/cartoon", None), ("/pay?y=1", "pay"), ("/v2/x", "v")],
)
def test_first_matching_route_applies_and_the_query_takes_no_part(path: str, name: str | None) -> None:
    router = policy(
        HttpRouteSpec(name="cart", path_prefixes=("/cart",)),
        HttpRouteSpec(name="pay", path_exact=("/pay",)),
        HttpRouteSpec(name="v", path_regexes=("/v[0-9]/.*",)),
    )
    route = router.match("GET", path)
    assert (route.name if route is not None else None) == name


def test_profile_regexes_match_the_whole_path() -> None:
    router = profile(ProfileRoute(name="r", methods=("POST",), path_regexes=("/charge",)))
    assert router.match("POST", "/charge").name == "r"
    assert router.match("POST", "/charge/2").name == "default"
    assert router.match("GET", "/charge").name == "default"
