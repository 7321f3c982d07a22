"""What gRPC statuses, refused streams and both retry models make of a try."""

from __future__ import annotations

from random import Random

import pytest

from mesh.api.messages import (
    HttpRouteSpec,
    OutboundPolicy,
    Profile,
    ProfileRoute,
    RetryBudgetSpec,
    RetrySpec,
    TimeoutSpec,
)
from mesh.behavior.exchange import Exchange, Step
from mesh.behavior.outcome import STATUS_OF, Cause, is_failure
from mesh.behavior.routes import Route, build_router


def limited(**fields: object) -> Route:
    retry = RetrySpec(**{"statuses": (), **fields})  # type: ignore[arg-type]
    policy = OutboundPolicy(
        version=1,
        published_at=0.0,
        authority="a:80",
        exists=True,
        routes=(HttpRouteSpec(name="r", kind="grpc", retry=retry, timeouts=TimeoutSpec(idle_seconds=3.0)),),
    )
    route = build_router(Profile(version=1, published_at=0.0, authority="a:80", exists=False), policy, 0.0).only
    assert route is not None
    return route


def budgeted() -> Route:
    profile = Profile(
        version=1,
        published_at=0.0,
        authority="a:80",
        exists=True,
        routes=(ProfileRoute(name="p", is_retryable=True),),
        retry_budget=RetryBudgetSpec(),
    )
    route = build_router(
        profile, OutboundPolicy(version=1, published_at=0.0, authority="a:80", exists=True), 0.0
    ).match("GET", "/")
    assert route is not None
    return route


def begun(route: Route) -> Exchange:
    made = Exchange(route, 0.0, Random(1))
    made.begin(0.0)
    return made


@pytest.mark.parametrize(("code", "failure"), [(c, c in (2, 4, 7, 13, 14, 15)) for c in range(17)])
def test_grpc_codes_that_fail(code: int, failure: bool) -> None:
    assert is_failure(200, code) is failure
    assert limited().failed(200, code) is failure


def test_an_http_failure_is_one_whatever_the_grpc_status() -> None:
    assert limited().failed(503, 0)
    assert not limited().failed(429)


def test_listed_grpc_codes_are_retried_and_others_are_not() -> None:
    route = limited(grpc_codes=(14, 8))
    assert begun(route).responded(0.0, 200, 14) is Step.WAIT
    assert begun(route).responded(0.0, 200, 8) is Step.WAIT
    assert begun(route).responded(0.0, 200, 13) is Step.DONE
    assert begun(route).responded(0.0, 200, 0) is Step.DONE
    assert begun(route).responded(0.0, 503) is Step.DONE, "statuses were not asked for"


def test_a_refused_stream_is_retried_within_the_limit() -> None:
    tries = begun(limited(limit=1))
    assert tries.failed(0.0, Cause.REFUSED) is Step.WAIT
    tries.resume(tries.resume_at)
    assert tries.failed(tries.resume_at, Cause.REFUSED) is Step.DONE
    assert (tries.status, tries.retry_denied) == (STATUS_OF[Cause.REFUSED], True)


def test_a_profile_retries_grpc_failures_from_trailers_and_no_refused_stream() -> None:
    assert begun(budgeted()).responded(0.0, 200, 14) is Step.TRY
    assert begun(budgeted()).responded(0.0, 200, 5) is Step.DONE
    assert begun(budgeted()).failed(0.0, Cause.REFUSED) is Step.DONE


def test_only_routes_that_may_retry_a_grpc_status_hold_answers_for_their_trailers() -> None:
    assert limited(grpc_codes=(14,)).reads_trailers
    assert budgeted().reads_trailers
    assert not limited(statuses=((500, 599),)).reads_trailers
    assert not Route("r").reads_trailers


def test_a_route_carries_its_idle_timeout_and_kind() -> None:
    assert (limited().idle_timeout, limited().is_grpc) == (3.0, True)
