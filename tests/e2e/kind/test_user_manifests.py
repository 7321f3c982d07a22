"""A user's own manifests, as they stand in Linkerd's and the Gateway API's documentation: applied, and seen in effect.

Every effect is looked for before the manifest is applied (it must not be there), after, and once more when the manifest
is gone. How long each took is measured and printed by the last test but one; the last measures the propagation itself
(M8) at 200 endpoints, from the proxy's own histogram.
"""

from __future__ import annotations

import itertools
import math
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mesh.deploy.crds.routes import gateway_routes
from mesh.deploy.paths import CRD, RequestFailed, request
from mesh.kube.client import connect
from tests.e2e.kind.manifest_shop import (
    OUTSIDE,
    SHOP,
    SUFFIX,
    Manifest,
    Shop,
    eventually,
    manifest,
    policy,
)

pytestmark = [pytest.mark.kind, pytest.mark.e2e, pytest.mark.timeout(600)]

PARENT = {"name": "web", "kind": "Service", "group": "core", "port": 80}
V1, V2 = {"name": "web-v1", "port": 80}, {"name": "web-v2", "port": 80}
POLICY_ROUTES, GATEWAY_ROUTES = "policy.linkerd.io/v1beta3", "gateway.networking.k8s.io/v1"
each_group = pytest.mark.parametrize("api", [POLICY_ROUTES, GATEWAY_ROUTES])


@pytest.fixture(scope="module")
def gateway_api(kind_mesh: str, kind_kubeconfig: str) -> Iterator[None]:
    """The Gateway API's CRDs, where the cluster has none."""
    client = connect(kind_mesh, kind_kubeconfig)
    made = []
    for definition in gateway_routes():
        try:
            request(client, "POST", CRD.path(), json=definition)
            made.append(definition)
        except RequestFailed as error:
            if error.status != 409:
                raise
    try:
        yield
    finally:
        for definition in made:
            request(client, "DELETE", CRD.path(None, definition["metadata"]["name"]))
        client.close()


@pytest.fixture(scope="module")
def shop(kind_mesh: str, kind_kubeconfig: str, kind_images: str, gateway_api: None) -> Iterator[Shop]:
    with Shop(kind_mesh, kind_kubeconfig).open(kind_images) as shop:
        # The control plane looks for CRDs that came after it every half minute.
        for route in (http_route(GATEWAY_ROUTES, {"backendRefs": [V1]}, name="first"), grpc_route()):
            eventually(lambda route=route: _applied(shop, route), 30)  # type: ignore[misc]
            eventually(lambda route=route: bool(conditions(shop, route)), 60)  # type: ignore[misc]
            shop.delete(route)
        yield shop


def _applied(shop: Shop, one: Manifest) -> bool:
    try:
        shop.apply(one)
    except RequestFailed as error:
        if error.status == 404:  # the API server serves a new kind a moment after it took its definition
            return False
        raise
    return True


def http_route(api: str, *rules: dict[str, Any], name: str = "web", parent: Any = PARENT) -> Manifest:
    return manifest(api, "HTTPRoute", name, spec={"parentRefs": [parent], "rules": list(rules)})


def grpc_route(**spec: Any) -> Manifest:
    spec = {"parentRefs": [PARENT | {"port": 9000}], **spec}
    return manifest(GATEWAY_ROUTES, "GRPCRoute", "greeter", spec=spec)


def conditions(shop: Shop, route: Manifest) -> dict[str, str]:
    """Condition → `status reason`, as the mesh's controller wrote them."""
    parents = shop.get(route).get("status", {}).get("parents", [])
    ours = [one for one in parents if one["controllerName"] == "linkerd.io/policy-controller"]
    return {one["type"]: f"{one['status']} {one['reason']}" for parent in ours for one in parent["conditions"]}


def flaky(times: int) -> str:
    """The path of a request whose first so many tries fail."""
    return f"/flaky/{uuid.uuid4().hex}/{times}"


