"""Outbound policy on its way: mistakes by line before a run, and each change as the proxies of a namespace hear it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.api.messages import Endpoints, NotFound, OutboundPolicy, Profile
from mesh.control.http import Request, Response, Watch
from mesh.control.registry.manifests import InvalidManifest, load_manifests
from tests.mesh.control.test_registry_watch import Lines, Registry

GOOD = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: cart
  namespace: web
  annotations:
    retry.linkerd.io/http: 5xx
spec:
  parentRefs:
  - {name: cart, namespace: shop, port: 8080}
  hostnames: [cart.shop]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /v1}
      headers: [{name: X-User, value: qa}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    backendRefs:
    - {name: cart, namespace: shop, port: 8080, weight: 99}
    - {name: canary, namespace: shop, port: 8080, weight: 1}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: pay, namespace: shop}
spec:
  parentRefs: [{name: pay}]
  rules:
  - matches:
    - method: {service: shop.Pay, method: Charge}
---
apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {name: split, namespace: shop}
spec:
  service: cart
  backends:
  - {service: cart, weight: 90}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: EgressNetwork
metadata: {name: all, namespace: linkerd-egress}
spec:
  trafficPolicy: Deny
  networks: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}]
---
kind: Service
metadata:
  name: pay
  namespace: shop
  annotations:
    balancer.linkerd.io/failure-accrual: unified
    balancer.alpha.linkerd.io/failure-accrual-success-rate-threshold: "0.9"
    config.linkerd.io/opaque-ports: "4222"
spec: {ports: [{port: 8080}]}
"""

MISTAKES = [
    ("type: PathPrefix", "type: Prefix", "14: spec.rules[0].matches[0].path.type: 'Prefix' is not one of Exact"),
    ("value: /v1", "value: v1", "14: spec.rules[0].matches[0].path.value: 'v1' is not an absolute path"),
    ("hostnames: [cart.shop]", "hostnames: [cart.*]", "11: spec.hostnames[0]: 'cart.*' is not a host name"),
    ("name: X-User,", "name: X User,", "15: spec.rules[0].matches[0].headers[0].name: 'X User' is not a header name"),
    (
        "- {type: URLRewrite,",
        "- {type: UrlRewrite,",
        "17: spec.rules[0].filters[0].type: 'UrlRewrite' is not one of",
    ),
    ("weight: 1}", "weight: 1000001}", "20: spec.rules[0].backendRefs[1].weight: 1000001 is not a weight"),
    ("canary, namespace: shop, port: 8080,", "canary, namespace: shop,", "20: spec.rules[0].backendRefs[1].port"),
    ("port: 8080, weight: 99", "port: 8080, weight: some", "19: spec.rules[0].backendRefs[0].weight: expected a whole"),
    ("namespace: shop, port: 8080}\n  host", "namespace: shop, port: 0}\n  host", "10: spec.parentRefs[0].port: 0 is"),
    ("{name: cart, namespace: shop, port: 8080}\n  h", "{name: cart, kind: Servce}\n  h", '"Service"?'),
    ("http: 5xx", "http: 5x", '7: metadata.annotations["retry.linkerd.io/http"]: '),
    ("service: shop.Pay", "service: shop/Pay", "29: spec.rules[0].matches[0].method.service: 'shop/Pay' is not a gRPC"),
    ("kind: GRPCRoute", "kind: GRPCRout", "23: kind: unknown kind 'GRPCRout'; did you mean \"GRPCRoute\"?"),
    ("weight: 90", "weight: lots", "37: spec.backends[0].weight: 'lots' is not a weight"),
    ("service: cart,", "service: Cart!,", "37: spec.backends[0].service: 'Cart!' is not the name"),
    (
        "Policy: Deny",
        "Policy: deny",
        "43: spec.trafficPolicy: 'deny' is neither Allow nor Deny; did you mean \"Deny\"?",
    ),
    ("[10.0.0.0/8]", "[10.0.0.0/33]", "44: spec.networks[0].except[0]: '10.0.0.0/33' is not a network"),
    ("accrual: unified", "accrual: unifed", '51: metadata.annotations["balancer.linkerd.io/failure-accrual"]: '),
    ("accrual: unified", "accrual: consecutive", "says nothing without balancer.linkerd.io/failure-accrual: unified"),
    ("rate-threshold", "rate-treshold", "52: metadata.annotations"),
    ('"4222"', '"42-22"', "53: metadata.annotations[\"config.linkerd.io/opaque-ports\"]: '42-22' is not a port"),
]


