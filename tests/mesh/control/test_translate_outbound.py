"""Manifests → outbound policy and profile, and on to the route that a proxy takes."""

from __future__ import annotations

from random import Random
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.messages import (
    FailureAccrualSpec,
    LoadBiasSpec,
    OutboundPolicy,
    Profile,
    RetrySpec,
    SuccessRateSpec,
    decode_line,
    encode_line,
)
from mesh.api.resources import EgressNetwork, GRPCRoute, HTTPRoute, Service, ServiceProfile, TrafficSplit
from mesh.behavior.routes import NO_BACKEND, Route, build_router
from mesh.control.registry.lint import problems_of
from mesh.control.translate import outbound_policy_message, profile_message
from mesh.control.translate.annotations import (
    InvalidAnnotation,
    parse_failure_accrual,
    parse_load_bias,
    parse_retry,
)
from mesh.control.translate.egress import egress_policy_message, find_egress_network
from tests.mesh.control.builders import service

AUTHORITY = "cart.shop.svc.cluster.local:8080"
SERVICES = {("shop", "cart"), ("shop", "v2"), ("other", "far")}
T = TypeVar("T")
PARENT = "parentRefs: [{name: cart}]"


def http(text: str, name: str = "r", **metadata: object) -> HTTPRoute:
    """`text` is the rest of the spec."""
    meta = msgspec.json.encode({"name": name, "namespace": "shop", **metadata}).decode()
    return read(f"kind: HTTPRoute\nmetadata: {meta}\nspec:\n  {PARENT}\n{text}", HTTPRoute)


def grpc(text: str, name: str = "g", **metadata: object) -> GRPCRoute:
    meta = msgspec.json.encode({"name": name, "namespace": "shop", **metadata}).decode()
    return read(f"kind: GRPCRoute\nmetadata: {meta}\nspec:\n  {PARENT}\n{text}", GRPCRoute)


def read(text: str, kind: type[T]) -> T:
    return msgspec.convert(msgspec.yaml.decode(text), kind)


class Said(list[str]):
    def service(self, path: tuple[str | int, ...], message: str) -> None:
        self.append(".".join(map(str, path)))

    def route(self, route: HTTPRoute | GRPCRoute, path: tuple[str | int, ...], message: str) -> None:
        self.append(".".join(map(str, path)))


def policy(*routes: HTTPRoute | GRPCRoute, parent: Service | None = None, said: Said | None = None) -> OutboundPolicy:
    said = said if said is not None else Said()
    made = outbound_policy_message(
        AUTHORITY,
        parent or service(),
        [route for route in routes if isinstance(route, HTTPRoute)],
        1,
        0.0,
        said.service,
        said.route,
        grpc_routes=[route for route in routes if isinstance(route, GRPCRoute)],
        services=SERVICES,
    )
    assert decode_line(encode_line(made)) == made, "what is said arrives as it was said"
    return made


def route_for(
    made: OutboundPolicy,
    path: str = "/",
    method: str = "GET",
    headers: list[tuple[bytes, bytes]] | None = None,
    host: str = "cart",
) -> Route | None:
    profile = Profile(version=1, published_at=0.0, authority=AUTHORITY, exists=False)
    return build_router(profile, made, 0.0).match(method, path, headers or [], host)


def name_for(made: OutboundPolicy, *args: str, **kwargs: object) -> str | None:
    found = route_for(made, *args, **kwargs)  # type: ignore[arg-type]
    return found.name if found is not None else None


# ---- matches and precedence


def test_a_request_that_no_route_of_a_parent_matches_finds_none() -> None:
    made = policy(http("  rules: [{matches: [{path: {value: /a}}]}]"))
    assert name_for(made, "/a") == "r"
    assert name_for(made, "/b") is None
    assert name_for(policy(), "/b") == "http", "a Service without routes has one of its own"


