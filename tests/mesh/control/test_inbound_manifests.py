"""Manifests that say who may call: what is read, how mistakes are told, and that every change reaches open watches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.api.messages import InboundPolicy, decode_line
from mesh.control.discovery import Discovery
from mesh.control.http import Request, Watch
from mesh.control.metrics import Metrics
from mesh.control.registry.files import RegistryFiles
from mesh.control.registry.manifests import InvalidManifest, load_manifests, read_manifest
from mesh.control.translate.authorizations import Cluster
from mesh.proxy.inbound.policy import PortPolicy
from mesh.proxy.session import Session
from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.message import RequestHead
from tests.mesh.control.builders import silent_log

GOOD = """\
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: Exists}]}
  port: http
  proxyProtocol: HTTP/1
  accessPolicy: deny
---
apiVersion: policy.linkerd.io/v1beta1
kind: ServerAuthorization
metadata: {name: office, namespace: shop}
spec:
  server: {name: web}
  client:
    networks: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]
    meshTLS: {identities: ["*.pay.serviceaccount.identity.linkerd.cluster.local"]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: carts, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: web}
  requiredAuthenticationRefs:
  - {group: policy.linkerd.io, kind: MeshTLSAuthentication, name: carts}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: carts, namespace: shop}
spec:
  identityRefs: [{kind: ServiceAccount, name: cart}]
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {name: office, namespace: shop}
spec:
  networks: [{cidr: "192.0.2.0/24"}]
---
apiVersion: policy.linkerd.io/v1alpha1
kind: HTTPLocalRateLimitPolicy
metadata: {name: calm, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: web}
  total: {requestsPerSecond: 100}
  identity: {requestsPerSecond: 20}
  overrides: [{requestsPerSecond: 50, clientRefs: [{kind: ServiceAccount, name: cart}]}]
---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: reads, namespace: shop}
spec:
  parentRefs: [{group: policy.linkerd.io, kind: Server, name: web}]
  rules:
  - matches: [{path: {type: Exact, value: /x}, headers: [{name: a, value: b}]}]