def test_all_kinds_of_outbound_policy_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(GOOD)
    kinds = [type(resource).__name__ for resource in load_manifests([path])]
    assert kinds == ["HTTPRoute", "GRPCRoute", "TrafficSplit", "EgressNetwork", "Service"]


@pytest.mark.parametrize(("good", "bad", "expected"), MISTAKES, ids=[m[1].strip() for m in MISTAKES])
def test_a_mistake_is_told_with_file_line_and_field(tmp_path: Path, good: str, bad: str, expected: str) -> None:
    assert GOOD.count(good) == 1
    path = tmp_path / "mesh.yaml"
    path.write_text(GOOD.replace(good, bad))
    with pytest.raises(InvalidManifest) as error:
        load_manifests([path])
    told = [str(problem).removeprefix(f"{path}:") for problem in error.value.problems]
    assert any(expected in problem for problem in told), told


# ---- watches

SERVICES = """\
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.43.0.7, ports: [{name: http, port: 80}]}
---
kind: EndpointSlice
metadata: {name: cart-x, namespace: shop, labels: {kubernetes.io/service-name: cart}}
endpoints: [{addresses: [10.1.0.1], targetRef: {name: cart-0}}]
ports: [{name: http, port: 8080}]
---
kind: Pod
metadata:
  name: cart-0
  namespace: shop
  annotations: {linkerd.io/proxy-version: x, config.linkerd.io/opaque-ports: '5000'}
status: {podIP: 10.1.0.1}
"""
AUTHORITY = "cart.shop.svc.cluster.local:80"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(tmp_path)
    made.write("services.yaml", SERVICES)
    made.discovery.load()
    return made


def watch(registry: Registry, path: str, namespace: str = "") -> Lines:
    kind = path.split("/")[2]
    discovery = registry.discovery
    handler = discovery.destination_handler() if kind == "destinations" else discovery.policy_handler()
    answer = handler(Request("GET", path, b"", f"ns={namespace}" if namespace else ""))
    assert isinstance(answer, Watch), answer
    lines = Lines()
    lines.end = answer.opened(lines)  # type: ignore[arg-type]
    return lines


def outbound(registry: Registry, authority: str = AUTHORITY, namespace: str = "") -> OutboundPolicy:
    (policy,) = watch(registry, f"/v1/outbound/{authority}", namespace).take()
    assert isinstance(policy, OutboundPolicy)
    return policy


def route(name: str, namespace: str) -> str:
    return (
        f"kind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        "spec: {parentRefs: [{name: cart, namespace: shop}]}\n"
    )


def test_a_consumers_route_speaks_for_the_clients_of_its_namespace_alone(registry: Registry) -> None:
    registry.write("routes.yaml", route("producer", "shop") + "---\n" + route("consumer", "web"))
    registry.discovery.poll()
    assert [r.name for r in outbound(registry).routes] == ["producer"]
    assert [r.name for r in outbound(registry, namespace="other").routes] == ["producer"]
    assert {r.name for r in outbound(registry, namespace="web").routes} == {"producer", "consumer"}


def test_watches_of_two_namespaces_hear_of_their_own_changes(registry: Registry) -> None:
    web, other = (watch(registry, f"/v1/outbound/{AUTHORITY}", namespace) for namespace in ("web", "other"))
    web.take()
    other.take()
    registry.write("routes.yaml", route("consumer", "web"))
    registry.discovery.poll()
    assert [[r.name for r in message.routes] for message in web.take()] == [["consumer"]]
    assert other.take() == []


def test_a_clients_own_profile_goes_before_the_services(registry: Registry) -> None:
    def profile(namespace: str) -> str:
        return (
            f"kind: ServiceProfile\nmetadata: {{name: cart.shop.svc.cluster.local, namespace: {namespace}}}\n"
            f"spec: {{routes: [{{name: of-{namespace}, condition: {{method: GET}}}}]}}\n"
        )

    registry.write("profiles.yaml", profile("shop") + "---\n" + profile("web"))
    registry.discovery.poll()
    for namespace, expected in (("", "of-shop"), ("other", "of-shop"), ("web", "of-web")):
        _, message = watch(registry, f"/v1/destinations/{AUTHORITY}", namespace).take()
        assert isinstance(message, Profile)
        assert [r.name for r in message.routes] == [expected]


