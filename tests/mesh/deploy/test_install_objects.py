"""The objects of an install: what each pod may do, that they fit together, and what changes with values."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.api.values import load_values
from mesh.control import config as control
from mesh.control.injector import __main__ as injector
from mesh.control.names import component_name
from mesh.deploy import pod
from mesh.deploy.credentials import create_credentials
from mesh.deploy.labels import CONTROL_PLANE_NS, PART_OF
from mesh.deploy.objects import crd_objects, install_objects
from mesh.deploy.values import read_values
from mesh.viz import config as viz

CREDENTIALS = create_credentials("cluster.local")
Json = dict[str, Any]


def objects(*settings: str, ha: bool = False) -> list[Json]:
    return install_objects(read_values(settings=settings, high_availability=ha), CREDENTIALS)


def of_kind(found: list[Json], kind: str) -> dict[str, Json]:
    return {item["metadata"]["name"]: item for item in found if item["kind"] == kind}


def test_every_object_says_that_it_is_ours() -> None:
    values = read_values(settings=["installGatewayAPI=true"])
    for item in crd_objects(values) + install_objects(values, CREDENTIALS):
        assert item["metadata"]["labels"][CONTROL_PLANE_NS] == "linkerd", item["metadata"]
        assert item["metadata"]["labels"][PART_OF] == "gameday-mesh"


def test_pods_satisfy_pod_security_restricted() -> None:
    deployments = of_kind(objects(), "Deployment")
    assert deployments.keys() == {"linkerd-identity", "linkerd-destination", "linkerd-proxy-injector", "viz"}
    for deployment in deployments.values():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(volume.keys() - {"name"} <= {"emptyDir", "configMap", "projected"} for volume in pod["volumes"])
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert context["runAsUser"] == 2103
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert container["image"].rpartition(":")[2] != "latest"


def test_services_and_policies_select_the_pods_and_ports_that_exist() -> None:
    found = objects()
    pods = [item["spec"]["template"] for item in of_kind(found, "Deployment").values()]
    for kind in ("Service", "NetworkPolicy"):
        for item in of_kind(found, kind).values():
            selector = item["spec"].get("selector") or item["spec"]["podSelector"]["matchLabels"]
            chosen = [pod for pod in pods if selector.items() <= pod["metadata"]["labels"].items()]
            assert len(chosen) == 1, item["metadata"]
            offered = {port["containerPort"] for c in chosen[0]["spec"]["containers"] for port in c["ports"]}
            if kind == "Service":
                assert {port["targetPort"] for port in item["spec"]["ports"]} <= offered
            else:
                assert {port["port"] for port in item["spec"]["ingress"][0]["ports"]} == offered


def test_webhooks_call_services_that_exist_and_spare_the_mesh_itself() -> None:
    found = objects("webhookFailurePolicy=Fail", "proxyInjector.excludedNamespaces=[kube-system, vault]")
    services = of_kind(found, "Service")
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for item in of_kind(found, kind).values():
            for webhook in item["webhooks"]:
                assert webhook["clientConfig"]["service"]["name"] in services
                assert webhook["failurePolicy"] == "Fail"
    injector = of_kind(found, "MutatingWebhookConfiguration")["linkerd-proxy-injector-webhook-config"]["webhooks"][0]
    expressions = {entry["key"]: entry["values"] for entry in injector["namespaceSelector"]["matchExpressions"]}
    assert expressions["kubernetes.io/metadata.name"] == ["linkerd", "linkerd-viz", "kube-system", "vault"]
    assert injector["timeoutSeconds"] == 10
    assert injector["rules"][0]["operations"] == ["CREATE"]
    assert injector["rules"][0]["resources"] == ["pods", "services"]


def test_roles_name_what_they_allow_and_secrets_are_read_by_name_only() -> None:
    found = objects()
    for kind in ("ClusterRole", "Role"):
        for name, role in of_kind(found, kind).items():
            for rule in role["rules"]:
                assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], name
                assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), name
                if "secrets" in rule["resources"]:
                    assert kind == "Role"
                    assert rule.get("resourceNames") or rule["verbs"] == ["create"]
                if kind == "ClusterRole" and {"update", "delete", "patch"} & set(rule["verbs"]):
                    limited = rule.get("resourceNames") or all(r.endswith("/status") for r in rule["resources"])
                    assert limited or rule["resources"] == ["events"], (name, rule)


def test_each_binding_joins_a_role_and_an_account_that_exist() -> None:
    found = objects()
    accounts = {(a["metadata"]["namespace"], a["metadata"]["name"]) for a in found if a["kind"] == "ServiceAccount"}
    for kind in ("ClusterRole", "Role"):
        roles = of_kind(found, kind)
        bindings = of_kind(found, f"{kind}Binding")
        assert roles.keys() == bindings.keys()
        for binding in bindings.values():
            assert binding["roleRef"]["name"] in roles
            for subject in binding["subjects"]:
                assert (subject["namespace"], subject["name"]) in accounts


def test_high_availability_spreads_replicas_and_bounds_disruption() -> None:
    found = objects(ha=True)
    budgets = of_kind(found, "PodDisruptionBudget")
    assert len(budgets) == 3
    assert all(budget["spec"]["maxUnavailable"] == 1 for budget in budgets.values())
    for name, deployment in of_kind(found, "Deployment").items():
        spec = deployment["spec"]
        if name == "viz":
            assert spec["replicas"] == 1
            continue
        assert spec["replicas"] == 3
        required = spec["template"]["spec"]["affinity"]["podAntiAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        assert required[0]["topologyKey"] == "kubernetes.io/hostname"
        assert spec["template"]["spec"]["containers"][0]["resources"]["limits"] == {"memory": "250Mi"}
    assert of_kind(objects(), "PodDisruptionBudget") == {}
    assert "affinity" not in of_kind(objects(), "Deployment")["linkerd-identity"]["spec"]["template"]["spec"]


def test_the_stored_values_are_those_of_the_install_and_hold_no_key() -> None:
    found = objects("proxy.logLevel=debug")
    text = of_kind(found, "ConfigMap")["linkerd-config"]["data"]["values"]
    assert load_values(text) == read_values(settings=["proxy.logLevel=debug"])
    assert "PRIVATE KEY" not in text
    assert "BEGIN CERTIFICATE" not in text


def test_the_issuers_secret_and_the_trust_roots_are_what_identity_reads() -> None:
    found = objects()
    secret = of_kind(found, "Secret")["linkerd-identity-issuer"]
    assert secret["type"] == "kubernetes.io/tls"
    assert base64.b64decode(secret["data"]["tls.key"]).decode() == CREDENTIALS.issuer_key
    roots = of_kind(found, "ConfigMap")["linkerd-identity-trust-roots"]["data"]["ca-bundle.crt"]
    assert roots == CREDENTIALS.trust_anchors


@pytest.mark.parametrize(
    ("settings", "gone"),
    [
        (("identity.issuer.external=true",), {("Secret", "linkerd-identity-issuer")}),
        (("identity.externalCA=true",), {("ConfigMap", "linkerd-identity-trust-roots")}),
        (("viz.enabled=false",), {("Deployment", "viz"), ("Namespace", "linkerd-viz"), ("NetworkPolicy", "viz")}),
        (("networkPolicies.enabled=false",), {("NetworkPolicy", "viz"), ("NetworkPolicy", "linkerd-identity")}),
    ],
)
def test_what_is_switched_off_is_not_printed(settings: tuple[str, ...], gone: set[tuple[str, str]]) -> None:
    def names(found: list[Json]) -> set[tuple[str, str]]:
        return {(item["kind"], item["metadata"]["name"]) for item in found}

    assert gone <= names(objects())
    assert not gone & names(objects(*settings))


def test_components_are_started_with_the_names_that_the_identities_have() -> None:
    deployments = of_kind(objects("identityTrustDomain=mesh.example"), "Deployment")
    for container in deployments["linkerd-destination"]["spec"]["template"]["spec"]["containers"]:
        arguments = container["args"]
        name = arguments[arguments.index("--local-name") + 1]
        assert name == component_name("destination", "mesh.example")
        assert arguments[arguments.index("--identity-name") + 1] == component_name("identity", "mesh.example")


def test_every_container_is_started_with_flags_that_its_program_takes(tmp_path: Path) -> None:
    for name, value in (("token", "x"), ("ca.crt", CREDENTIALS.trust_anchors)):
        (tmp_path / name).write_text(value)
    programs: dict[str, Callable[[list[str]], object]] = {
        "mesh.control": control.parse,
        "mesh.control.injector": injector.parse,
        "mesh.viz": viz.parse,
    }
    seen = set()
    for deployment in of_kind(objects(ha=True), "Deployment").values():
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            module = container["command"][-1]
            arguments = [argument.replace(pod.ANCHORS_FILE, str(tmp_path / "ca.crt")) for argument in container["args"]]
            arguments = [argument.replace(pod.TOKEN_FILE, str(tmp_path / "token")) for argument in arguments]
            programs[module](arguments)
            seen.add(container["name"])
    assert seen == {"identity", "destination", "policy", "proxy-injector", "viz"}
