"""Resources → messages, as tables; the expected values are Linkerd's."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.messages import FailureAccrualSpec, RetryBudgetSpec, RetrySpec, TimeoutSpec
from mesh.api.resources import (
    HTTPRoute,
    HTTPRouteSpec,
    Metadata,
    Namespace,
    ParentRef,
    PathMatch,
    PathOrMethod,
    Pod,
    RouteMatch,
    RouteRule,
    RouteTimeouts,
    ServiceProfile,
)
from mesh.behavior.routes import build_router
from mesh.control.translate import inbound_policy_message, outbound_policy_message, profile_message
from mesh.control.translate.annotations import InvalidAnnotation, parse_failure_accrual, parse_retry, parse_timeouts
from tests.mesh.control.builders import route, service

AUTHORITY = "cart.shop.svc.cluster.local:8080"

# ---- annotations


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, None),
        ({"http": "5xx"}, RetrySpec(statuses=((500, 599),))),
        ({"http": "gateway-error"}, RetrySpec(statuses=((502, 504),))),
        ({"http": "503"}, RetrySpec(statuses=((503, 503),))),
        ({"http": "429, 500-504,5xx"}, RetrySpec(statuses=((429, 429), (500, 504), (500, 599)))),
        ({"http": "5xx", "limit": "3"}, RetrySpec(statuses=((500, 599),), limit=3)),
        ({"http": "5xx", "limit": "0"}, RetrySpec(statuses=((500, 599),), limit=1)),
        ({"http": "5xx", "timeout": "300ms"}, RetrySpec(statuses=((500, 599),), timeout_seconds=0.3)),
        ({"limit": "2"}, RetrySpec(statuses=(), limit=2)),
        ({"limit": "0"}, None),
        ({"timeout": "0s"}, None),
    ],
)
def test_retry_annotations(annotations: dict[str, str], expected: RetrySpec | None) -> None:
    assert parse_retry({f"retry.linkerd.io/{name}": value for name, value in annotations.items()}) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("http", ""),
        ("http", "5xy"),
        ("http", "504-500"),
        ("http", "99"),
        ("http", "600"),
        ("http", "500-"),
        ("http", "²00"),
        ("limit", "-1"),
        ("limit", "many"),
        ("limit", "65536"),
        ("timeout", "300"),
        ("timeout", "-3s"),
    ],
)
def test_wrong_retry_annotations_name_themselves(name: str, value: str) -> None:
    with pytest.raises(InvalidAnnotation) as error:
        parse_retry({f"retry.linkerd.io/{name}": value})
    assert error.value.name == f"retry.linkerd.io/{name}"


def test_timeouts_of_zero_are_none() -> None:
    prefix = "timeout.linkerd.io/"
    assert parse_timeouts({f"{prefix}request": "2s", f"{prefix}response": "0s"}) == TimeoutSpec(request_seconds=2.0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, FailureAccrualSpec(max_failures=7, min_penalty_seconds=1, max_penalty_seconds=60, jitter_ratio=0.5)),
        ({"max-failures": "3"}, FailureAccrualSpec(max_failures=3)),
        (
            {"min-penalty": "5s", "max-penalty": "10s"},
            FailureAccrualSpec(min_penalty_seconds=5, max_penalty_seconds=10),
        ),
        ({"jitter-ratio": "0"}, FailureAccrualSpec(jitter_ratio=0.0)),
    ],
)
def test_failure_accrual(settings: dict[str, str], expected: FailureAccrualSpec) -> None:
    base = "balancer.linkerd.io/failure-accrual"
    annotations = {base: "consecutive"} | {f"{base}-consecutive-{k}": v for k, v in settings.items()}
    assert parse_failure_accrual(annotations) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"max-failures": "0"},
        {"min-penalty": "2m"},
        {"max-penalty": "100ms"},
        {"jitter-ratio": "nan"},
        {"min-penalty": "0s"},
    ],
)
def test_wrong_failure_accrual(settings: dict[str, str]) -> None:
    base = "balancer.linkerd.io/failure-accrual"
    with pytest.raises(InvalidAnnotation):
        parse_failure_accrual({base: "consecutive"} | {f"{base}-consecutive-{k}": v for k, v in settings.items()})


# ---- outbound policy


def _policy(*routes: HTTPRoute, annotations: dict[str, str] | None = None):
    return outbound_policy_message(AUTHORITY, service(annotations), routes, 1, 0.0)


def _match(path: str | None = None, kind: str = "PathPrefix", method: str | None = None) -> RouteMatch:
    return RouteMatch(path=PathMatch(type=kind, value=path) if path is not None else None, method=method)


def test_an_unknown_service_has_a_policy_that_says_so() -> None:
    assert not outbound_policy_message(AUTHORITY, None, (), 1, 0.0).exists


def test_the_most_specific_match_comes_first() -> None:
    policy = _policy(
        route("prefix-short", _match("/a")),
        route("prefix-long", _match("/a/b")),
        route("prefix-long-get", _match("/a/b", method="GET")),
        route("regex", _match("/a/.*", "RegularExpression")),
        route("exact", _match("/a/b", "Exact")),
        route("method-only", _match(method="POST")),
    )
    names = [r.name for r in policy.routes]
    assert names == ["exact", "regex", "prefix-long-get", "prefix-long", "prefix-short", "method-only"]


def test_a_routes_own_retries_win_as_a_group_over_the_services() -> None:
    policy = _policy(
        route("own", _match("/own"), annotations={"retry.linkerd.io/limit": "5"}),
        route("bare", _match("/bare")),
        annotations={"retry.linkerd.io/http": "5xx", "timeout.linkerd.io/request": "1s"},
    )
    by_name = {r.name: r for r in policy.routes}
    assert set(by_name) == {"own", "bare"}, "a Service with routes of its own has no default route"
    assert by_name["own"].retry == RetrySpec(statuses=(), limit=5)
    assert by_name["own"].timeouts.request_seconds == 1.0
    assert by_name["bare"].retry == RetrySpec(statuses=((500, 599),))


def test_a_wrong_annotation_spoils_its_group_on_a_service_and_the_whole_of_a_route() -> None:
    said: list[str] = []
    policy = outbound_policy_message(
        AUTHORITY,
        service({"retry.linkerd.io/http": "5xx", "retry.linkerd.io/limit": "x", "timeout.linkerd.io/request": "1s"}),
        [route("bad", _match("/bad"), annotations={"timeout.linkerd.io/request": "soon"}), route("good", _match("/g"))],
        1,
        0.0,
        lambda path, message: said.append(str(path[-1])),
        lambda found, path, message: said.append(f"{found.metadata.name} {path[-1]}"),
    )
    assert [r.name for r in policy.routes] == ["good"]
    assert policy.routes[-1].retry is None
    assert policy.routes[-1].timeouts.request_seconds == 1.0
    assert said == ["retry.linkerd.io/limit", "bad timeout.linkerd.io/request"]


def test_a_rules_timeouts_apply_where_no_annotation_does() -> None:
    ruled = HTTPRoute(
        metadata=Metadata(name="r", namespace="shop"),
        spec=HTTPRouteSpec(
            parent_refs=(ParentRef(name="cart"),),
            rules=(RouteRule(timeouts=RouteTimeouts(request="3s", backend_request="1s")),),
        ),
    )
    assert _policy(ruled).routes[0].timeouts == TimeoutSpec(request_seconds=3.0, response_seconds=1.0)


def test_failure_accrual_of_a_route_wins_over_the_services() -> None:
    base = "balancer.linkerd.io/failure-accrual"
    policy = _policy(
        route("r", _match("/"), annotations={base: "consecutive", f"{base}-consecutive-max-failures": "2"}),
        annotations={base: "consecutive"},
    )
    assert policy.failure_accrual == FailureAccrualSpec(max_failures=2)


# ---- profiles


def _profile(text: str):
    resource = msgspec.convert(msgspec.yaml.decode(text), ServiceProfile)
    said: list[tuple[object, ...]] = []
    message = profile_message(AUTHORITY, resource, 1, 0.0, lambda path, problem: said.append((*path, problem)))
    return message, said


HEAD = "kind: ServiceProfile\nmetadata: {name: cart.shop.svc.cluster.local, namespace: shop}\nspec:\n"


def test_no_profile_is_said_as_such() -> None:
    message = profile_message(AUTHORITY, None, 3, 4.0)
    assert (message.exists, message.routes, message.retry_budget) == (False, (), None)


def test_a_profile_without_budget_gets_linkerds_default() -> None:
    message, said = _profile(HEAD + "  routes: [{name: r, condition: {pathRegex: /a}, isRetryable: true}]")
    assert message.retry_budget == RetryBudgetSpec(retry_ratio=0.2, min_retries_per_second=10, ttl_seconds=10.0)
    assert said == []


def test_routes_carry_retryability_timeout_and_response_classes() -> None:
    message, said = _profile(
        HEAD + "  routes:\n"
        "  - name: charge\n"
        "    condition: {all: [{method: POST}, {pathRegex: /charge}]}\n"
        "    isRetryable: true\n"
        "    timeout: 250ms\n"
        "    responseClasses: [{condition: {status: {min: 429, max: 429}}, isFailure: true}]\n"
        "  retryBudget: {retryRatio: 0.5, minRetriesPerSecond: 1, ttl: 30s}\n"
    )
    (charge,) = message.routes
    assert (charge.methods, charge.path_regexes) == (("POST",), ("/charge",))
    assert (charge.is_retryable, charge.timeout_seconds) == (True, 0.25)
    assert [(c.min, c.max, c.is_failure) for c in charge.response_classes] == [(429, 429, True)]
    assert message.retry_budget == RetryBudgetSpec(retry_ratio=0.5, min_retries_per_second=1, ttl_seconds=30.0)
    assert said == []


def test_a_route_whose_condition_cannot_be_used_is_left_out_and_named() -> None:
    message, said = _profile(
        HEAD + "  routes: [{name: a, condition: {pathRegex: '['}}, {name: b, condition: {method: GET}}]"
    )
    assert [r.name for r in message.routes] == ["b"]
    assert said[0][:-1] == ("spec", "routes", 0, "condition", "pathRegex")


_LEAVES = st.one_of(
    st.sampled_from(["GET", "POST", "DELETE"]).map(lambda m: PathOrMethod(method=m)),
    st.sampled_from(["/a", "/a/.*", "/b|/c", "/[ab]"]).map(lambda p: PathOrMethod(path_regex=p)),
)
CONDITIONS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2).map(lambda m: PathOrMethod(all=tuple(m))),
        st.lists(inner, min_size=1, max_size=2).map(lambda m: PathOrMethod(any=tuple(m))),
        inner.map(lambda m: PathOrMethod(not_=m)),
        st.tuples(_LEAVES, inner).map(lambda p: msgspec.structs.replace(p[0], not_=p[1])),
    ),
    max_leaves=4,
)


def _holds(condition: PathOrMethod, method: str, path: str) -> bool:
    """The condition's meaning, evaluated as it is written."""
    parts = []
    if condition.all is not None:
        parts.append(all(_holds(c, method, path) for c in condition.all))
    if condition.any is not None:
        parts.append(any(_holds(c, method, path) for c in condition.any))
    if condition.method is not None:
        parts.append(condition.method == method)
    if condition.path_regex is not None:
        parts.append(re.fullmatch(condition.path_regex, path) is not None)
    if condition.not_ is not None:
        parts.append(not _holds(condition.not_, method, path))
    return all(parts)


