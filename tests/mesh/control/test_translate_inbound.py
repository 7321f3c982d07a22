"""Manifests of a namespace → the policy of one port; the expected values are Linkerd's."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.api.messages import ANY_NETWORK, AuthorizationSpec, InboundPolicy, NetworkSpec, ValueMatch
from mesh.api.resources import AnyResource, Pod
from mesh.behavior.authz import CLUSTER_NETWORKS, DEFAULT_POLICIES, default_authorizations
from mesh.control.registry.index import Index
from mesh.control.registry.manifests import read_manifest
from mesh.control.translate import inbound_policy_message
from mesh.control.translate.authorizations import Cluster
from mesh.control.translate.problems import FieldPath

POD = """\
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web, tier: front}}
spec:
  containers:
  - name: web
    ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9990}]
    livenessProbe: {httpGet: {path: "/live?full=1", port: http}}
    readinessProbe: {httpGet: {path: /ready, port: 8080}}
    startupProbe: {tcpSocket: {port: 8080}}
  - name: side
    readinessProbe: {httpGet: {path: /side, port: 9990}}
"""
SERVER = """\
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web, namespace: shop, labels: {team: a}}
spec: {podSelector: {matchLabels: {app: web}}, port: http}
"""
NETWORK = "serviceaccount.identity.linkerd.cluster.local"


def authorization_policy(name: str, target: str, *required: str) -> str:
    refs = ", ".join(required)
    return (
        f"kind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n"
        f"spec: {{targetRef: {target}, requiredAuthenticationRefs: [{refs}]}}\n"
    )


TO_SERVER = "{group: policy.linkerd.io, kind: Server, name: web}"
TO_NAMESPACE = "{kind: Namespace, name: shop}"
TO_ROUTE = "{group: policy.linkerd.io, kind: HTTPRoute, name: reads}"
BY_TLS = "{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: carts}"
BY_NETWORK = "{group: policy.linkerd.io, kind: NetworkAuthentication, name: office}"
CARTS = """\
kind: MeshTLSAuthentication
metadata: {name: carts, namespace: shop}
spec: {identityRefs: [{kind: ServiceAccount, name: cart}, {kind: Namespace, name: pay}]}
"""
OFFICE = """\
kind: NetworkAuthentication
metadata: {name: office, namespace: shop}
spec: {networks: [{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}, {cidr: "2001:db8::/32"}]}
"""
ROUTE = """\
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: reads, namespace: shop}
spec:
  parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}]
  rules:
  - matches:
    - {path: {type: PathPrefix, value: /}, method: GET}
    - {path: {type: Exact, value: /exact}}
    - {path: {type: PathPrefix, value: /longer}, headers: [{name: X-Role, type: RegularExpression, value: a|b}]}
