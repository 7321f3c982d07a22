"""Pods from Kubernetes' objects, names of resources, and who belongs to what."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.viz.pods import owner_of, pod_from_object
from mesh.viz.resources import Resource, UnknownResource, parse_resource

PROXY = {
    "name": "linkerd-proxy",
    "env": [
        {"name": "LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "value": "[::]:4191"},
        {"name": "LINKERD2_PROXY_CONTROL_LISTEN_ADDR", "value": "0.0.0.0:4290"},
        {"name": "LINKERD2_PROXY_IDENTITY_LOCAL_NAME", "value": "$(_pod_sa).$(_pod_ns).serviceaccount"},
        {"name": "LINKERD2_PROXY_TAP_SVC_NAME", "value": "viz.linkerd-viz.serviceaccount"},
        {"name": "_pod_sa", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
    ],
}


def manifest(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "metadata": {
            "name": "web-5d4f-x",
            "namespace": "shop",
            "labels": {"pod-template-hash": "5d4f"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4f", "controller": True}],
        },
        "spec": {"serviceAccountName": "web", "containers": [{"name": "app"}, PROXY]},
        "status": {"phase": "Running", "podIP": "10.0.0.7"},
    }
    for part, values in changes.items():
        found[part] = {**found[part], **values}
    return found


def test_a_meshed_pod_is_read_with_its_ports_identity_and_workload() -> None:
    pod = pod_from_object(manifest(), "cluster.local", "linkerd")
    assert pod is not None
    assert (pod.kind, pod.workload, pod.admin, pod.tap) == ("Deployment", "web", "10.0.0.7:4191", "10.0.0.7:4290")
    assert pod.identity == "web.shop.serviceaccount.identity.linkerd.cluster.local"


def test_a_native_sidecar_is_found_among_the_init_containers() -> None:
    spec = {"containers": [{"name": "app"}], "initContainers": [{"name": "linkerd-init"}, PROXY]}
    pod = pod_from_object(manifest(spec=spec), "cluster.local", "linkerd")
    assert pod is not None
    assert pod.meshed


def test_ipv6_addresses_get_their_brackets() -> None:
    pod = pod_from_object(manifest(status={"podIP": "fd00::7"}), "cluster.local", "linkerd")
    assert pod is not None
    assert pod.admin == "[fd00::7]:4191"


def test_a_pod_without_a_proxy_is_there_and_not_meshed() -> None:
    pod = pod_from_object(manifest(spec={"containers": [{"name": "app"}]}), "cluster.local", "linkerd")
    assert pod is not None
    assert (pod.meshed, pod.admin, pod.tap, pod.identity) == (False, "", "", "")


@pytest.mark.parametrize("status", [{"phase": "Succeeded"}, {"phase": "Failed"}, {"podIP": ""}])
def test_what_does_not_run_is_no_pod_of_ours(status: dict[str, str]) -> None:
    assert pod_from_object(manifest(status=status), "cluster.local", "linkerd") is None


@pytest.mark.parametrize(
    ("kind", "name", "labels", "owner"),
    [
        ("ReplicaSet", "web-5d4f", {"pod-template-hash": "5d4f"}, ("Deployment", "web")),
        ("ReplicaSet", "bare", {}, ("ReplicaSet", "bare")),
        ("StatefulSet", "db", {}, ("StatefulSet", "db")),
        ("Job", "report-28900000", {}, ("CronJob", "report")),
        ("Job", "migrate-7", {}, ("Job", "migrate-7")),
        ("Node", "node-1", {}, ("Pod", "")),
    ],
)
def test_the_workload_is_known_from_the_pod_alone(
    kind: str, name: str, labels: dict[str, str], owner: tuple[str, str]
) -> None:
    metadata = {"labels": labels, "ownerReferences": [{"kind": kind, "name": name, "controller": True}]}
    assert owner_of(metadata) == owner


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("deploy/web", "Deployment", "web"),
        ("deployments web", "Deployment", "web"),
        ("DEPLOY", "Deployment", ""),
        ("sts/db", "StatefulSet", "db"),
        ("ns", "Namespace", ""),
        ("po/web-1", "Pod", "web-1"),
        ("svc/pay", "Service", "pay"),
        ("au/pay.shop.svc.cluster.local:80", "Authority", "pay.shop.svc.cluster.local:80"),
    ],
)
def test_resources_go_by_the_names_that_kubectl_knows(text: str, kind: str, name: str) -> None:
    found = parse_resource(text, "shop")
    assert (found.kind, found.name) == (kind, name)
    assert found.namespace == ("" if kind == "Namespace" else "shop")


@pytest.mark.parametrize("text", ["", "bicycle", "deploy/a/b", "deploy a b", "/web"])
def test_what_is_no_resource_is_refused(text: str) -> None:
    with pytest.raises(UnknownResource):
        parse_resource(text)


def test_who_belongs_to_what() -> None:
    pod = pod_from_object(manifest(), "cluster.local", "linkerd")
    assert pod is not None
    inside = [
        Resource("Deployment"),
        Resource("Deployment", "web", "shop"),
        Resource("Workload", "web"),
        Resource("Pod", "web-5d4f-x"),
        Resource("Namespace", "shop"),
    ]
    outside = [
        Resource("Deployment", "web", "other"),
        Resource("Deployment", "pay"),
        Resource("StatefulSet"),
        Resource("Namespace", "other"),
        Resource("Pod", "web"),
    ]
    assert all(resource.holds(pod) for resource in inside)
    assert not any(resource.holds(pod) for resource in outside)