def test_host_goes_before_path_path_before_method_method_before_headers_headers_before_query() -> None:
    made = policy(
        http("  rules: [{matches: [{path: {type: Exact, value: /a/b}}]}]", "path"),
        http("  hostnames: ['*.shop']\n  rules: [{}]", "wild-host"),
        http("  hostnames: [cart.shop]\n  rules: [{}]", "host"),
        http("  rules: [{matches: [{path: {value: /a}, method: GET}]}]", "method"),
        http(
            "  rules: [{matches: [{path: {value: /a}, headers: [{name: X, value: '1'}, {name: Y, value: '2'}]}]}]", "h2"
        ),
        http("  rules: [{matches: [{path: {value: /a}, headers: [{name: X, value: '1'}]}]}]", "h1"),
        http("  rules: [{matches: [{path: {value: /a}, queryParams: [{name: q, value: '1'}]}]}]", "query"),
        http("  rules: [{matches: [{path: {value: /a}}]}]", "prefix"),
    )
    x, y = (b"x", b"1"), (b"y", b"2")
    assert name_for(made, "/a/b", host="cart.shop:80") == "host"
    assert name_for(made, "/a/b", host="web.shop") == "wild-host"
    assert name_for(made, "/a/b") == "path"
    assert name_for(made, "/a/c", headers=[x, y]) == "method"
    assert name_for(made, "/a/c", "POST", headers=[x, y]) == "h2"
    assert name_for(made, "/a/c?q=1", "POST", headers=[x]) == "h1"
    assert name_for(made, "/a/c?q=1", "POST") == "query"
    assert name_for(made, "/a/c", "POST") == "prefix"


def test_among_equals_the_older_route_wins_then_the_first_by_name_then_the_first_rule() -> None:
    rule = "  rules: [{matches: [{path: {value: /a}}]}]"
    old = http(rule, "z-old", creationTimestamp="2024-01-01T00:00:00Z")
    new = http(rule, "a-new", creationTimestamp="2025-01-01T00:00:00Z")
    ageless, second = http(rule, "b"), http(rule, "c")
    assert name_for(policy(new, old, ageless, second), "/a") == "z-old"
    assert name_for(policy(second, new, ageless), "/a") == "a-new"
    assert name_for(policy(second, ageless), "/a") == "b"
    two = http("  rules: [{timeouts: {request: 1s}}, {timeouts: {request: 2s}}]")
    found = route_for(policy(two))
    assert found is not None
    assert found.request_timeout == 1.0


@given(order=st.permutations(range(5)))
def test_the_order_in_which_routes_are_known_does_not_matter(order: list[int]) -> None:
    routes = [
        http("  rules: [{matches: [{path: {value: /a}}, {path: {type: Exact, value: /b}}]}]", "p"),
        http("  hostnames: [cart]\n  rules: [{matches: [{method: POST}]}]", "q"),
        http("  rules: [{matches: [{path: {type: RegularExpression, value: '/[ab]'}}]}]", "s"),
        http("  rules: [{}]", "t"),
        http("  rules: [{matches: [{path: {value: /a/b}}]}]", "u"),
    ]
    assert policy(*(routes[i] for i in order)) == policy(*routes)


def test_grpc_routes_match_services_and_methods_and_leave_http_routes_out() -> None:
    made = policy(
        grpc("  rules: [{matches: [{method: {service: shop.Cart, method: Add}}]}]", "add"),
        grpc("  rules: [{matches: [{method: {service: shop.Cart}}]}]", "cart"),
        grpc("  rules: [{matches: [{method: {method: Health}}]}]", "health"),
        grpc("  rules: [{matches: [{method: {type: RegularExpression, service: 'shop\\..*'}}]}]", "regex"),
        grpc("  rules: [{matches: [{headers: [{name: X-QA, value: '1'}]}]}]", "qa"),
        http("  rules: [{}]"),
    )
    assert made.protocol == "http2"
    assert name_for(made, "/shop.Cart/Add", "POST") == "add"
    assert name_for(made, "/shop.Cart/Get", "POST") == "cart"
    assert name_for(made, "/x.Y/Health", "POST") == "health"
    assert name_for(made, "/shop.Pay/Do", "POST") == "regex"
    assert name_for(made, "/x.Y/Do", "POST", headers=[(b"x-qa", b"1")]) == "qa"
    assert name_for(made, "/x.Y/Do", "POST") is None
    found = route_for(made, "/shop.Cart/Add", "POST")
    assert found is not None
    assert found.is_grpc


# ---- backends and filters


def test_backends_are_authorities_with_weights_and_the_parent_is_itself() -> None:
    found = route_for(
        policy(
            http(
                "  rules: [{backendRefs: [{name: cart, port: 8080, weight: 99}, {name: v2, port: 80},"
                " {name: far, namespace: other, port: 1, weight: 0}]}]"
            )
        )
    )
    assert found is not None
    assert [(b.authority, b.weight) for b in found.backends] == [(None, 99), ("v2.shop.svc.cluster.local:80", 1)]