"""


class Told:
    """A policy, and what was complained of on the way."""

    def __init__(self, *manifests: str, port: int = 8080, cluster: Cluster | None = None) -> None:
        resources = [r for text in manifests for r in read_manifest(text, Path("x.yaml"))]
        self.complaints: list[tuple[str, str]] = []
        index = Index(resources)
        self.policy: InboundPolicy = inbound_policy_message(
            next((r for r in resources if isinstance(r, Pod)), None),
            index.namespaces.get("shop"),
            1,
            0.0,
            port=port,
            resources=index.inbound("shop"),
            cluster=cluster,
            complain_of=self._complain,
        )

    def _complain(self, resource: AnyResource, path: FieldPath, message: str) -> None:
        self.complaints.append((resource.metadata.name, message))

    @property
    def names(self) -> list[str]:
        return [a.name for a in self.policy.authorizations]


# ---- default policies


@pytest.mark.parametrize("name", DEFAULT_POLICIES)
def test_each_default_policy_by_annotation_by_accesspolicy_and_of_the_cluster(name: str) -> None:
    annotated = POD.replace(
        "name: web-0,", f"name: web-0, annotations: {{config.linkerd.io/default-inbound-policy: {name}}},"
    )
    cluster = Cluster(networks=("10.0.0.0/8",), default_policy=name)
    expected = default_authorizations(name, ["10.0.0.0/8"])
    for policy in (
        Told(annotated, cluster=Cluster(networks=("10.0.0.0/8",))).policy,
        Told(POD, cluster=cluster).policy,
    ):
        assert (policy.server_kind, policy.server_name, policy.authorizations) == ("default", name, expected)
    server = SERVER.replace("port: http", f"port: http, accessPolicy: {name}")
    policy = Told(POD, server, cluster=cluster).policy
    assert (policy.server_kind, policy.server_name, policy.authorizations) == ("server", "web", expected)


def test_ports_that_require_identity_tighten_the_default() -> None:
    annotations = "annotations: {config.linkerd.io/proxy-require-identity-inbound-ports: '8080'}"
    pod = POD.replace("name: web-0,", f"name: web-0, {annotations},")
    assert Told(pod).policy.server_name == "all-authenticated"
    assert Told(pod, port=8081).policy.server_name == "all-unauthenticated"


def test_opaque_ports_are_the_pods_then_the_namespaces_then_linkerds() -> None:
    annotation = "annotations: {config.linkerd.io/opaque-ports: '8080,9000-9010'}"
    namespace = f"kind: Namespace\nmetadata: {{name: shop, {annotation}}}\n"
    pod = POD.replace("name: web-0,", f"name: web-0, {annotation},")
    for manifests in ((POD, namespace), (pod,)):
        protocols = [Told(*manifests, port=port).policy.protocol for port in (8080, 9005, 5432)]
        assert protocols == ["opaque", "opaque", "detect"]
    assert Told(POD, port=5432).policy.protocol == "opaque"


# ---- Server


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("{}", True),
        ("{matchLabels: {app: web, tier: front}}", True),
        ("{matchLabels: {app: web, tier: back}}", False),
        ("{matchExpressions: [{key: app, operator: In, values: [x, web]}]}", True),
        ("{matchExpressions: [{key: app, operator: NotIn, values: [web]}]}", False),
        ("{matchExpressions: [{key: other, operator: NotIn, values: [web]}]}", True),
        ("{matchExpressions: [{key: app, operator: Exists}]}", True),
        ("{matchExpressions: [{key: app, operator: DoesNotExist}]}", False),
    ],
)
def test_a_server_selects_pods_by_label(selector: str, selected: bool) -> None:
    server = SERVER.replace("{matchLabels: {app: web}}", selector)
    assert (Told(POD, server).policy.server_name == "web") is selected


def test_a_server_selects_its_port_by_number_or_name_and_no_other() -> None:
    for port in ("8080", "http"):
        server = SERVER.replace("port: http", f"port: {port}")
        assert Told(POD, server).policy.server_name == "web"
        assert Told(POD, server, port=9990).policy.server_kind == "default"


def test_a_server_without_authorizations_closes_its_port() -> None:
    policy = Told(POD.replace("readinessProbe", "x").replace("livenessProbe", "y"), SERVER).policy
    assert (policy.server_group, policy.server_kind) == ("policy.linkerd.io", "server")
    assert (policy.authorizations, policy.routes) == ((), ())


def test_a_server_in_another_namespace_is_no_concern() -> None:
    assert Told(POD, SERVER.replace("namespace: shop", "namespace: web")).policy.server_kind == "default"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("unknown", "detect"),
        ("HTTP/1", "http1"),
        ("HTTP/2", "http2"),
        ("gRPC", "grpc"),
        ("opaque", "opaque"),
        ("TLS", "tls"),
    ],
)
def test_a_servers_protocol(written: str, told: str) -> None:
    assert Told(POD, SERVER.replace("port: http", f"port: http, proxyProtocol: {written}")).policy.protocol == told


def test_of_two_servers_for_one_port_the_first_by_name_has_it_and_the_other_is_told() -> None:
    told = Told(POD, SERVER, SERVER.replace("name: web", "name: zeb"))
    assert told.policy.server_name == "web"
    assert told.complaints == [("zeb", "port 8080 of pod web-0 already has Server web; select other pods")]


# ---- authorizations


def server_authorization(client: str, server: str = "{name: web}") -> str:
    return (
        "kind: ServerAuthorization\nmetadata: {name: s, namespace: shop}\n"
        f"spec: {{server: {server}, client: {client}}}\n"
    )


@pytest.mark.parametrize(
    ("client", "kind", "identities"),
    [
        ("{unauthenticated: true}", "unauthenticated", ()),
        ("{meshTLS: {unauthenticatedTLS: true}}", "mesh-tls", ()),
        ("{meshTLS: {identities: ['*', '*.x.y']}}", "identities", ("*", "*.x.y")),
        (
            "{meshTLS: {serviceAccounts: [{name: cart}, {name: pay, namespace: bank}]}}",
            "identities",
            (f"cart.shop.{NETWORK}", f"pay.bank.{NETWORK}"),
        ),
    ],
)
def test_a_serverauthorization_names_its_clients_within_the_clusters_networks(client, kind, identities) -> None:
    (authorization,) = Told(POD, SERVER, server_authorization(client)).policy.authorizations
    assert (authorization.kind, authorization.name) == ("serverauthorization", "s")
    assert (authorization.client, authorization.identities) == (kind, identities)
    assert authorization.networks == tuple(NetworkSpec(cidr=cidr) for cidr in CLUSTER_NETWORKS)


def test_a_serverauthorization_has_networks_of_its_own_and_chooses_servers_by_label() -> None:
    client = "{unauthenticated: true, networks: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}"
    (authorization,) = Told(
        POD, SERVER, server_authorization(client, "{selector: {matchLabels: {team: a}}}")
    ).policy.authorizations
    assert authorization.networks == (NetworkSpec(cidr="10.0.0.0/8", except_=("10.1.0.0/16",)),)
    other = server_authorization(client, "{selector: {matchLabels: {team: b}}}")
    assert Told(POD, SERVER, other, server_authorization(client, "{name: other}")).names == []


def test_an_authorizationpolicy_asks_for_all_its_authentications() -> None:
    told = Told(POD, SERVER, CARTS, OFFICE, authorization_policy("p", TO_SERVER, BY_TLS, BY_NETWORK))
    assert told.policy.authorizations == (
        AuthorizationSpec(
            kind="authorizationpolicy",
            name="p",
            networks=(NetworkSpec(cidr="192.0.2.0/24", except_=("192.0.2.128/25",)), NetworkSpec(cidr="2001:db8::/32")),
            client="identities",
            identities=(f"cart.shop.{NETWORK}", f"*.pay.{NETWORK}"),
        ),
    )


def test_an_authorizationpolicy_with_a_network_alone_asks_for_no_identity_and_the_other_way_round() -> None:
    (by_network,) = Told(POD, SERVER, OFFICE, authorization_policy("p", TO_SERVER, BY_NETWORK)).policy.authorizations
    assert by_network.client == "unauthenticated"
    account = "{kind: ServiceAccount, name: cart, namespace: bank}"
    (by_account,) = Told(POD, SERVER, authorization_policy("p", TO_SERVER, account)).policy.authorizations
    assert by_account.identities == (f"cart.bank.{NETWORK}",)
    assert by_account.networks == ANY_NETWORK


def test_an_authorizationpolicy_for_the_namespace_holds_for_each_server_and_for_no_default() -> None:
    policy = authorization_policy("p", TO_NAMESPACE)
    assert Told(POD, SERVER, policy).names == ["p"]
    assert Told(POD, policy).names == ["all-unauthenticated"]


def test_an_authentication_of_another_namespace_is_found_there() -> None:
    ref = BY_TLS.replace("name: carts", "name: carts, namespace: auth")
    there = CARTS.replace("namespace: shop", "namespace: auth")
    (found,) = Told(POD, SERVER, there, authorization_policy("p", TO_SERVER, ref)).policy.authorizations
    assert found.identities[0] == f"cart.auth.{NETWORK}"


def test_a_reference_that_leads_nowhere_grants_nothing_and_is_told() -> None:
    told = Told(POD, SERVER, CARTS, authorization_policy("p", TO_SERVER, BY_TLS.replace("carts", "cart")))
    assert told.names == []
    assert told.complaints == [("p", 'no MeshTLSAuthentication shop/cart; did you mean "carts"?')]


def test_audit_comes_after_whatever_else_lets_a_client_in() -> None:
    server = SERVER.replace("port: http", "port: http, accessPolicy: audit")
    told = Told(POD, server, CARTS, authorization_policy("zz", TO_SERVER, BY_TLS))
    assert told.names == ["zz", "audit"]


# ---- routes


def test_probes_are_authorized_for_anyone_on_their_own_port() -> None:
    routes = Told(POD, SERVER).policy.routes
    assert [(r.name, r.method, r.path_exact) for r in routes] == [
        ("probe", "GET", "/live"),
        ("probe", "GET", "/ready"),
        ("default", "", ""),
    ]
    assert [[(a.name, a.client, a.networks) for a in r.authorizations] for r in routes] == [
        [("probe", "unauthenticated", ANY_NETWORK)],
        [("probe", "unauthenticated", ANY_NETWORK)],
        [],
    ]
    assert [r.path_exact for r in Told(POD, port=9990).policy.routes] == ["/side", ""]
    assert Told(POD, port=7000).policy.routes == ()


def test_httproutes_of_the_server_replace_the_default_and_probe_routes_most_specific_first() -> None:
    routes = Told(POD, SERVER, ROUTE).policy.routes
    assert [(r.group, r.kind, r.name) for r in routes] == [("policy.linkerd.io", "HTTPRoute", "reads")] * 3
    assert [(r.path_exact, r.path_prefix, r.method) for r in routes] == [
        ("/exact", "", ""),
        ("", "/longer", ""),
        ("", "/", "GET"),
    ]
    assert routes[1].headers == (ValueMatch(name="x-role", value="a|b", regex=True),)


def test_an_authorizationpolicy_for_a_route_holds_for_that_route_alone() -> None:
    policy = authorization_policy("p", TO_ROUTE, BY_TLS)
    other = ROUTE.replace("name: reads", "name: others").replace("/exact", "/other")
    told = Told(POD, SERVER, ROUTE, other, CARTS, policy)
    assert told.names == []
    assert {r.name: [a.name for a in r.authorizations] for r in told.policy.routes} == {"reads": ["p"], "others": []}


def test_a_route_of_the_gateway_api_is_another_resource_than_linkerds_of_that_name() -> None:
    gateway = ROUTE.replace("policy.linkerd.io/v1beta3", "gateway.networking.k8s.io/v1")
    told = Told(POD, SERVER, gateway, authorization_policy("p", TO_ROUTE))
    assert {(r.group, r.authorizations) for r in told.policy.routes} == {("gateway.networking.k8s.io", ())}


# ---- rate limit


def test_a_rate_limit_names_its_clients_by_identity() -> None:
    limit = (
        "kind: HTTPLocalRateLimitPolicy\nmetadata: {name: calm, namespace: shop}\nspec:\n"
        f"  targetRef: {TO_SERVER}\n  total: {{requestsPerSecond: 100}}\n  identity: {{requestsPerSecond: 20}}\n"
        "  overrides: [{requestsPerSecond: 50, clientRefs: [{kind: ServiceAccount, name: cart, namespace: bank}]}]\n"
    )
    told = Told(POD, SERVER, limit, limit.replace("name: calm", "name: second"))
    found = told.policy.rate_limit
    assert found is not None
    assert (found.name, found.total, found.identity) == ("calm", 100, 20)
    assert [(o.requests_per_second, o.identities) for o in found.overrides] == [(50, (f"cart.bank.{NETWORK}",))]
    assert told.complaints == [("second", "the Server already has rate limit calm")]
    assert (
        Told(POD, SERVER, limit.replace("kind: Server, name: web", "kind: Server, name: x")).policy.rate_limit is None
    )