"""

KINDS = [
    "Server",
    "ServerAuthorization",
    "AuthorizationPolicy",
    "MeshTLSAuthentication",
    "NetworkAuthentication",
    "HTTPLocalRateLimitPolicy",
    "HTTPRoute",
]


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "mesh.yaml"
    path.write_text(text)
    with pytest.raises(InvalidManifest) as error:
        load_manifests([path])
    return [str(problem).removeprefix(str(tmp_path) + "/") for problem in error.value.problems]


def test_every_kind_is_read_strictly_with_fields_that_nobody_reads_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(GOOD.replace("  port: http\n", "  port: http\n  newField: {a: 1}\n"))
    assert [type(resource).__name__ for resource in load_manifests([path])] == KINDS


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2", "v1beta3"])
def test_each_version_of_server_is_read(tmp_path: Path, version: str) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(GOOD.split("---")[0].replace("v1beta3", version).replace("  accessPolicy: deny\n", ""))
    assert len(load_manifests([path])) == 1


TLS_CLIENT = 'meshTLS: {identities: ["*.pay.serviceaccount.identity.linkerd.cluster.local"]}'
MISTAKES = [
    ("accessPolicy: deny", "accessPolicy: dney", "8: spec.accessPolicy: 'dney' is not one of all-unauthenticated"),
    ("accessPolicy: deny", "accessPolicy: dney", 'did you mean "deny"?'),
    ("HTTP/1", "http/1", "7: spec.proxyProtocol: 'http/1' is not one of unknown, HTTP/1"),
    ("port: http", "port: 99999", "6: spec.port: 99999 is not a port (1..65535)"),
    ("port: http", "port: Web!", "6: spec.port: 'Web!' is neither a port's number nor"),
    (
        "operator: Exists",
        "operator: Exist",
        "5: spec.podSelector.matchExpressions[0].operator: 'Exist' is not one of In",
    ),
    ("operator: Exists", "operator: In", "5: spec.podSelector.matchExpressions[0].values: In needs values"),
    ("  podSelector", "  podSelektor", "5: spec: podSelector is missing"),
    ("  podSelector", "  externalWorkloadSelector", "5: spec.externalWorkloadSelector: external workloads are not"),
    ("server: {name: web}", "server: {}", "14: spec.server: needs exactly one of name and selector"),
    ("10.0.0.0/8", "10.0.0.0/64", "16: spec.client.networks[0].cidr: '10.0.0.0/64' is not a network; write"),
    ("[10.1.0.0/16]", "[11.1.0.0/16]", "16: spec.client.networks[0].except[0]: 11.1.0.0/16 is not within 10.0.0.0/8"),
    ("[10.1.0.0/16]", "[0.0.0.0/0]", "16: spec.client.networks[0].except[0]: 0.0.0.0/0 takes out all of 10.0.0.0/8"),
    (TLS_CLIENT, "other: 1", "16: spec.client: lets nobody in; say unauthenticated: true or meshTLS"),
    (TLS_CLIENT, "meshTLS: {}", "17: spec.client.meshTLS: lets nobody in; name identities or serviceAccounts"),
    ("meshTLS: {", "meshTLS: {unauthenticatedTLS: true, ", "17: spec.client.meshTLS.unauthenticatedTLS: must not be"),
    ("    meshTLS", "    unauthenticated: true\n    meshTLS", "17: spec.client.unauthenticated: must not be true"),
    ('"*.pay.', '"pay.*.', "17: spec.client.meshTLS.identities[0]: 'pay.*."),
    ('"*.pay.', '"*pay.', "17: spec.client.meshTLS.identities[0]: '*pay."),
    ("kind: Server, name: web}\n  required", "kind: Sever, name: web}\n  required", "23: spec.targetRef.kind: 'Sever'"),
    (
        "kind: Server, name: web}\n  required",
        "kind: Server, name: web, namespace: x}\n  required",
        "23: spec.targetRef.na",
    ),
    (
        "{group: policy.linkerd.io, kind: Server, name: web}\n  req",
        "{kind: Namespace, name: pay}\n  req",
        "23: spec.targe",
    ),
    (
        "{group: policy.linkerd.io, kind: Server, name: web}\n  req",
        "{kind: Server, name: web}\n  req",
        "the group of Server",
    ),
    ("kind: MeshTLSAuthentication, name", "kind: MeshTLSAuthn, name", 'did you mean "MeshTLSAuthentication"?'),
    (
        "name: carts}\n---",
        "name: carts}\n  - {kind: ServiceAccount, name: x}\n---",
        "26: spec.requiredAuthenticationRefs[1]: only one MeshTLSAuthentication or ServiceAccount",
    ),
    ("identityRefs", "identityRef", "31: spec: needs exactly one of identities and identityRefs"),
    (
        "  identityRefs",
        "  identities: ['*']\n  identityRefs",
        "31: spec: needs exactly one of identities and identityRefs",
    ),
    (
        "identityRefs: [{kind: ServiceAccount",
        "identityRefs: [{kind: Pod",
        "31: spec.identityRefs[0].kind: 'Pod' is not",
    ),
    ('[{cidr: "192.0.2.0/24"}]', "[]", "37: spec.networks: must name a network"),
    ('"192.0.2.0/24"', "office", "37: spec.networks[0].cidr: 'office' is not a network"),
    (
        "total: {requestsPerSecond: 100}",
        "total: {requestsPerSecond: 0}",
        "44: spec.total.requestsPerSecond: must be gre",
    ),
    (
        "identity: {requestsPerSecond: 20}",
        "identity: {requestsPerSecond: 200}",
        "45: spec.identity.requestsPerSecond: 200",
    ),
    (
        "[{requestsPerSecond: 50",
        "[{requestsPerSecond: 500",
        "46: spec.overrides[0].requestsPerSecond: 500 is more than",
    ),
    (
        "50, clientRefs: [{kind: ServiceAccount",
        "50, clientRefs: [{kind: Group",
        "46: spec.overrides[0].clientRefs[0].kind",
    ),
    (
        "[{group: policy.linkerd.io, kind: Server",
        "[{group: other.io, kind: Server",
        "52: spec.parentRefs[0].group: a Server",
    ),
    (
        "type: Exact, value: /x",
        "type: Exact, value: x",
        "54: spec.rules[0].matches[0].path.value: 'x' is not an absolute",
    ),
    ("type: Exact, value: /x", "type: RegularExpression, value: (?=a)b", "54: spec.rules[0].matches[0].path.value"),
    (
        "  - matches: [{path",
        "  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}]\n    matches: [{path",
        "54: spec.rules[0].filters: filters are not supported on a Server's route",
    ),
    ("{name: a, value: b}", "{name: a, value: b, type: exact}", "54: spec.rules[0].matches[0].headers[0].type"),
]


@pytest.mark.parametrize(("good", "bad", "expected"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_a_mistake_is_told_with_file_line_and_field(tmp_path: Path, good: str, bad: str, expected: str) -> None:
    assert good in GOOD
    found = problems(tmp_path, GOOD.replace(good, bad, 1))
    assert any(expected in problem and problem.startswith("mesh.yaml:") for problem in found), found


def test_the_running_control_plane_refuses_what_admission_refuses() -> None:
    with pytest.raises(InvalidManifest):
        read_manifest(GOOD.replace("accessPolicy: deny", "accessPolicy: open"), Path("x.yaml"))


# ---- through the registry to the proxy's decision

POD = "kind: Pod\nmetadata: {name: web-0, namespace: shop, labels: {app: web, tier: x}}\n"
SPEC = "spec: {containers: [{ports: [{name: http, containerPort: 8080}]}]}\n"
CART = "cart.shop.serviceaccount.identity.linkerd.cluster.local"


class Registry:
    """A folder, a control plane over it, and a proxy's policy that follows its watch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        log, _ = silent_log()
        metrics = Metrics()
        files = RegistryFiles(path, log, metrics)
        self.discovery = Discovery(files, log, metrics, Cluster())
        self.discovery.load()
        self.policy = PortPolicy("all-unauthenticated")
        self.messages: list[InboundPolicy] = []
        watch = self.discovery.policy_handler()(Request("GET", "/v1/inbound/shop/web-0/8080", b""))
        assert isinstance(watch, Watch)
        watch.opened(self)  # type: ignore[arg-type]

    def send(self, line: bytes) -> None:
        message = decode_line(line)
        assert isinstance(message, InboundPolicy)
        self.messages.append(message)
        self.policy.apply(message)

    def write(self, name: str, text: str | None) -> int:
        """Puts a file (None: takes it away); how many lines that sent."""
        before = len(self.messages)
        if text is None:
            (self.path / name).unlink()
        else:
            (self.path / f".{name}").write_text(text)
            os.replace(self.path / f".{name}", self.path / name)
        self.discovery.poll()
        return len(self.messages) - before

    def asks(self, identity: str | None = None, peer: str = "10.0.0.7:1", path: str = "/x") -> Refused | None:
        head = RequestHead()
        head.method, head.path = "GET", path.encode()
        head.headers = [(b"a", b"b")]
        return self.policy.check(Session(peer, "10.0.0.1:8080", identity=identity, tls=identity is not None), head, 0.0)