@pytest.mark.parametrize(
    ("ref", "field"),
    [
        ("{name: nobody, port: 80}", "name"),
        ("{name: v2}", "port"),
        ("{name: v2, port: 80, kind: Bucket, group: storage}", "kind"),
        ("{name: v2, port: 80, filters: [{type: Nothing}]}", "filters.0.type"),
    ],
)
def test_a_backend_that_cannot_be_used_answers_500_for_its_share_and_is_told(ref: str, field: str) -> None:
    said = Said()
    found = route_for(policy(http(f"  rules: [{{backendRefs: [{{name: v2, port: 80}}, {ref}]}}]"), said=said))
    assert found is not None
    assert [b.authority for b in found.backends] == ["v2.shop.svc.cluster.local:80", NO_BACKEND]
    assert said == [f"spec.rules.0.backendRefs.1.{field}"]


FILTERS = """\
  rules:
  - matches: [{path: {value: /old}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: '1'}], remove: [Cookie]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-B, value: '2'}]}}
    - {type: URLRewrite, urlRewrite: {hostname: v2.shop, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 5}}
    - type: RequestMirror
      requestMirror: {backendRef: {name: far, namespace: other, port: 80}, fraction: {numerator: 1, denominator: 1000}}
    - {type: HTTPFailureInjector, httpFailureInjector: {status: 503, ratio: {numerator: 0, denominator: 10}}}
"""


def test_filters_reach_the_route() -> None:
    found = route_for(policy(http(FILTERS)), "/old/x")
    assert found is not None
    filters = found.filters
    assert filters is not None
    sent = filters.request(b"/old/x?q", b"cart", [(b"cookie", b"c"), (b"x-a", b"0")])
    assert sent == (b"/new/x?q", b"v2.shop", [(b"x-a", b"1")])
    assert filters.response([]) == [(b"x-b", b"2")]
    assert [(m.authority, m.percent) for m in filters.mirrors] == [
        ("v2.shop.svc.cluster.local:80", 5.0),
        ("far.other.svc.cluster.local:80", 0.1),
    ]
    assert filters.failure(Random(0)) is None


def test_a_redirect_reaches_the_route() -> None:
    found = route_for(
        policy(
            http("  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]}]")
        )
    )
    assert found is not None
    assert found.filters is not None
    assert found.filters.redirect(b"http", b"cart:8080", b"/x") == (301, b"https://cart/x")


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ("[{filters: [{type: RequestRedirect}]}]", "filters.0"),
        ("[{filters: [{type: Redirect}]}]", "filters.0.type"),
        (
            "[{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}]",
            "filters.0.requestRedirect.statusCode",
        ),
        ("[{filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]}]", "filters.0.requestRedirect.scheme"),
        (
            "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: 'a b', value: x}]}}]}]",
            "filters.0.requestHeaderModifier.set.0.name",
        ),
        (
            '[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: "x\\ny"}]}}]}]',
            "filters.0.requestHeaderModifier.add.0.value",
        ),
        (
            "[{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite:"
            " {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}]",
            "filters.0.urlRewrite.path.type",
        ),
        (
            "[{filters: [{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}]}]",
            "filters.1.type",
        ),
        (
            "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 101}}]}]",
            "filters.0.requestMirror.percent",
        ),
        ("[{backendRefs: [{name: v2, port: 80, weight: -1}]}]", "backendRefs.0.weight"),
        ("[{matches: [{headers: [{name: a, value: b, type: Prefix}]}]}]", "matches.0.headers.0.type"),
        (
            "[{matches: [{queryParams: [{name: a, value: '(', type: RegularExpression}]}]}]",
            "matches.0.queryParams.0.value",
        ),
        ("[{matches: [{path: {value: a}}]}]", "matches.0.path.value"),
    ],
)
def test_a_wrong_part_leaves_its_whole_route_out_and_is_told(rules: str, field: str) -> None:
    said = Said()
    made = policy(http(f"  rules: {rules}"), http("  rules: [{}]", "good"), said=said)
    assert [route.name for route in made.routes] == ["good"]
    assert said == [f"spec.rules.0.{field}"]