@given(condition=CONDITIONS)
def test_a_rewritten_condition_means_what_was_written(condition: PathOrMethod) -> None:
    resource = ServiceProfile(
        metadata=Metadata(name="cart.shop.svc.cluster.local", namespace="shop"),
        spec=msgspec.convert({"routes": [{"name": "r", "condition": msgspec.to_builtins(condition)}]}, _SPEC),
    )
    policy = outbound_policy_message(AUTHORITY, service(), (), 1, 0.0)
    router = build_router(profile_message(AUTHORITY, resource, 1, 0.0), policy, 0.0)
    for method in ("GET", "POST", "DELETE", "PUT"):
        for path in ("/a", "/a/", "/a/x", "/b", "/c", "/d"):
            assert (router.match(method, path).name == "r") == _holds(condition, method, path), (method, path)


_SPEC = ServiceProfile.__annotations__ and type(
    msgspec.convert({"kind": "ServiceProfile", "metadata": {"name": "x"}, "spec": {}}, ServiceProfile).spec
)


# ---- inbound


@pytest.mark.parametrize(
    ("pod", "namespace", "expected"),
    [
        (None, None, "all-unauthenticated"),
        ("deny", None, "deny"),
        (None, "cluster-authenticated", "cluster-authenticated"),
        ("audit", "deny", "audit"),
        ("dany", "deny", "deny"),
    ],
)
def test_the_pods_inbound_policy_goes_before_its_namespaces(
    pod: str | None, namespace: str | None, expected: str
) -> None:
    def metadata(name: str, value: str | None) -> Metadata:
        key = "config.linkerd.io/default-inbound-policy"
        return Metadata(name=name, annotations={key: value} if value is not None else {})

    message = inbound_policy_message(
        Pod(metadata=metadata("cart-0", pod)), Namespace(metadata=metadata("shop", namespace)), 1, 0.0
    )
    assert message.default_policy == expected