def test_every_resource_that_concerns_a_port_reaches_its_open_watch_and_decides(tmp_path: Path) -> None:
    server, server_authorization, policy, mesh_tls, network, limit, route = GOOD.split("---\n")
    registry = Registry(tmp_path)
    assert registry.asks() is None

    assert registry.write("server.yaml", server) == 0  # no pod yet that it could select
    assert registry.write("pod.yaml", POD + SPEC) == 1
    assert registry.asks(CART) is Refused.FORBIDDEN

    assert registry.write("policy.yaml", policy) == 0  # grants nothing while its authentication is missing
    assert registry.write("mesh-tls.yaml", mesh_tls) == 1
    assert registry.asks(CART) is None
    assert registry.asks() is Refused.FORBIDDEN

    assert registry.write("network.yaml", network) == 0  # nobody refers to it yet
    by_network = policy.replace("MeshTLSAuthentication, name: carts", "NetworkAuthentication, name: office")
    assert registry.write("policy.yaml", by_network) == 1
    assert registry.asks(CART) is Refused.FORBIDDEN
    assert registry.asks(peer="192.0.2.9:1") is None
    assert registry.write("network.yaml", network.replace("192.0.2.0/24", "198.51.100.0/24")) == 1
    assert registry.asks(peer="192.0.2.9:1") is Refused.FORBIDDEN

    assert registry.write("authorization.yaml", server_authorization) == 1
    pay = "x.pay.serviceaccount.identity.linkerd.cluster.local"
    assert registry.asks(pay) is None
    assert registry.asks(pay, peer="10.1.0.1:1") is Refused.FORBIDDEN
    assert registry.asks(pay.replace(".pay.", ".repay."), peer="10.0.0.1:1") is Refused.FORBIDDEN

    assert registry.write("route.yaml", route) == 1
    assert registry.asks(pay) is None
    assert registry.asks(pay, path="/y") is Refused.NO_ROUTE

    assert registry.write("limit.yaml", limit.replace("requestsPerSecond: 20", "requestsPerSecond: 1")) == 1
    assert [registry.asks(pay), registry.asks(pay)] == [None, Refused.RATE_LIMITED]

    assert registry.write("limit.yaml", None) == 1
    assert registry.write("pod.yaml", POD.replace("app: web", "app: other") + SPEC) == 1
    assert registry.asks() is None

    namespace = (
        "kind: Namespace\nmetadata: {name: shop, annotations: {config.linkerd.io/default-inbound-policy: deny}}\n"
    )
    assert registry.write("namespace.yaml", namespace) == 1
    assert registry.asks() is Refused.FORBIDDEN
    assert [m.version for m in registry.messages] == sorted({m.version for m in registry.messages})


def test_what_concerns_another_namespace_or_port_sends_nothing(tmp_path: Path) -> None:
    server = GOOD.split("---\n")[0]
    registry = Registry(tmp_path)
    registry.write("pod.yaml", POD + SPEC)
    assert registry.write("other.yaml", server.replace("namespace: shop", "namespace: pay")) == 0
    assert registry.write("port.yaml", server.replace("port: http", "port: 9090")) == 0