# ---- annotations


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("http", RetrySpec(statuses=((500, 599),), limit=2)),
        ("grpc", RetrySpec(statuses=(), grpc_codes=(14, 4), limit=2)),
        ("both", RetrySpec(statuses=((500, 599),), grpc_codes=(14, 4), limit=2)),
    ],
)
def test_each_kind_of_route_reads_its_own_retry_condition(kind: str, expected: RetrySpec) -> None:
    annotations = {"http": "5xx", "grpc": "unavailable, deadline-exceeded", "limit": "2"}
    assert parse_retry({f"retry.linkerd.io/{k}": v for k, v in annotations.items()}, kind) == expected


def test_a_services_retries_are_inherited_by_kind() -> None:
    parent = service({"retry.linkerd.io/http": "5xx", "retry.linkerd.io/grpc": "unavailable"})
    assert policy(http("  rules: [{}]"), parent=parent).routes[0].retry == RetrySpec(statuses=((500, 599),))
    assert policy(grpc("  rules: [{}]"), parent=parent).routes[0].retry == RetrySpec(statuses=(), grpc_codes=(14,))
    own = policy(parent=parent).routes[0].retry
    assert own == RetrySpec(statuses=((500, 599),), grpc_codes=(14,))


def test_a_wrong_grpc_condition_spoils_not_the_http_one() -> None:
    said = Said()
    parent = service({"retry.linkerd.io/http": "5xx", "retry.linkerd.io/grpc": "unavailible"})
    assert policy(parent=parent, said=said).routes[0].retry == RetrySpec(statuses=((500, 599),))
    assert said == ["metadata.annotations.retry.linkerd.io/grpc"]


ALPHA = "balancer.alpha.linkerd.io"


def test_unified_failure_accrual_with_linkerds_defaults_and_with_values() -> None:
    mode = {"balancer.linkerd.io/failure-accrual": "unified"}
    assert parse_failure_accrual(mode) == FailureAccrualSpec(
        success_rate=SuccessRateSpec(threshold=0.8, window_seconds=10.0, min_requests=5)
    )
    assert parse_failure_accrual(
        mode
        | {
            f"{ALPHA}/failure-accrual-success-rate-threshold": "0.9",
            f"{ALPHA}/failure-accrual-success-rate-window": "30s",
            f"{ALPHA}/failure-accrual-success-rate-min-requests": "100",
            f"{ALPHA}/failure-accrual-honor-retry-after": "true",
            "balancer.linkerd.io/failure-accrual-consecutive-max-failures": "0",
        }
    ) == FailureAccrualSpec(
        max_failures=0,
        success_rate=SuccessRateSpec(threshold=0.9, window_seconds=30.0, min_requests=100),
        honor_retry_after=True,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", "1.1"), ("threshold", "nan"), ("window", "5ms"), ("window", "0s"), ("min-requests", "1000001")],
)
def test_wrong_success_rates_name_themselves(name: str, value: str) -> None:
    key = f"{ALPHA}/failure-accrual-success-rate-{name}"
    with pytest.raises(InvalidAnnotation) as error:
        parse_failure_accrual({"balancer.linkerd.io/failure-accrual": "unified", key: value})
    assert error.value.name == key


def test_the_load_bias_is_off_unless_asked_for() -> None:
    assert parse_load_bias({}) is None
    assert parse_load_bias({f"{ALPHA}/penalize-failures": "false", f"{ALPHA}/load-biaser-penalty": "1s"}) is None
    assert parse_load_bias({f"{ALPHA}/penalize-failures": " True "}) == LoadBiasSpec()
    assert parse_load_bias(
        {
            f"{ALPHA}/penalize-failures": "1",
            f"{ALPHA}/load-biaser-penalty": "2s",
            f"{ALPHA}/load-biaser-max-retry-after": "60s",
        }
    ) == LoadBiasSpec(penalty_seconds=2.0, max_retry_after_seconds=60.0)
    with pytest.raises(InvalidAnnotation):
        parse_load_bias({f"{ALPHA}/penalize-failures": "maybe"})


# ---- protocols


def parent_with(port: int, protocol: str | None = None, opaque: str | None = None) -> OutboundPolicy:
    annotations = {"config.linkerd.io/opaque-ports": opaque} if opaque is not None else {}
    made = service(annotations, port)
    ports = (msgspec.structs.replace(made.spec.ports[0], app_protocol=protocol),)
    changed = msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, ports=ports))
    return outbound_policy_message(f"cart.shop.svc.cluster.local:{port}", changed, (), 1, 0.0)


