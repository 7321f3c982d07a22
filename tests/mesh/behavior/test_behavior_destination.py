"""What discovery says becomes a router and a backend, and changes them in place."""

from __future__ import annotations

from random import Random

from mesh.api.messages import (
    Endpoint,
    Endpoints,
    EndpointsChange,
    FailureAccrualSpec,
    NotFound,
    OutboundPolicy,
    Profile,
    ProfileRoute,
    QueueSpec,
    RetryBudgetSpec,
)
from mesh.behavior.backend import BackendSettings, EndpointState
from mesh.behavior.destination import Destination
from mesh.behavior.outcome import Cause


class Silent:
    """A driver nobody asks anything of in these tests."""

    def connect(self, endpoint: EndpointState[str, int]) -> None: ...
    def send(self, ticket: str, endpoint: EndpointState[str, int], connection: int) -> None: ...
    def refuse(self, ticket: str, cause: Cause) -> None: ...
    def close(self, connection: int) -> None: ...


def endpoint(address: str) -> Endpoint:
    return Endpoint(address=address, pod=address, namespace="n", identity="id")


def profile(version: int = 1, **fields: object) -> Profile:
    return Profile(version=version, published_at=float(version), authority="a", **{"exists": False, **fields})  # type: ignore[arg-type]


def policy(version: int = 1, **fields: object) -> OutboundPolicy:
    return OutboundPolicy(version=version, published_at=float(version), authority="a", exists=True, **fields)  # type: ignore[arg-type]


def endpoints(*addresses: str) -> Endpoints:
    return Endpoints(version=1, published_at=0.0, endpoints=tuple(endpoint(a) for a in addresses))


def known(*addresses: str) -> Destination[str, int]:
    made: Destination[str, int] = Destination("a", BackendSettings(), Silent(), Random(0))
    for message in (endpoints(*addresses), profile(), policy()):
        made.apply(0.0, message)
    return made


def test_usable_only_when_all_three_were_heard() -> None:
    made: Destination[str, int] = Destination("a", BackendSettings(), Silent(), Random(0))
    for message, usable in ((endpoints("x"), False), (policy(), False), (profile(), True)):
        made.apply(0.0, message)
        assert made.usable is usable


def test_changes_add_and_remove_endpoints() -> None:
    made = known("x", "y")
    made.apply(1.0, EndpointsChange(version=2, published_at=1.0, add=(endpoint("z"),), remove=("x",)))
    assert made.backend is not None
    assert set(made.backend.endpoints) == {"y", "z"}


def test_the_same_rules_in_a_new_version_keep_the_router_and_its_budget() -> None:
    made = known("x")
    router = made.router
    made.apply(1.0, profile(version=7))
    made.apply(1.0, policy(version=8))
    assert made.router is router


def test_a_profile_that_appears_replaces_the_router_and_switches_the_breakers_off() -> None:
    made = known("x")
    made.apply(1.0, policy(version=2, failure_accrual=FailureAccrualSpec()))
    assert made.backend is not None
    assert made.backend.endpoints["x"].accrual is not None
    routes = (ProfileRoute(name="r", is_retryable=True),)
    made.apply(2.0, profile(version=3, exists=True, routes=routes, retry_budget=RetryBudgetSpec()))
    assert made.router is not None
    assert made.router.from_profile
    assert made.backend.endpoints["x"].accrual is None


def test_a_changed_queue_reaches_the_running_backend_and_endpoints_keep_their_state() -> None:
    made = known()
    assert made.backend is not None
    backend = made.backend
    made.apply(1.0, policy(version=2, queue=QueueSpec(capacity=1, failfast_seconds=0.5)))
    assert made.backend is backend
    backend.dispatch(1.0, "t")
    assert backend.next_timer() == 1.5


def test_not_found_is_taken_back_by_the_next_snapshot() -> None:
    made = known("x")
    made.apply(1.0, NotFound(version=2, published_at=1.0, authority="a"))
    assert made.not_found
    made.apply(2.0, endpoints("x"))
    assert not made.not_found