# ---- outbound: ServiceProfile


def test_a_service_profiles_route_is_retried_within_its_budget_and_counted(shop: Shop) -> None:
    budget = {"retryRatio": 0.2, "minRetriesPerSecond": 1, "ttl": "10s"}
    condition = {"method": "GET", "pathRegex": "/flaky/.*"}
    routes = [{"name": "flaky", "condition": condition, "isRetryable": True}]
    name = f"web.{SHOP}.svc.cluster.local"
    profile = manifest("linkerd.io/v1alpha2", "ServiceProfile", name, spec={"routes": routes, "retryBudget": budget})
    with shop.in_effect("ServiceProfile", lambda: shop.client.status(flaky(1)) == 200, profile):
        before = shop.client.metric("route_request_total", 'rt_route="flaky"')
        assert all(shop.client.status(flaky(0)) == 200 for _ in range(100))
        saved = sum(shop.client.status(flaky(1)) == 200 for _ in range(80))
        assert shop.client.metric("route_request_total", 'rt_route="flaky"') == before + 180
        assert 20 <= saved <= 50, "a fifth of what succeeded, and ten more"
        assert shop.client.metric("route_retryable_total", 'rt_route="flaky"') >= saved
        assert shop.client.status(flaky(1), method="POST") == 503


# ---- outbound: routes


@each_group
def test_weights_split_requests(shop: Shop, api: str) -> None:
    both = [V1 | {"weight": 90}, V2 | {"weight": 10}]

    def to_v2(count: int) -> int:
        return sum(answer.version == "v2" for answer in shop.client.http(count=count))

    route = http_route(api, {"backendRefs": both})
    with shop.in_effect(f"HTTPRoute {api}: weights 90/10", lambda: to_v2(60) > 0, route):
        assert 0.05 <= to_v2(600) / 600 <= 0.16
        shop.apply(http_route(api, {"backendRefs": [V1 | {"weight": 0}, V2]}))
        shop.sees(f"HTTPRoute {api}: weights 0/1", lambda: to_v2(20) == 20)


@each_group
def test_a_header_picks_the_backend(shop: Shop, api: str) -> None:
    canary = {"headers": [{"name": "x-canary", "value": "yes"}]}
    route = http_route(api, {"matches": [canary], "backendRefs": [V2]}, {"backendRefs": [V1]})
    yes, no = {"x-canary": "yes"}, {"x-canary": "no"}
    with shop.in_effect(f"HTTPRoute {api}: header", lambda: shop.client.version(headers=yes) == "v2", route):
        assert (shop.client.version(headers=no), shop.client.version()) == ("v1", "v1")


@each_group
def test_paths_are_rewritten_and_redirected(shop: Shop, api: str) -> None:
    def rule(prefix: str, kind: str, field: str, **more: Any) -> dict[str, Any]:
        path = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}
        filters = [{"type": kind, field: {"path": path, **more}}]
        return {"matches": [{"path": {"type": "PathPrefix", "value": prefix}}], "filters": filters}

    rewrite = rule("/old", "URLRewrite", "urlRewrite") | {"backendRefs": [V1]}
    redirect = rule("/moved", "RequestRedirect", "requestRedirect", statusCode=301)
    seen = lambda: shop.client.http("/old/1")[0].says.get("path") == "/new/1"  # noqa: E731
    with shop.in_effect(f"HTTPRoute {api}: rewrite", seen, http_route(api, rewrite, redirect)):
        moved = shop.client.http("/moved/1?x=2")[0]
        assert (moved.status, moved.location) == (301, "http://web/new/1?x=2")


@each_group
def test_headers_are_set_and_taken_out(shop: Shop, api: str) -> None:
    change = {"set": [{"name": "x-set", "value": "new"}], "remove": ["x-secret"]}
    filters = [{"type": "RequestHeaderModifier", "requestHeaderModifier": change}]

    def heard() -> dict[str, str]:
        found: dict[str, str] = shop.client.http(headers={"x-set": "old", "x-secret": "1"})[0].says["headers"]
        return {name: value for name, value in found.items() if name.startswith("x-")}

    route = http_route(api, {"filters": filters, "backendRefs": [V1]})
    with shop.in_effect(f"HTTPRoute {api}: headers", lambda: heard() == {"x-set": "new"}, route):
        pass