@pytest.mark.parametrize(
    ("port", "protocol", "opaque", "expected"),
    [
        (8080, None, None, "detect"),
        (8080, "http", None, "http1"),
        (8080, "kubernetes.io/h2c", None, "http2"),
        (8080, "linkerd.io/opaque", None, "opaque"),
        (8080, "linkerd.io/tcp", None, "opaque"),
        (8080, "mongo", None, "opaque"),
        (5432, None, None, "opaque"),
        (5432, None, "6000", "detect"),
        (5432, "http", None, "http1"),
        (8080, None, "80,8000-9000", "opaque"),
        (8080, "http", "8080", "http1"),
        (8080, None, "", "detect"),
    ],
)
def test_what_a_service_says_of_a_ports_protocol(
    port: int, protocol: str | None, opaque: str | None, expected: str
) -> None:
    assert parent_with(port, protocol, opaque).protocol == expected


# ---- profiles


PROFILE = "kind: ServiceProfile\nmetadata: {name: cart.shop.svc.cluster.local, namespace: shop}\nspec:\n"
SPLIT = "kind: TrafficSplit\nmetadata: {name: split, namespace: shop}\nspec:\n  service: cart\n"


def profiled(text: str | None, split: str | None = None, said: Said | None = None) -> Profile:
    said = said if said is not None else Said()
    return profile_message(
        AUTHORITY,
        read(PROFILE + text, ServiceProfile) if text is not None else None,
        1,
        0.0,
        said.service,
        read(SPLIT + split, TrafficSplit) if split is not None else None,
        said.service,
    )


def overrides(profile: Profile) -> list[tuple[str, int]]:
    return [(o.authority, o.weight) for o in profile.dst_overrides]


def test_dst_overrides_take_the_port_of_the_authority_and_weights_are_quantities() -> None:
    made = profiled(
        "  dstOverrides:\n"
        "  - {authority: cart.shop.svc.cluster.local, weight: 900m}\n"
        "  - {authority: 'v2.shop.svc.cluster.local:9090', weight: 0.1}\n"
        "  - {authority: v3.shop.svc.cluster.local., weight: 2}\n"
    )
    assert overrides(made) == [
        ("cart.shop.svc.cluster.local:8080", 900),
        ("v2.shop.svc.cluster.local:9090", 100),
        ("v3.shop.svc.cluster.local:8080", 2000),
    ]


@pytest.mark.parametrize("weight", ["'x'", "-1", ".nan", "''"])
def test_a_wrong_weight_is_told_and_left_out(weight: str) -> None:
    said = Said()
    made = profiled(f"  dstOverrides: [{{authority: v2, weight: {weight}}}]", said=said)
    assert made.dst_overrides == ()
    assert said == ["spec.dstOverrides.0.weight"]


def test_a_traffic_split_makes_a_profile_where_there_is_none() -> None:
    made = profiled(None, "  backends: [{service: cart, weight: 90}, {service: v2, weight: 10}]")
    assert made.exists
    assert overrides(made) == [(AUTHORITY, 90_000), ("v2.shop.svc.cluster.local:8080", 10_000)]
    found = build_router(made, policy(), 0.0).match("GET", "/")
    assert found is not None
    assert [b.authority for b in found.backends] == [None, "v2.shop.svc.cluster.local:8080"]


def test_a_traffic_split_replaces_a_profiles_overrides_and_keeps_its_routes() -> None:
    made = profiled(
        "  routes: [{name: r, condition: {method: GET}}]\n  dstOverrides: [{authority: v9, weight: 1}]",
        "  backends: [{service: v2, weight: 500m}]",
    )
    assert [route.name for route in made.routes] == ["r"]
    assert overrides(made) == [("v2.shop.svc.cluster.local:8080", 500)]


def test_opaque_ports_of_a_profile() -> None:
    assert profiled("  opaquePorts: ['8080']").opaque
    assert not profiled("  opaquePorts: [9090]").opaque


def test_conditions_of_response_classes_nest() -> None:
    made = profiled(
        "  routes:\n  - name: r\n    condition: {method: GET}\n    responseClasses:\n"
        "    - isFailure: true\n"
        "      condition: {all: [{status: {min: 400, max: 599}}, {not: {any: [{status: {min: 404, max: 404}},"
        " {status: {min: 429, max: 499}}]}}]}\n"
    )
    (route,) = made.routes
    assert [(c.min, c.max) for c in route.response_classes] == [(400, 403), (405, 428), (500, 599)]


