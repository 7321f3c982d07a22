"""Each broken install is named by its cause: the failing claim, what it says, and that nothing unrelated fails."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mesh.commands.check.checks import DEFAULT, PRE
from mesh.commands.check.facts import Bundle, Component, Facts, Node, Pod, Ref, Served, Viz
from mesh.commands.check.judge import Severity, failed, judge
from mesh.control.pki import create_issuer, create_trust_anchor
from tests.mesh.commands.healthy import (
    ANCHOR,
    APP,
    EXPECTED,
    HEALTHY,
    NOW,
    PROXY,
    STRANGER,
    YEAR,
    broken,
    control_pod,
    found,
    leaf_chain,
    serving,
    webhook,
)

INJECTOR, VALIDATOR = HEALTHY.webhooks


def test_a_healthy_install_has_nothing_against_it() -> None:
    assert found(HEALTHY) == []
    assert found(HEALTHY, Severity.WARNING) == []
    assert len(found(HEALTHY, Severity.OK)) > 40


DEAD_ISSUER = create_issuer(ANCHOR, now=NOW - 2 * YEAR, lifetime=YEAR)
CRD = Ref("CustomResourceDefinition", "servers.policy.linkerd.io")
ROLE = Ref("ClusterRole", "linkerd-linkerd-destination")
BINDING = Ref("ClusterRoleBinding", "linkerd-linkerd-destination")
POLICY_DOWN = replace(
    control_pod("linkerd-destination-x", "destination", "policy"),
    containers={"destination": True, "policy": False},
    trouble="container policy: CrashLoopBackOff (last exit code 1, Error)",
)

CAUSES: dict[str, tuple[Facts, str, str]] = {
    "expired issuer": (
        broken(issuer_pem=DEAD_ISSUER.certificate_pem),
        "issuer cert is within its validity period",
        "identity.linkerd.cluster.local: expired at",
    ),
    "issuer of another anchor": (
        broken(issuer_pem=create_issuer(STRANGER, now=NOW).certificate_pem),
        "issuer cert is issued by the trust anchor",
        "signed by none of the 1 trust anchors",
    ),
    "issuer's key is another one's": (
        broken(issuer_key_matches=False),
        "certificate config is valid",
        "tls.key is not the key of tls.crt",
    ),
    "no issuer": (broken(issuer_pem=None), "certificate config is valid", "Secret linkerd-identity-issuer: does not"),
    "expired anchor": (
        broken(anchors_pem=create_trust_anchor(now=NOW - 2 * YEAR, lifetime=YEAR).certificate_pem, issuer_pem=None),
        "trust anchors are within their validity period",
        "root.linkerd.cluster.local: expired at",
    ),
    "webhook certificate expired": (
        broken(
            webhooks=(replace(INJECTOR, serving_pem=serving("proxy-injector", STRANGER, now=NOW - YEAR)), VALIDATOR)
        ),
        "proxy-injector webhook has valid cert",
        "expired at",
    ),
    "webhook certificate of another CA": (
        broken(webhooks=(replace(INJECTOR, ca_bundle_pem=STRANGER.certificate_pem), VALIDATOR)),
        "proxy-injector webhook has valid cert",
        "caBundle does not vouch for the certificate in Secret linkerd-proxy-injector-k8s-tls",
    ),
    "webhook secret gone": (
        broken(webhooks=(INJECTOR, replace(VALIDATOR, serving_pem=""))),
        "policy-validator webhook has valid cert",
        "Secret linkerd-policy-validator-k8s-tls: does not exist",
    ),
    "missing CRD": (
        broken(missing=frozenset({CRD})),
        "control plane CustomResourceDefinitions exist",
        "CustomResourceDefinition servers.policy.linkerd.io is missing",
    ),
    "RBAC removed": (
        broken(missing=frozenset({BINDING})),
        "control plane ClusterRoleBindings exist",
        "ClusterRoleBinding linkerd-linkerd-destination is missing",
    ),
    "RBAC cut down": (
        broken(altered={ROLE: "does not grant get,list,watch pods"}),
        "control plane ClusterRoles exist",
        "ClusterRole linkerd-linkerd-destination: does not grant get,list,watch pods",
    ),
    "webhook server kept its old certificate": (
        broken(
            served=(
                *HEALTHY.served,
                Served(component="proxy-injector", pod="injector-x", chain_pem=serving("proxy-injector", STRANGER)),
            )
        ),
        "proxy-injector webhook has valid cert",
        "pod injector-x serves another certificate, for which caBundle does not vouch",
    ),
    "control plane's leaf of another anchor": (
        broken(
            served=(
                Served(component="policy", pod="p", chain_pem=leaf_chain(create_issuer(STRANGER, now=NOW))),
                *HEALTHY.served,
            )
        ),
        "control plane certificates match CA",
        "p (policy):",
    ),
    "control plane's leaf expired": (
        broken(served=(Served(component="identity", pod="i", chain_pem=leaf_chain(now=NOW - 3600, lifetime=600)),)),
        "control plane certificates are within their validity period",
        "i (identity):",
    ),
    "control plane does not speak TLS": (
        broken(served=(Served(component="policy", pod="p", problem="no mesh TLS on this port"), *HEALTHY.served)),
        "control plane certificates match CA",
        "p (policy): no mesh TLS on this port",
    ),
    "injector down": (
        broken(components=(Component(name="linkerd-proxy-injector", wanted=1, ready=0),)),
        "control plane replica sets are ready",
        "linkerd-proxy-injector: 0 of 1 ready",
    ),
    "injector scaled to zero": (
        broken(components=(Component(name="linkerd-proxy-injector", wanted=0, ready=0),)),
        "control plane replica sets are ready",
        "linkerd-proxy-injector: scaled to 0",
    ),
    "injector does not inject": (
        broken(webhooks=(replace(INJECTOR, trial="a pod in default came back without a linkerd-proxy"), VALIDATOR)),
        "proxy-injector webhook does its work (dry run)",
        "failurePolicy is Ignore: what it should see passes it by",
    ),
    "policy container down": (
        broken(pods=(POLICY_DOWN,)),
        "control plane pods are ready",
        "linkerd-destination-x: container policy: CrashLoopBackOff",
    ),
    "unschedulable": (
        broken(
            pods=(
                replace(
                    control_pod("linkerd-identity-x", "identity"),
                    phase="Pending",
                    containers={"identity": False},
                    trouble="Unschedulable: 0/1 nodes are available: insufficient cpu",
                    unschedulable=True,
                ),
            )
        ),
        "no unschedulable pods",
        "0/1 nodes are available: insufficient cpu",
    ),
    "node's clock behind": (
        broken(nodes=(Node(name="worker", ahead_seconds=-90.0),)),
        "no clock skew detected",
        "node worker: clock is 90 s behind the API server's",
    ),
    "our own clock ahead": (
        broken(api_ahead_seconds=-45.0),
        "no clock skew detected",
        "the API server's clock is 45 s behind this machine's",
    ),
    "trust bundle not replicated": (
        broken(bundles=(Bundle(namespace="shop", pem=None),)),
        "trust anchors are replicated to meshed namespaces",
        "shop: no ConfigMap linkerd-identity-trust-roots",
    ),
    "trust bundle out of date": (
        broken(bundles=(Bundle(namespace="shop", pem=STRANGER.certificate_pem),)),
        "trust anchors are replicated to meshed namespaces",
        "shop: ConfigMap linkerd-identity-trust-roots is not the control plane's",
    ),
    "leaf of another anchor": (
        broken(proxies=(replace(PROXY, chain_pem=leaf_chain(create_issuer(STRANGER, now=NOW))),)),
        "data plane proxies certificate match CA",
        "shop/cart-1:",
    ),
    "leaf expired": (
        broken(proxies=(replace(PROXY, chain_pem=leaf_chain(now=NOW - 3600, lifetime=600)),)),
        "data plane proxies certificates are within their validity period",
        "cart.shop.serviceaccount.identity.linkerd.cluster.local: expired at",
    ),
    "leaf expired, as metrics say": (
        broken(
            proxies=(
                replace(PROXY, chain_pem="", metrics={"control_identity_cert_expiration_timestamp_seconds": NOW - 5}),
            )
        ),
        "data plane proxies certificates are within their validity period",
        "shop/cart-1: leaf expired at",
    ),
    "proxy not ready": (
        broken(proxies=(replace(PROXY, pod=replace(APP, containers={"app": True, "linkerd-proxy": False})),)),
        "data plane proxies are ready",
        "shop/cart-1: linkerd-proxy is not ready",
    ),
    "admin port closed": (
        broken(proxies=(replace(PROXY, metrics=None, unreachable="pods shop/cart-1:4191: 503 refused"),)),
        "data plane proxy metrics are reachable",
        "shop/cart-1: pods shop/cart-1:4191: 503 refused",
    ),
    "no config map": (broken(values=None, expected=()), "'linkerd-config' config map exists", "does not exist"),
    "no namespace": (
        broken(
            namespace_exists=False,
            values=None,
            expected=(),
            components=(),
            pods=(),
            anchors_pem=None,
            issuer_pem=None,
            webhooks=(),
            bundles=(),
            viz=None,
        ),
        "control plane Namespace exists",
        'the "linkerd" namespace does not exist',
    ),
    "old Kubernetes": (
        broken(kubernetes_version="v1.24.3"),
        "is running the minimum Kubernetes API version",
        "v1.24.3",
    ),
    "viz does not answer": (
        broken(viz=Viz(components=(Component(name="viz"),), answer="services linkerd-viz/viz:8084: 503")),
        "viz extension self-check",
        "503",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_named(cause: str) -> None:
    facts, claim, text = CAUSES[cause]
    results = {result.claim: result for result in found(facts)}
    assert claim in results, sorted(results)
    assert text in results[claim].text
    assert results[claim].do


@pytest.mark.parametrize("cause", sorted(set(CAUSES) - {"expired anchor"}))
def test_nothing_else_is_blamed(cause: str) -> None:
    facts, claim, _ = CAUSES[cause]
    assert [result.claim for result in found(facts)] == [claim]


WARNINGS: dict[str, tuple[Facts, str, str]] = {
    "handshakes are not allowed": (
        broken(served=(Served(component="policy", pod="p", problem="not allowed to use pods/portforward"),)),
        "control plane certificates match CA",
        "not allowed to use pods/portforward",
    ),
    "proxy outdated": (
        broken(proxies=(replace(PROXY, pod=replace(APP, proxy_version="0.0.9")),), data_pods=(APP,)),
        "data plane is up-to-date",
        "shop/cart-1: proxy 0.0.9, control plane",
    ),
    "client and control plane differ": (
        broken(client_version="9.9.9"),
        "control plane and cli versions match",
        "this command line is 9.9.9",
    ),
    "control plane half upgraded": (
        broken(pods=(replace(HEALTHY.pods[0], image_version="0.0.9"), *HEALTHY.pods[1:])),
        "control plane is up-to-date",
        "linkerd-identity-x: runs 0.0.9",
    ),
    "issuer ends soon": (
        broken(issuer_pem=create_issuer(ANCHOR, now=NOW - 86_400, lifetime=20 * 86_400).certificate_pem),
        "issuer cert is valid for at least 60 days",
        "(in 19 days)",
    ),
    "anchor ends soon": (
        broken(anchors_pem=create_trust_anchor(now=NOW, lifetime=86_400).certificate_pem, issuer_pem=None),
        "trust anchors are valid for at least 60 days",
        "(in 24 hours)",
    ),
    "webhook certificate is not renewed": (
        broken(
            webhooks=(
                replace(
                    webhook("proxy-injector"),
                    serving_pem=serving("proxy-injector", STRANGER, lifetime=50 * 86_400),
                    ca_bundle_pem=STRANGER.certificate_pem,
                ),
                VALIDATOR,
            )
        ),
        "proxy-injector cert is valid for at least 60 days",
        "will expire at",
    ),
    "an anchor of an old rotation": (
        broken(
            anchors_pem=ANCHOR.certificate_pem
            + create_trust_anchor("old", now=NOW - 2 * YEAR, lifetime=YEAR).certificate_pem
        ),
        "trust anchors are within their validity period",
        "old: expired at",
    ),
    "a leaf still hangs from the anchor that is to go": (
        broken(
            anchors_pem=ANCHOR.certificate_pem + STRANGER.certificate_pem,
            bundles=(),
            proxies=(replace(PROXY, chain_pem=leaf_chain(create_issuer(STRANGER, now=NOW))),),
        ),
        "data plane proxies certificates come from the issuer's trust anchor",
        "other.anchor, which no longer signs the issuer",
    ),
    "inject as a label": (
        broken(data_pods=(replace(APP, labels={**APP.labels, "linkerd.io/inject": "enabled"}),)),
        "data plane pod labels are configured correctly",
        "shop/cart-1: linkerd.io/inject is a label",
    ),
    "opaque on the service only": (
        broken(services=(replace(HEALTHY.services[0], annotations={"config.linkerd.io/opaque-ports": "80"}),)),
        "opaque ports are properly annotated",
        "service shop/cart has the opaque port 80, and its target 8080 of pod cart-1 is not opaque",
    ),
    "opaque on the pod only": (
        broken(data_pods=(replace(APP, annotations={"config.linkerd.io/opaque-ports": "8000-8090"}),)),
        "opaque ports are properly annotated",
        "pod shop/cart-1 has the opaque port 8080, and port 80 of service shop/cart is not opaque",
    ),
    "pods outside of the cluster's networks": (
        broken(pod_ips={"100.200.0.4": "pod shop/cart-1", "fd00::7": "pod shop/cart-2"}),
        "cluster networks contains all pods",
        "pod shop/cart-1: 100.200.0.4 is outside of",
    ),
    "started while the injector was away": (
        broken(unmeshed=("shop/cart-2",)),
        "pods that are to be injected have a proxy",
        "shop/cart-2: is to be injected and has no linkerd-proxy",
    ),
    "an app with the proxy's user id": (
        broken(proxies=(replace(PROXY, pod=replace(APP, bypassing=("app",))),)),
        "no app runs as the proxy's user",
        "shop/cart-1: container app runs as the proxy's user",
    ),
    "nothing meshed": (
        broken(proxies=(), data_pods=(), services=(), bundles=(), data_namespace="shop"),
        "data plane proxies are ready",
        'no pods with a linkerd-proxy in the "shop" namespace',
    ),
}


@pytest.mark.parametrize("cause", WARNINGS)
def test_what_still_works_is_warned_of(cause: str) -> None:
    facts, claim, text = WARNINGS[cause]
    warnings = {result.claim: result for result in found(facts, Severity.WARNING)}
    assert claim in warnings, sorted(warnings)
    assert text in warnings[claim].text


def test_the_same_opaque_ports_on_both_sides_are_fine() -> None:
    facts = broken(
        services=(replace(HEALTHY.services[0], annotations={"config.linkerd.io/opaque-ports": "80,443"}),),
        data_pods=(replace(APP, annotations={"config.linkerd.io/opaque-ports": "8080"}),),
    )
    assert found(facts, Severity.WARNING) == []


def test_an_issuer_with_an_rsa_key_cannot_be_used() -> None:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rsa")])
    start = datetime.fromtimestamp(NOW, UTC) - timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(start).not_valid_after(start + timedelta(days=900))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    results = {result.claim: result for result in found(broken(issuer_pem=pem, anchors_pem=pem))}
    assert "must be ECDSA P-256" in results["issuer cert is using supported crypto algorithm"].text
    assert "trust anchors are using supported crypto algorithm" not in results


def test_what_may_not_be_read_is_said_and_not_guessed() -> None:
    facts = broken(unknown={"issuer_pem": 'secrets is forbidden: User "dev" cannot get'}, issuer_pem=None)
    assert found(facts) == []
    warnings = {result.claim: result.text for result in found(facts, Severity.WARNING)}
    assert warnings["certificate config is valid"].startswith("cannot tell: secrets is forbidden")


def test_what_is_essential_and_may_not_be_read_is_no_success() -> None:
    facts = broken(unknown={"pods": "pods is forbidden"}, pods=())
    claims = {result.claim for result in found(facts)}
    assert claims == {"no unschedulable pods", "control plane pods are ready", "control plane is up-to-date"}


def test_without_an_api_only_that_is_said() -> None:
    results = judge(broken(unreachable="cluster https://127.0.0.1:1 does not answer"), DEFAULT)
    assert [(result.claim, result.severity) for result in results] == [("can query the Kubernetes API", Severity.ERROR)]


def test_before_an_install_the_place_must_be_free() -> None:
    fresh = broken(namespace_exists=False, missing=frozenset(EXPECTED))
    assert not failed(judge(fresh, PRE))
    taken = broken(missing=frozenset(set(EXPECTED) - {ROLE}))
    claims = {result.claim: result.text for result in judge(taken, PRE) if result.severity is Severity.ERROR}
    assert claims == {
        "control plane namespace does not already exist": 'the "linkerd" namespace already exists',
        "no objects of another install exist": "ClusterRole linkerd-linkerd-destination already exists",
    }


def test_before_an_install_permissions_are_named_one_by_one() -> None:
    facts = broken(
        namespace_exists=False,
        missing=frozenset(EXPECTED),
        allowed={**HEALTHY.allowed, "create ClusterRole": False},
    )
    errors = [result for result in judge(facts, PRE) if result.severity is Severity.ERROR]
    assert [(result.claim, result.text) for result in errors] == [
        ("can create ClusterRoles", "not authorized to create ClusterRole")
    ]


def test_a_completed_job_s_proxy_is_not_missed() -> None:
    done = Pod(name="job-1", namespace="shop", phase="Succeeded", proxy_version=APP.proxy_version)
    assert found(broken(proxies=(replace(PROXY, pod=done, metrics=None, chain_pem=""),))) == []


def test_long_findings_are_cut_and_counted() -> None:
    missing = tuple(Ref("CustomResourceDefinition", f"c{number}.linkerd.io") for number in range(14))
    (result,) = found(broken(expected=(*EXPECTED, *missing), missing=frozenset(missing)))
    assert result.text.splitlines()[-1] == "… and 4 more"