@each_group
def test_a_request_that_takes_too_long_is_answered_504(shop: Shop, api: str) -> None:
    matches = [{"path": {"type": "PathPrefix", "value": "/slow"}}]
    route = http_route(api, {"matches": matches, "backendRefs": [V1], "timeouts": {"request": "100ms"}})
    with shop.in_effect(f"HTTPRoute {api}: timeout", lambda: shop.client.status("/slow/0.3") == 504, route):
        assert shop.client.status("/slow/0.01") == 200


@each_group
def test_requests_are_mirrored(shop: Shop, api: str) -> None:
    mirror = [{"type": "RequestMirror", "requestMirror": {"backendRef": V2}}]

    def mirrored() -> bool:
        name = uuid.uuid4().hex
        assert shop.client.version(f"/note/{name}") == "v1"
        return any(shop.client.http(f"/seen/{name}", "web-v2")[0].says["count"] for _ in range(3))

    route = http_route(api, {"filters": mirror, "backendRefs": [V1]})
    with shop.in_effect(f"HTTPRoute {api}: mirror", mirrored, route):
        pass


def test_a_grpc_method_picks_the_backend(shop: Shop) -> None:
    matches = [{"method": {"service": "test.Greeter", "method": "New"}}]
    rules = [{"matches": matches, "backendRefs": [V2 | {"port": 9000}]}, {"backendRefs": [V1 | {"port": 9000}]}]

    def hello(method: str) -> str:
        return str(shop.client.ask("grpc", target="web:9000", method=f"/test.Greeter/{method}")["answer"])

    with shop.in_effect("GRPCRoute: method", lambda: hello("New") == "v2", grpc_route(rules=rules)):
        assert hello("Old") == "v1"


# ---- outbound: annotations


def test_a_services_annotations_retry(shop: Shop) -> None:
    annotations = {"retry.linkerd.io/http": "5xx", "retry.linkerd.io/limit": "2"}
    with shop.annotated("retry.linkerd.io/http", lambda: shop.client.status(flaky(1)) == 200, "web", **annotations):
        assert shop.client.status(flaky(2)) == 200
        assert shop.client.status(flaky(3)) == 503


@each_group
def test_a_routes_annotations_retry(shop: Shop, api: str) -> None:
    route = http_route(api, {"backendRefs": [V1]})
    route["metadata"]["annotations"] = {"retry.linkerd.io/http": "503", "timeout.linkerd.io/request": "300ms"}
    with shop.in_effect(f"HTTPRoute {api}: retries", lambda: shop.client.status(flaky(1)) == 200, route):
        assert shop.client.status(flaky(2)) == 503
        assert shop.client.status("/slow/1") == 504


def test_a_services_annotations_break_the_circuit(shop: Shop) -> None:
    prefix = "balancer.linkerd.io/failure-accrual"
    penalties = {f"{prefix}-consecutive-{end}-penalty": "30s" for end in ("min", "max")}
    annotations = {prefix: "consecutive", f"{prefix}-consecutive-max-failures": "3", **penalties}

    def answered() -> list[int]:
        return [answer.status for answer in shop.client.http("/only/v1", "web-both", count=20)]

    def opened() -> bool:
        """Told by the proxy, since the balancer alone can keep all twenty away from v2 while it finds v1 quicker."""
        answered()
        labels = 'backend_name="web-both"', 'endpoint_state="pending"'
        return shop.client.metric("outbound_http_balancer_endpoints", *labels) == 1

    with shop.annotated(prefix, opened, "web-both", **annotations):
        assert all(answered() == [200] * 20 for _ in range(5))


