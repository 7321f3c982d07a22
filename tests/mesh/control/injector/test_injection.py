"""What becomes of a pod: verdicts, the injected pod, annotations, the patch. The API server's part is played by a
JSON Patch of ten lines, so that what is checked is what it would store."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.values import ProxyInit, Values
from mesh.control.injector.patch import (
    Cluster,
    difference,
    injected,
    opaque_service,
    owner_of,
    verdict,
)
from mesh.control.injector.settings import _ANNOTATIONS, settings_of
from mesh.control.injector.sidecar import INIT, PROXY
from mesh.proxy.config import load_config

ON = {"linkerd.io/inject": "enabled"}
CLUSTER = Cluster(Values(), "-----BEGIN CERTIFICATE-----\n")


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "app", "image": "app:1", "ports": [{"containerPort": 8080, "name": "http"}]}
    owner = {"kind": "ReplicaSet", "name": "web-5d8f", "controller": True}
    labels = {"app": "web", "pod-template-hash": "5d8f"}
    metadata: dict[str, Any] = {"generateName": "web-5d8f-", "labels": labels, "ownerReferences": [owner]}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [container], **spec}}


def apply(object_: dict[str, Any], patch: list[dict[str, Any]]) -> dict[str, Any]:
    """As the API server does it, for the one operation that we use."""
    result = copy.deepcopy(object_)
    for operation in patch:
        assert operation["op"] == "add"
        *parents, last = [s.replace("~1", "/").replace("~0", "~") for s in operation["path"].split("/")[1:]]
        target = result
        for step in parents:
            target = target[step]
        target[last] = operation["value"]
    return result


def inject(
    annotations: dict[str, str] | None = None, of_namespace: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    return injected(pod(annotations, **spec), "shop", of_namespace or ON, CLUSTER).pod


def container(found: dict[str, Any], name: str) -> dict[str, Any]:
    spec = found["spec"]
    (one,) = [one for one in (*spec["initContainers"], *spec["containers"]) if one["name"] == name]
    return dict(one)


def environment(found: dict[str, Any]) -> dict[str, str]:
    """As the kubelet makes it."""
    downward = {"metadata.name": "web-0", "metadata.namespace": "shop", "spec.serviceAccountName": "web"}
    downward["status.podIPs"] = "10.244.0.7,fd00::7"
    result: dict[str, str] = {}
    for entry in container(found, PROXY)["env"]:
        value = entry.get("value") or downward[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        for name, known in result.items():
            value = value.replace(f"$({name})", known)
        result[entry["name"]] = value
    return result


# ---- may it be injected


@pytest.mark.parametrize(
    ("annotations", "of_namespace", "spec", "reason"),
    [
        ({}, {}, {}, "injection_enable_annotation_absent"),
        (ON, {}, {}, ""),
        ({}, ON, {}, ""),
        (None, ON, {}, ""),
        ({"linkerd.io/inject": "ingress"}, {}, {}, ""),
        ({"linkerd.io/inject": "disabled"}, ON, {}, "injection_disable_annotation_present"),
        (ON, {"linkerd.io/inject": "disabled"}, {}, ""),
        ({"linkerd.io/inject": "yes"}, {}, {}, "injection_annotation_unknown"),
        (ON, {}, {"hostNetwork": True}, "host_network_enabled"),
        (ON, {}, {"automountServiceAccountToken": False}, "disabled_automount_service_account_token_account"),
        (ON, {}, {"initContainers": [{"name": "linkerd-proxy"}]}, "sidecar_already_exists"),
        (ON, {}, {"initContainers": [{"name": "linkerd-init"}]}, "sidecar_already_exists"),
    ],
)
def test_who_is_injected(
    annotations: dict[str, str] | None, of_namespace: dict[str, str], spec: dict[str, Any], reason: str
) -> None:
    assert verdict(pod(annotations, **spec), of_namespace).reason == reason


def test_an_injected_pod_is_not_injected_again() -> None:
    for native in ("true", "false"):
        found = inject({"config.linkerd.io/proxy-enable-native-sidecar": native})
        assert verdict(found, ON).reason == "sidecar_already_exists"


# ---- what it gets


def test_a_native_sidecar_comes_before_everything_and_the_app_is_left_as_it_is() -> None:
    found = inject(initContainers=[{"name": "migrate"}])
    assert [one["name"] for one in found["spec"]["initContainers"]] == [INIT, PROXY, "migrate"]
    assert found["spec"]["containers"] == pod()["spec"]["containers"]
    proxy = container(found, PROXY)
    assert proxy["restartPolicy"] == "Always"
    assert proxy["startupProbe"] == {
        "httpGet": {"path": "/ready", "port": 4191},
        "periodSeconds": 1,
        "timeoutSeconds": 1,
        "failureThreshold": 120,
    }
    assert "lifecycle" not in proxy


def test_without_native_sidecars_the_proxy_is_the_first_container_and_the_app_waits_for_it() -> None:
    found = inject({"config.linkerd.io/proxy-enable-native-sidecar": "false"}, initContainers=[{"name": "migrate"}])
    assert [one["name"] for one in found["spec"]["initContainers"]] == ["migrate", INIT]
    assert [one["name"] for one in found["spec"]["containers"]] == [PROXY, "app"]
    proxy = container(found, PROXY)
    assert proxy["lifecycle"]["postStart"]["exec"]["command"][:3] == ["python", "-m", "mesh.proxy.wait"]
    assert "restartPolicy" not in proxy
    assert "startupProbe" not in proxy
    assert found["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "app"
    last = inject(
        {"config.linkerd.io/proxy-enable-native-sidecar": "false", "config.linkerd.io/proxy-await": "disabled"}
    )
    assert [one["name"] for one in last["spec"]["containers"]] == ["app", PROXY]


def test_containers_run_without_root_and_on_a_read_only_file_system() -> None:
    found = inject()
    for name, uid, capabilities in ((PROXY, 2102, []), (INIT, 65534, ["NET_ADMIN", "NET_RAW"])):
        security = container(found, name)["securityContext"]
        assert (security["runAsUser"], security["runAsNonRoot"], security["readOnlyRootFilesystem"]) == (
            uid,
            True,
            True,
        )
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"].get("add", []) == capabilities
        assert security["capabilities"]["drop"] == ["ALL"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_environment_is_one_that_the_proxy_reads(tmp_path: Any) -> None:
    from mesh.control.pki import create_trust_anchor

    anchors = tmp_path / "ca.crt"
    anchors.write_text(create_trust_anchor().certificate_pem)
    found = environment(inject())
    found["LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS_FILE"] = str(anchors)
    config = load_config(found)
    assert config.identity is not None
    assert config.identity.local_name == "web.shop.serviceaccount.identity.linkerd.cluster.local"
    assert config.workload is not None
    assert (config.workload.namespace, config.workload.pod) == ("shop", "web-0")
    assert config.inbound_ips == {"10.244.0.7", "fd00::7"}
    assert config.inbound_ports == {8080}
    assert config.inbound_connect_timeout == 0.1
    assert 6379 in config.opaque_ports
    assert not config.ingress_mode
    assert config.app is None
    assert config.destination is not None
    assert str(config.destination) == "linkerd-dst.linkerd.svc.cluster.local:8086"
    assert config.destination.name == "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local"
    assert config.tap_name.startswith("viz.linkerd-viz.")


def test_labels_and_annotations_are_linkerds() -> None:
    metadata = inject()["metadata"]
    assert metadata["labels"] == {
        "app": "web",
        "pod-template-hash": "5d8f",
        "linkerd.io/control-plane-ns": "linkerd",
        "linkerd.io/workload-ns": "shop",
        "linkerd.io/proxy-deployment": "web",
    }
    assert metadata["annotations"]["linkerd.io/inject"] == "enabled"
    assert metadata["annotations"]["linkerd.io/proxy-version"] == Values().image.version
    assert len(metadata["annotations"]["linkerd.io/trust-root-sha256"]) == 64


def test_owners() -> None:
    assert owner_of(pod()) == ("Deployment", "web")
    job = {"metadata": {"ownerReferences": [{"kind": "Job", "name": "once", "controller": True}]}}
    assert owner_of(job) == ("Job", "once")
    bare = {"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "name": "rs", "controller": True}]}}
    assert owner_of(bare) == ("ReplicaSet", "rs")
    assert owner_of({"metadata": {}}) is None


# ---- annotations

SAYS = {
    "proxy-image": ("registry/mesh", lambda p, i: p["image"].startswith("registry/mesh:") and i["image"] == p["image"]),
    "proxy-version": ("9.9", lambda p, i: p["image"].endswith(":9.9")),
    "image-pull-policy": ("Always", lambda p, i: p["imagePullPolicy"] == i["imagePullPolicy"] == "Always"),
    "proxy-uid": ("3000", lambda p, i: p["securityContext"]["runAsUser"] == 3000 and "3000" in i["args"]),
    "proxy-gid": ("3001", lambda p, i: p["securityContext"]["runAsGroup"] == 3001 and "--proxy-gid" in i["args"]),
    "proxy-log-level": ("debug", "LOG=debug"),
    "default-inbound-policy": ("deny", "INBOUND_DEFAULT_POLICY=deny"),
    "opaque-ports": ("http,9000-9001", "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION=8080,9000-9001"),
    "skip-inbound-ports": ("25,30-32", lambda p, i: "4190,4191,25,30-32" in i["args"]),
    "skip-outbound-ports": ("443", lambda p, i: i["args"][i["args"].index("--outbound-ports-to-ignore") + 1] == "443"),
    "skip-subnets": ("10.1.0.0/16", lambda p, i: "10.1.0.0/16" in i["args"]),
    "proxy-require-identity-inbound-ports": ("8080", "INBOUND_PORTS_REQUIRE_IDENTITY=8080"),
    "pod-inbound-ports": ("81,82", "INBOUND_PORTS=81,82"),
    "proxy-outbound-connect-timeout": ("2s", "OUTBOUND_CONNECT_TIMEOUT=2s"),
    "proxy-inbound-connect-timeout": ("200ms", "INBOUND_CONNECT_TIMEOUT=200ms"),
    "proxy-outbound-discovery-cache-unused-timeout": ("9s", "OUTBOUND_DISCOVERY_IDLE_TIMEOUT=9s"),
    "proxy-inbound-discovery-cache-unused-timeout": ("8s", "INBOUND_DISCOVERY_IDLE_TIMEOUT=8s"),
    "shutdown-grace-period": ("30s", "SHUTDOWN_GRACE_PERIOD=30s"),
    "proxy-wait-before-exit-seconds": ("7", lambda p, i: p["lifecycle"]["preStop"]["exec"]["command"][-1] == "7"),
    "proxy-enable-native-sidecar": ("false", lambda p, i: "restartPolicy" not in p),
    "proxy-await": ("disabled", lambda p, i: "lifecycle" not in p),
    "access-log": ("json", "ACCESS_LOG=json"),
    "proxy-admin-shutdown": ("enabled", "SHUTDOWN_ENDPOINT_ENABLED=true"),
    "proxy-cpu-request": ("100m", lambda p, i: p["resources"]["requests"]["cpu"] == "100m"),
    "proxy-cpu-limit": ("1", lambda p, i: p["resources"]["limits"]["cpu"] == "1"),
    "proxy-memory-request": ("50Mi", lambda p, i: p["resources"]["requests"]["memory"] == "50Mi"),
    "proxy-memory-limit": ("250Mi", lambda p, i: p["resources"]["limits"]["memory"] == "250Mi"),
    "proxy-ephemeral-storage-request": ("1Gi", lambda p, i: p["resources"]["requests"]["ephemeral-storage"] == "1Gi"),
    "proxy-ephemeral-storage-limit": ("2Gi", lambda p, i: p["resources"]["limits"]["ephemeral-storage"] == "2Gi"),
}


@pytest.mark.parametrize("annotation", sorted(_ANNOTATIONS))
@pytest.mark.parametrize("where", ["pod", "namespace"])
def test_each_annotation_does_what_it_says(annotation: str, where: str) -> None:
    value, expected = SAYS[annotation.partition("/")[2]]
    said = {annotation: value}
    found = inject(said) if where == "pod" else inject({}, ON | said)
    if callable(expected):
        assert expected(container(found, PROXY), container(found, INIT)), found
    else:
        name, _, text = expected.partition("=")
        assert environment(found)[f"LINKERD2_PROXY_{name}"] == text
    assert not settings_of(Values(), {}, said).warnings


def test_the_pod_has_the_last_word() -> None:
    found = inject({"config.linkerd.io/proxy-log-level": "debug"}, ON | {"config.linkerd.io/proxy-log-level": "error"})
    assert environment(found)["LINKERD2_PROXY_LOG"] == "debug"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("proxy-uid", "0"),
        ("proxy-uid", "root"),
        ("skip-inbound-ports", "80,http"),
        ("skip-outbound-ports", "90-80"),
        ("skip-subnets", "10.0.0.1/8"),
        ("opaque-ports", "70000"),
        ("proxy-cpu-limit", "lots"),
        ("shutdown-grace-period", "soon"),
        ("default-inbound-policy", "open"),
        ("access-log", "xml"),
        ("proxy-await", "true"),
        ("proxy-enable-native-sidecar", "maybe"),
    ],
)
def test_a_value_that_cannot_be_used_is_left_out_and_named(annotation: str, value: str) -> None:
    name = f"config.linkerd.io/{annotation}"
    found = settings_of(Values(), {}, {name: value})
    (warning,) = found.warnings
    assert name in warning
    assert repr(value) in warning
    unset = settings_of(Values(), {}, {})
    assert {**{field: getattr(found, field) for field in unset.__slots__}, "warnings": ()} == {
        field: getattr(unset, field) for field in unset.__slots__
    }


def test_ports_that_are_skipped_by_the_install_are_passed_to_the_init_program() -> None:
    cluster = Cluster(Values(proxy_init=ProxyInit(ignore_inbound_ports="", iptables_mode="legacy")))
    arguments = container(injected(pod(), "shop", ON, cluster).pod, INIT)["args"]
    assert arguments[arguments.index("--inbound-ports-to-ignore") + 1] == "4190,4191"
    assert arguments[-2:] == ["--iptables-mode", "legacy"]


# ---- the patch


@given(
    annotations=st.none() | st.dictionaries(st.sampled_from(["a/b", "c~d", "linkerd.io/inject"]), st.just("enabled")),
    native=st.booleans(),
    with_volumes=st.booleans(),
    with_inits=st.booleans(),
)
def test_the_patch_turns_the_one_into_the_other(
    annotations: dict[str, str] | None, native: bool, with_volumes: bool, with_inits: bool
) -> None:
    spec: dict[str, Any] = {}
    if with_volumes:
        spec["volumes"] = [{"name": "data", "emptyDir": {}}]
    if with_inits:
        spec["initContainers"] = [{"name": "migrate"}]
    before = pod(annotations, **spec)
    untouched = json.dumps(before)
    of_namespace = ON | {"config.linkerd.io/proxy-enable-native-sidecar": str(native).lower()}
    after = injected(before, "shop", of_namespace, CLUSTER).pod
    assert apply(before, difference(before, after)) == after
    assert json.dumps(before) == untouched


def test_a_pod_without_labels_or_annotations_gets_them() -> None:
    bare = {"kind": "Pod", "metadata": {"name": "bare"}, "spec": {"containers": [{"name": "app"}]}}
    after = injected(bare, "shop", ON, CLUSTER).pod
    assert apply(bare, difference(bare, after)) == after


def test_a_service_takes_its_namespaces_opaque_ports_over_unless_it_has_its_own() -> None:
    ports = {"config.linkerd.io/opaque-ports": "5432"}
    service: dict[str, Any] = {"metadata": {"name": "db"}, "spec": {}}
    patched = apply(service, opaque_service(service, ports))
    assert patched["metadata"]["annotations"] == ports
    own = {"metadata": {"name": "db", "annotations": {"config.linkerd.io/opaque-ports": ""}}}
    assert opaque_service(own, ports) == []
    assert opaque_service(service, {}) == []
