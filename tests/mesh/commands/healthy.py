"""Facts of a healthy install, with real certificates, for tests that break one thing of it."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from mesh.api.values import VERSION, Values
from mesh.commands.check.checks import DATA_PLANE, DEFAULT
from mesh.commands.check.checks.identity import COMPONENTS
from mesh.commands.check.checks.pre import CREATE, READ
from mesh.commands.check.facts import Bundle, Component, Facts, Node, Pod, Proxy, Ref, Served, Service, Viz, Webhook
from mesh.commands.check.judge import Result, Severity, judge
from mesh.control.names import identity_name
from mesh.control.pki import Authority, create_issuer, create_key, create_trust_anchor, issue_leaf, to_pem

NOW = 1_790_000_000.0
YEAR = 365 * 86_400.0
ANCHOR = create_trust_anchor(now=NOW - 86_400, lifetime=10 * YEAR)
ISSUER = create_issuer(ANCHOR, now=NOW - 86_400)
STRANGER = create_trust_anchor("other.anchor", now=NOW - 86_400)
CART = identity_name("cart", "shop")


def leaf_chain(issuer: Authority = ISSUER, *, now: float = NOW, lifetime: float = 86_400.0) -> str:
    """What a proxy shows: leaf, then issuer."""
    leaf = issue_leaf(issuer, CART, create_key().public_key(), now=now, lifetime=lifetime)
    return to_pem(leaf) + issuer.certificate_pem


def serving(
    name: str,
    authority: Authority,
    *,
    now: float = NOW,
    lifetime: float = 200 * 86_400.0,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> str:
    """A webhook's own certificate."""
    host = f"linkerd-{name}.linkerd.svc"
    public = (key or create_key()).public_key()
    return to_pem(issue_leaf(authority, host, public, now=now, lifetime=lifetime))


def webhook(name: str) -> Webhook:
    authority = create_trust_anchor(f"linkerd-{name}.linkerd.svc", now=NOW - 3600)
    return Webhook(
        name=name,
        ca_bundle_pem=authority.certificate_pem,
        serving_pem=serving(name, authority),
        secret=f"linkerd-{name}-k8s-tls",
        hosts=(f"linkerd-{name}.linkerd.svc",),
        trial="",
    )


def control_pod(name: str, *containers: str) -> Pod:
    return Pod(name=name, containers=dict.fromkeys(containers, True), image_version=VERSION, ip="10.244.0.7")


APP = Pod(
    name="cart-1",
    namespace="shop",
    containers={"app": True, "linkerd-proxy": True},
    proxy_version=VERSION,
    labels={"app": "cart"},
    ports={"http": 8080},
    ip="10.244.0.9",
)
PROXY = Proxy(
    pod=APP,
    metrics={"control_identity_cert_expiration_timestamp_seconds": NOW + 86_000},
    chain_pem=leaf_chain(),
)
EXPECTED = (
    Ref("Namespace", "linkerd"),
    Ref("ServiceAccount", "linkerd-identity", "linkerd"),
    Ref("ClusterRole", "linkerd-linkerd-destination"),
    Ref("ClusterRoleBinding", "linkerd-linkerd-destination"),
    Ref("CustomResourceDefinition", "servers.policy.linkerd.io"),
    Ref("MutatingWebhookConfiguration", "linkerd-proxy-injector-webhook-config"),
    Ref("ValidatingWebhookConfiguration", "linkerd-policy-validator-webhook-config"),
    Ref("Deployment", "linkerd-identity", "linkerd"),
    Ref("Service", "linkerd-dst", "linkerd"),
)
HEALTHY = Facts(
    now=NOW,
    client_version=VERSION,
    kubernetes_version="v1.34.4",
    api_ahead_seconds=0.2,
    nodes=(Node(name="worker", ahead_seconds=0.1, networks=("10.244.0.0/24",)),),
    values=Values(),
    expected=EXPECTED,
    components=tuple(Component(name=f"linkerd-{name}") for name in ("identity", "destination", "proxy-injector")),
    pods=(
        control_pod("linkerd-identity-x", "identity"),
        control_pod("linkerd-destination-x", "destination", "policy"),
        control_pod("linkerd-proxy-injector-x", "proxy-injector"),
    ),
    pod_ips={"10.244.0.9": "pod shop/cart-1"},
    service_ips={"10.96.0.1": "service default/kubernetes"},
    anchors_pem=ANCHOR.certificate_pem,
    issuer_pem=ISSUER.certificate_pem,
    webhooks=(webhook("proxy-injector"), webhook("policy-validator")),
    served=tuple(Served(component=name, pod=f"linkerd-{name}-x", chain_pem=leaf_chain()) for name in COMPONENTS),
    proxies=(PROXY,),
    data_pods=(APP,),
    services=(Service(name="cart", namespace="shop", selector={"app": "cart"}, ports={80: "http"}, ip="10.96.3.4"),),
    bundles=(Bundle(namespace="shop", pem=ANCHOR.certificate_pem),),
    viz=Viz(components=(Component(name="viz"),), answer=""),
    allowed={**{f"create {kind}": True for kind in CREATE}, **{f"get {kind}": True for kind in READ}},
)
ALL = (*DATA_PLANE, *(category for category in DEFAULT if category.name == "linkerd-viz"))


def broken(**changes: object) -> Facts:
    """The healthy install with other facts in some places."""
    return replace(HEALTHY, **changes)  # type: ignore[arg-type]


def found(facts: Facts, severity: Severity = Severity.ERROR) -> list[Result]:
    """What all checks together have against it."""
    return [result for result in judge(facts, ALL) if result.severity is severity]