def test_an_opaque_port_is_not_read(shop: Shop) -> None:
    def caller() -> Any:
        return shop.client.http(fresh=True)[0].says["headers"].get("l5d-client-id")

    assert caller() == f"client.{SUFFIX}"
    name = "config.linkerd.io/opaque-ports"
    with shop.annotated(name, lambda: caller() is None, "web", **{name: "80"}):
        assert shop.client.status(fresh=True) == 200


# ---- inbound


def server(name: str = "web", port: int = 8080, **spec: Any) -> Manifest:
    return policy("Server", name, "v1beta3", podSelector={"matchLabels": {"app": "web"}}, port=port, **spec)


def authorization(target: Manifest, *authentications: Manifest) -> Manifest:
    to, *required = (
        {"group": "policy.linkerd.io", "kind": one["kind"], "name": one["metadata"]["name"]}
        for one in (target, *authentications)
    )
    return policy("AuthorizationPolicy", to["name"], targetRef=to, requiredAuthenticationRefs=required)


def test_a_server_refuses_and_an_identity_is_let_in_also_on_open_connections(shop: Shop) -> None:
    assert (shop.client.status(), shop.other.status()) == (200, 200)
    opened = shop.client.ask("http", host="web")["opened"], shop.other.ask("http", host="web")["opened"]
    closed = server()
    who = policy("MeshTLSAuthentication", "client", identities=[f"client.{SUFFIX}"])
    with shop.in_effect("Server: refused", lambda: shop.client.status() == 403, closed):
        assert shop.other.status() == 403
        let_in = authorization(closed, who)
        with shop.in_effect("AuthorizationPolicy: let in", lambda: shop.client.status() == 200, who, let_in):
            assert shop.other.status() == 403
            change = {"spec": {"identities": [f"other.{SUFFIX}"]}}
            shop.patch(who, change)
            shop.sees("MeshTLSAuthentication changed", lambda: shop.other.status() == 200)
            assert shop.client.status() == 403
            shop.patch(who, {"spec": {"identities": [f"client.{SUFFIX}"]}})
            shop.sees("MeshTLSAuthentication changed back", lambda: shop.client.status() == 200)
    assert (shop.client.ask("http", host="web")["opened"], shop.other.ask("http", host="web")["opened"]) == opened


def test_an_open_tcp_connection_ends_when_it_is_no_longer_authorized(shop: Shop) -> None:
    assert shop.client.echoes(fresh=False)
    closed = server("echo", 9999, proxyProtocol="opaque")
    who = policy("MeshTLSAuthentication", "client", identities=[f"client.{SUFFIX}"])
    with shop.in_effect("Server: TCP refused", lambda: not shop.client.echoes(fresh=True), closed):
        shop.sees(
            "Server: open TCP connection ended, after new ones were refused",
            lambda: not shop.client.echoes(fresh=False),
        )
        let_in = authorization(closed, who)
        with shop.in_effect("AuthorizationPolicy: TCP let in", lambda: shop.client.echoes(fresh=True), who, let_in):
            assert not shop.other.echoes(fresh=True)


def test_a_server_authorization_lets_in(shop: Shop) -> None:
    """The older form."""
    closed = server()
    client = {"meshTLS": {"serviceAccounts": [{"name": "client"}]}}
    let_in = policy("ServerAuthorization", "client", "v1beta1", server={"name": "web"}, client=client)
    with (
        shop.in_effect("Server: refused once more", lambda: shop.client.status() == 403, closed),
        shop.in_effect("ServerAuthorization: let in", lambda: shop.client.status() == 200, let_in),
    ):
        assert shop.other.status() == 403


def test_a_network_is_let_in(shop: Shop) -> None:
    closed = server()
    networks = policy("NetworkAuthentication", "client", networks=[{"cidr": f"{shop.ip('client')}/32"}])
    with shop.in_effect("Server: refused again", lambda: shop.client.status() == 403, closed):
        let_in = authorization(closed, networks)
        seen = lambda: shop.client.status() == 200  # noqa: E731
        with shop.in_effect("NetworkAuthentication: let in", seen, networks, let_in):
            assert shop.other.status() == 403