def test_a_traffic_split_reaches_the_profile(registry: Registry) -> None:
    lines = watch(registry, f"/v1/destinations/{AUTHORITY}")
    lines.take()
    registry.write(
        "split.yaml",
        "kind: TrafficSplit\nmetadata: {name: s, namespace: shop}\n"
        "spec: {service: cart, backends: [{service: v2, weight: 1}]}\n",
    )
    registry.discovery.poll()
    (message,) = lines.take()
    assert isinstance(message, Profile)
    assert [o.authority for o in message.dst_overrides] == ["v2.shop.svc.cluster.local:80"]


def test_a_cluster_ip_is_the_service_behind_it(registry: Registry) -> None:
    policy = outbound(registry, "10.43.0.7:80")
    assert (policy.authority, policy.exists) == (AUTHORITY, True)
    endpoints, profile = watch(registry, "/v1/destinations/10.43.0.7:80").take()
    assert isinstance(endpoints, Endpoints)
    assert [e.pod for e in endpoints.endpoints] == ["cart-0"]
    assert profile.authority == AUTHORITY


def test_the_ip_of_a_meshed_pod_is_that_pod_and_says_whether_its_port_is_opaque(registry: Registry) -> None:
    for port, opaque in ((8080, False), (5000, True)):
        endpoints, _ = watch(registry, f"/v1/destinations/10.1.0.1:{port}").take()
        assert isinstance(endpoints, Endpoints)
        (endpoint,) = endpoints.endpoints
        assert (endpoint.address, endpoint.pod, endpoint.port, endpoint.opaque) == (
            f"10.1.0.1:{port}",
            "cart-0",
            port,
            opaque,
        )
        assert endpoint.identity is not None


def test_endpoints_of_a_service_carry_the_pods_port(registry: Registry) -> None:
    endpoints, _ = watch(registry, f"/v1/destinations/{AUTHORITY}").take()
    assert [(e.address, e.port, e.opaque) for e in endpoints.endpoints] == [("10.1.0.1:8080", 8080, False)]


def test_an_address_outside_is_not_found_and_an_egress_network_says_what_becomes_of_it(registry: Registry) -> None:
    address = "198.51.100.1:443"
    found, _ = watch(registry, f"/v1/destinations/{address}").take()
    assert isinstance(found, NotFound)
    lines = watch(registry, f"/v1/outbound/{address}", "web")
    (before,) = lines.take()
    assert (before.exists, before.egress) == (False, "")
    network = "kind: EgressNetwork\nmetadata: {name: all, namespace: linkerd-egress}\nspec: {trafficPolicy: Deny}\n"
    registry.write("egress.yaml", network)
    registry.discovery.poll()
    (after,) = lines.take()
    assert (after.exists, after.egress) == (True, "deny")
    attached = (
        "kind: HTTPRoute\nmetadata: {name: api, namespace: web}\nspec:\n  parentRefs:\n"
        "  - {name: all, namespace: linkerd-egress, kind: EgressNetwork, group: policy.linkerd.io, port: 443}\n"
    )
    registry.write("route.yaml", attached)
    registry.discovery.poll()
    (routed,) = lines.take()
    assert [r.name for r in routed.routes] == ["api", "http-egress-deny"]


def test_what_a_running_control_plane_cannot_use_is_logged_once_with_its_place(registry: Registry) -> None:
    lines = watch(registry, f"/v1/outbound/{AUTHORITY}")
    registry.write(
        "routes.yaml",
        "kind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n"
        "spec: {parentRefs: [{name: cart}], rules: [{backendRefs: [{name: nobody, port: 80}]}]}\n",
    )
    registry.discovery.poll()
    policy = lines.take()[-1]
    assert [b.authority for b in policy.routes[0].backends] == [""]
    assert registry.said.getvalue().count("no Service shop/nobody") == 1


@pytest.mark.parametrize("query", ["ns=No!", "ns=a.b"])
def test_a_namespace_that_cannot_be_is_refused(registry: Registry, query: str) -> None:
    answer = registry.discovery.policy_handler()(Request("GET", f"/v1/outbound/{AUTHORITY}", b"", query))
    assert isinstance(answer, Response)
    assert answer.status == 400