# ---- egress


def network(name: str, namespace: str, policy: str = "Allow", networks: str = "", **metadata: object) -> EgressNetwork:
    meta = msgspec.json.encode({"name": name, "namespace": namespace, **metadata}).decode()
    text = f"kind: EgressNetwork\nmetadata: {meta}\nspec:\n  trafficPolicy: {policy}\n"
    return read(text + (f"  networks: {networks}\n" if networks else ""), EgressNetwork)


CLUSTER = ("10.0.0.0/8", "fd00::/8")


def found_in(networks: list[EgressNetwork], address: str, namespace: str = "shop") -> str | None:
    found = find_egress_network(networks, address, namespace, CLUSTER)
    return found.metadata.name if found is not None else None


def test_an_egress_network_covers_what_is_not_the_clusters() -> None:
    everything = [network("all", "linkerd-egress")]
    assert found_in(everything, "198.51.100.1") == "all"
    assert found_in(everything, "2001:db8::1") == "all"
    assert found_in(everything, "10.1.2.3") is None
    assert found_in(everything, "fd00::1") is None


def test_the_smallest_block_wins_then_the_older_then_the_first_by_name() -> None:
    wide, narrow = "[{cidr: 198.51.0.0/16}]", "[{cidr: 198.51.100.0/24, except: [198.51.100.9]}]"
    networks = [network("wide", "linkerd-egress", networks=wide), network("narrow", "linkerd-egress", networks=narrow)]
    assert found_in(networks, "198.51.100.1") == "narrow"
    assert found_in(networks, "198.51.100.9") == "wide"
    old = network("z", "linkerd-egress", networks=wide, creationTimestamp="2020-01-01T00:00:00Z")
    new = network("a", "linkerd-egress", networks=wide, creationTimestamp="2021-01-01T00:00:00Z")
    assert found_in([new, old], "198.51.100.1") == "z"
    assert found_in([network("b", "linkerd-egress"), network("a", "linkerd-egress")], "198.51.100.1") == "a"


def test_networks_of_the_clients_namespace_alone_count_where_there_are_any() -> None:
    own = network("own", "shop", networks="[{cidr: 203.0.113.0/24}]")
    networks = [own, network("global", "linkerd-egress"), network("foreign", "web")]
    assert found_in(networks, "203.0.113.1") == "own"
    assert found_in(networks, "198.51.100.1") is None
    assert found_in(networks, "198.51.100.1", "other") == "global"


def test_a_denying_network_answers_403_but_for_what_its_routes_allow() -> None:
    allowed = http("  hostnames: [api.example.com]\n  rules: [{}]", "api")
    made = egress_policy_message("198.51.100.1:80", network("n", "shop", "Deny"), [allowed], 1, 0.0)
    assert made.egress == "deny"
    assert name_for(made, "/", host="api.example.com") == "api"
    denied = route_for(made, "/", host="evil.example.com")
    assert denied is not None
    assert denied.filters is not None
    assert denied.filters.failure(Random(0)) == 403


def test_a_networks_route_may_name_it_as_its_backend() -> None:
    itself = "group: policy.linkerd.io, kind: EgressNetwork"
    text = (
        "kind: HTTPRoute\nmetadata: {name: api, namespace: shop}\nspec:\n"
        f"  parentRefs: [{{{itself}, name: n}}]\n"
        f"  rules: [{{backendRefs: [{{{itself}, name: n}}, {{{itself}, name: other}}]}}]\n"
    )
    route, told = read(text, HTTPRoute), []
    made = egress_policy_message(
        "198.51.100.1:80",
        network("n", "shop", "Deny"),
        [route],
        1,
        0.0,
        complain_route=lambda _, path, message: told.append(message),
    )
    assert [backend.authority for backend in made.routes[0].backends] == ["198.51.100.1:80", ""]
    assert told == ["an EgressNetwork can be the backend only of its own routes"]
    assert [problem.message for problem in problems_of(route) if problem.fatal] == told


def test_an_allowing_network_forwards_with_its_own_timeouts() -> None:
    annotated = network("n", "shop", annotations={"timeout.linkerd.io/request": "3s"})
    made = egress_policy_message("198.51.100.1:80", annotated, [], 1, 0.0)
    assert made.egress == "allow"
    found = route_for(made)
    assert found is not None
    assert (found.filters, found.request_timeout) == (None, 3.0)