def test_requests_above_the_rate_limit_are_answered_429(shop: Shop) -> None:
    limit = policy("HTTPLocalRateLimitPolicy", "web", targetRef=_SERVER, total={"requestsPerSecond": 20})

    def limited() -> bool:
        return any(answer.status == 429 for answer in shop.client.http(count=40))

    open_ = server(accessPolicy="all-unauthenticated")
    with shop.in_effect("HTTPLocalRateLimitPolicy", limited, open_, limit):
        time.sleep(1.1)  # the bucket fills again
        statuses = [answer.status for answer in shop.client.http(count=100)]
        assert statuses[:10] == [200] * 10
        assert statuses.count(429) >= 20
        (accepted,) = shop.get(limit)["status"]["conditions"]
        assert (accepted["type"], accepted["status"]) == ("Accepted", "True")


def test_what_lies_outside_is_denied_but_for_a_route(shop: Shop) -> None:
    ip = shop.ip("outside", OUTSIDE)

    def status(path: str) -> int:
        return shop.client.status(path, ip, port=8080)

    network = policy("EgressNetwork", "outside", trafficPolicy="Deny", networks=[{"cidr": f"{ip}/32"}])
    assert shop.client.echoes(ip, fresh=True)
    with shop.in_effect("EgressNetwork: Deny", lambda: status("/") == 403, network):
        assert not shop.client.echoes(ip, fresh=True)
        itself = {"group": "policy.linkerd.io", "kind": "EgressNetwork", "name": "outside"}
        matches = [{"path": {"type": "PathPrefix", "value": "/allowed"}}]
        rule = {"matches": matches, "backendRefs": [itself]}
        route = http_route(POLICY_ROUTES, rule, parent=itself | {"port": 8080})
        with shop.in_effect("EgressNetwork: a route", lambda: status("/allowed") == 200, route):
            assert status("/") == 403
            told = {"Accepted": "True Accepted", "ResolvedRefs": "True ResolvedRefs"}
            shop.sees("EgressNetwork: a route's status", lambda: conditions(shop, route) == told)


# ---- what is said of manifests


def _wrong(kind: str, version: str = "v1alpha1", **spec: Any) -> Manifest:
    return policy(kind, "wrong", version, **spec)


_SERVER = {"group": "policy.linkerd.io", "kind": "Server", "name": "web"}
_TOO_MUCH = {"requestsPerSecond": 20, "clientRefs": [{"kind": "ServiceAccount", "name": "client"}]}
_REGEX = {"type": "RegularExpression", "value": "/("}
_PREFIX = {"urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}}, "type": "URLRewrite"}
WRONG: dict[str, tuple[Manifest, str]] = {
    "ServiceProfile": (
        manifest(
            "linkerd.io/v1alpha2",
            "ServiceProfile",
            f"web.{SHOP}.svc.cluster.local",
            spec={"routes": [{"name": "x", "condition": {"pathRegex": "/("}}]},
        ),
        "spec.routes[0].condition.pathRegex: '/(' is not a regular expression that a proxy may run",
    ),
    "policy HTTPRoute": (
        http_route(POLICY_ROUTES, {"matches": [{"path": _REGEX}]}, name="wrong"),
        "spec.rules[0].matches[0].path.value: '/(' is not a regular expression that a proxy may run",
    ),
    "HTTPRoute": (
        http_route(GATEWAY_ROUTES, {"matches": [{"path": {"type": "Exact", "value": "/a"}}], "filters": [_PREFIX]}),
        "spec.rules[0].filters[0].urlRewrite.path",
    ),
    "GRPCRoute": (
        grpc_route(rules=[{"matches": [{"method": {"type": "RegularExpression", "service": "a("}}]}]),
        "spec.rules[0].matches[0].method.service: 'a(' is not a regular expression that a proxy may run",
    ),
    "Server": (
        _wrong("Server", "v1beta3", port=80, podSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}),
        "spec.podSelector.matchExpressions[0].values: In needs values",
    ),
    "ServerAuthorization": (
        _wrong(
            "ServerAuthorization",
            "v1beta1",
            server={"name": "web"},
            client={"unauthenticated": True, "meshTLS": {"identities": ["*"]}},
        ),
        "spec.client.unauthenticated: must not be true together with meshTLS; take one of them out",
    ),
    "AuthorizationPolicy": (
        _wrong("AuthorizationPolicy", targetRef=_SERVER | {"kind": "Servre"}),
        "spec.targetRef.kind: 'Servre' cannot be a target; write Server, Namespace, HTTPRoute; did you mean",
    ),
    "MeshTLSAuthentication": (
        _wrong("MeshTLSAuthentication", identityRefs=[{"kind": "Pod", "name": "x"}]),
        "spec.identityRefs[0].kind: 'Pod' is not one of ServiceAccount, Namespace",
    ),
    "NetworkAuthentication": (
        _wrong("NetworkAuthentication", networks=[{"cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"]}]),
        "spec.networks[0].except[0]: 192.168.0.0/16 is not within 10.0.0.0/8",
    ),
    "HTTPLocalRateLimitPolicy": (
        _wrong("HTTPLocalRateLimitPolicy", targetRef=_SERVER, total={"requestsPerSecond": 10}, overrides=[_TOO_MUCH]),
        "spec.overrides[0].requestsPerSecond: 20 is more than total.requestsPerSecond (10) lets through",
    ),
    "EgressNetwork": (
        _wrong("EgressNetwork", trafficPolicy="Deny", networks=[{"cidr": "300.0.0.0/8"}]),
        "spec.networks[0].cidr: '300.0.0.0/8' is not a network; write an address or CIDR such as 198.51.100.0/24",
    ),
    "ExternalWorkload": (  # its schema sees it already
        manifest(
            "workload.linkerd.io/v1beta1",
            "ExternalWorkload",
            "wrong",
            spec={"meshTLS": {"identity": "", "serverName": "x"}, "workloadIPs": [{"ip": "192.0.2.1"}]},
        ),
        "spec.meshTLS.identity in body should be at least 1 chars long",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_manifest_is_refused_with_field_and_reason(shop: Shop, kind: str) -> None:
    wrong, said = WRONG[kind]
    with pytest.raises(RequestFailed) as caught:
        shop.apply(wrong)
    assert said in str(caught.value)


@each_group
def test_a_routes_status_says_what_became_of_it(shop: Shop, api: str) -> None:
    def says(accepted: str, resolved: str) -> Callable[[], bool]:
        return lambda: conditions(shop, route) == {"Accepted": accepted, "ResolvedRefs": resolved}

    route = http_route(api, {"backendRefs": [V1]}, name="told")
    try:
        shop.apply(route)
        shop.sees(f"status {api}: accepted", says("True Accepted", "True ResolvedRefs"))
        shop.apply(http_route(api, {"backendRefs": [V1 | {"name": "nobody"}]}, name="told"))
        shop.sees(f"status {api}: no backend", says("True Accepted", "False BackendNotFound"))
        shop.apply(http_route(api, {"backendRefs": [V1]}, name="told", parent=PARENT | {"name": "nobody"}))
        shop.sees(f"status {api}: no parent", says("False NoMatchingParent", "True ResolvedRefs"))
    finally:
        shop.delete(route)


# ---- how long it took


def test_each_manifest_was_in_effect_within_a_second(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    times = sorted(seconds for _, seconds in shop.measured)
    assert len(times) >= 20, "the tests above measure"
    p50, p95 = (quantile(times, q) for q in (0.5, 0.95))
    with capsys.disabled():
        print(f"\n{len(times)} changes in effect after p50 {p50:.3f} s, p95 {p95:.3f} s, at most {times[-1]:.3f} s:")
        for what, seconds in shop.measured:
            print(f"  {seconds * 1000:6.0f} ms  {what}")
    assert p50 < 1.0


def quantile(ordered: list[float], q: float) -> float:
    return ordered[max(math.ceil(q * len(ordered)) - 1, 0)]


ENDPOINTS, CHANGES = 200, 60


def test_m8_at_200_endpoints(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """EndpointSlices without pods: addresses of RFC 5737, to which nothing is sent, as a redirect answers."""
    ports = [{"name": "http", "port": 80}]
    service = manifest("v1", "Service", "many", spec={"ports": ports})
    redirect = {"filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "nowhere"}}]}
    route = http_route(POLICY_ROUTES, redirect, name="many", parent=PARENT | {"name": "many"})
    slices = [_slice(half, {f"192.0.2.{n}" for n in range(half * 100 + 1, half * 100 + 101)}) for half in (0, 1)]
    try:
        shop.apply(service, route, *slices)
        # By address: a name asked for before the cluster's DNS knows it is unknown for half a minute.
        many = shop.get(service)["spec"]["clusterIP"]
        eventually(lambda: shop.client.status(host=many) == 302)
        before, ends = _updates(shop), []
        for change in range(CHANGES):
            gone = change % 100 + 1
            shop.apply(_slice(0, {f"192.0.2.{n}" for n in range(1, 101)} - {f"192.0.2.{gone}"}))
            start, known = time.monotonic(), _count(before) + change
            while _count(_updates(shop)) <= known:
                assert time.monotonic() - start < 3.0, "a change of endpoints did not arrive"
            ends.append(time.monotonic() - start)
            shop.client.status(host=many)  # a destination that nobody uses is forgotten after five seconds
        buckets = {bound: count - before[bound] for bound, count in _updates(shop).items()}
    finally:
        shop.delete(route, service, *slices)
    own = [histogram_quantile(buckets, q) for q in (0.5, 0.95)]
    ends.sort()
    with capsys.disabled():
        print(f"\nM8 at {ENDPOINTS} endpoints, {CHANGES} changes, p50 and p95 in ms:")
        print(f"  {own[0] * 1000:.1f}, {own[1] * 1000:.1f}  published to applied (control_update_latency_seconds)")
        whole = (quantile(ends, q) * 1000 for q in (0.5, 0.95))
        print("  {:.0f}, {:.0f}  the API server's answer to counted by the proxy".format(*whole))
    assert own[1] < 1.0
    assert quantile(ends, 0.95) < 3.0


def _slice(number: int, addresses: set[str]) -> Manifest:
    made = manifest("discovery.k8s.io/v1", "EndpointSlice", f"many-{number}")
    made["metadata"]["labels"] = {"kubernetes.io/service-name": "many"}
    endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in sorted(addresses)]
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    return made | {"addressType": "IPv4", "endpoints": endpoints, "ports": ports}


def _updates(shop: Shop) -> dict[float, float]:
    """Upper bound → updates from destination that took at most so long, of the client's proxy."""
    found: dict[float, float] = {}
    for line in shop.client.metrics():
        if line.startswith("control_update_latency_seconds_bucket") and "linkerd-dst" in line:
            bound = line.partition('le="')[2].partition('"')[0]
            found[float(bound)] = float(line.split()[-1])
    assert found, "no histogram"
    return found


def _count(buckets: dict[float, float]) -> float:
    return buckets[math.inf]


def histogram_quantile(buckets: dict[float, float], q: float) -> float:
    """Prometheus' rule: evenly spread within a bucket."""
    rank = q * _count(buckets)
    for (low, below), (high, upto) in itertools.pairwise([(0.0, 0.0), *sorted(buckets.items())]):
        if upto >= rank:
            return low if math.isinf(high) else low + (high - low) * (rank - below) / max(upto - below, 1e-9)
    return math.nan
