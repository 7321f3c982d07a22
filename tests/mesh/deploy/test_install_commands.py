"""install, upgrade, prune, uninstall and the rotations, as a user runs them, against an API server in memory.

One file, because all of them share the cluster in memory and the helpers around it.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from mesh.api.values import VERSION, Image, dump_values, load_values
from mesh.commands.app import app
from mesh.commands.errors import CommandFailed
from mesh.control import pki
from mesh.deploy import apply, paths, trial
from mesh.deploy.apply import NotReady, apply_mesh
from mesh.deploy.credentials import CredentialFiles, create_credentials, read_credentials
from mesh.deploy.installed import read_installed
from mesh.deploy.objects import crd_objects, install_objects
from mesh.deploy.rotation import bundle_objects, fingerprint_of, with_anchors, without_anchor
from mesh.deploy.values import read_values
from mesh.kube.client import connect
from mesh.kube.kinds import CONFIG_MAP, POD
from tests.mesh.deploy.fake_cluster import FakeCluster, cluster

BEFORE = {("namespaces", "", "default"), ("pods", "shop", "cart-0")}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    monkeypatch.setattr(apply, "POLL_SECONDS", 0.001)
    with cluster(tmp_path) as running:
        monkeypatch.setenv("KUBECONFIG", running.kubeconfig)
        running.objects["/api/v1/namespaces"] = {("", "default"): {"metadata": {"name": "default"}}}
        running.put(POD, {"metadata": {"name": "cart-0", "namespace": "shop"}})
        yield running


def run(*arguments: str) -> int:
    code = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    assert isinstance(code, int)
    return code


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert run(*arguments) == 0
    return [document for document in yaml.safe_load_all(capsys.readouterr().out) if document]


def refusal(*arguments: str) -> str:
    with pytest.raises(CommandFailed) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def issuer_of(fake: FakeCluster) -> dict[str, str]:
    secret = fake.find("secrets", "linkerd-identity-issuer", "linkerd")
    assert secret is not None
    return dict(secret["data"])


def test_install_prints_definitions_first_and_then_the_rest(
    fake: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = printed(capsys, "install")
    definitions = printed(capsys, "install", "--crds")
    rest = printed(capsys, "install", "--skip-crds")
    assert [item["kind"] for item in definitions] == ["CustomResourceDefinition"] * 10
    assert everything[:10] == definitions
    assert len(everything) == len(definitions) + len(rest)
    assert rest[0]["kind"] == "Namespace"
    assert fake.names() == BEFORE


def test_uninstall_takes_away_all_that_an_install_brought(fake: FakeCluster) -> None:
    assert run("install", "--apply") == 0
    installed = fake.names()
    assert ("deployments", "linkerd", "linkerd-identity") in installed
    labels = {"linkerd.io/control-plane-ns": "linkerd", "linkerd.io/trust-roots-copy": "true"}
    fake.put(
        CONFIG_MAP,
        {"metadata": {"name": "linkerd-identity-trust-roots", "namespace": "shop", "labels": labels}, "data": {}},
    )
    assert run("uninstall", "--apply") == 0
    assert fake.names() == BEFORE
    assert run("uninstall", "--apply") == 0


def test_uninstall_ends_webhooks_first_then_the_anchors_and_definitions_last(
    fake: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    run("install", "--apply")
    capsys.readouterr()
    kinds = [item["kind"] for item in printed(capsys, "uninstall")]
    order = list(dict.fromkeys(kinds))
    assert order == [
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "ConfigMap",
        "Namespace",
        "ClusterRoleBinding",
        "ClusterRole",
        "CustomResourceDefinition",
    ]


def test_uninstall_stops_while_pods_have_a_sidecar(fake: FakeCluster) -> None:
    run("install", "--apply")
    labels = {"linkerd.io/control-plane-ns": "linkerd"}
    fake.put(POD, {"metadata": {"name": "web-0", "namespace": "shop", "labels": labels}})
    assert "shop/web-0" in refusal("uninstall", "--apply")
    assert fake.find("deployments", "linkerd-identity", "linkerd") is not None
    assert run("uninstall", "--apply", "--force") == 0
    assert fake.find("pods", "web-0", "shop") is not None


def test_a_second_install_is_refused_and_changes_nothing(fake: FakeCluster) -> None:
    run("install", "--apply")
    before = issuer_of(fake)
    assert "gameday mesh upgrade" in refusal("install", "--apply")
    assert issuer_of(fake) == before


def test_an_upgrade_keeps_values_anchors_and_issuer(fake: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    run("install", "--apply", "--set", "proxy.logLevel=debug", "--set", "viz.enabled=false")
    before, names = issuer_of(fake), fake.names()
    capsys.readouterr()
    upgraded = printed(capsys, "upgrade")
    secret = next(item for item in upgraded if item["kind"] == "Secret")
    assert secret["data"] == before
    config = next(item for item in upgraded if item["metadata"]["name"] == "linkerd-config")
    values = load_values(config["data"]["values"])
    assert (values.proxy.log_level, values.viz.enabled) == ("debug", False)
    assert run("upgrade", "--apply", "--set", "controllerReplicas=2") == 0
    assert fake.names() == names
    assert fake.find("deployments", "linkerd-identity", "linkerd")["spec"]["replicas"] == 2  # type: ignore[index]


def test_an_upgrade_from_an_older_version_moves_its_image_on(fake: FakeCluster) -> None:
    run("install", "--apply")
    config = fake.find("configmaps", "linkerd-config", "linkerd")
    assert config is not None
    values = load_values(config["data"]["values"])
    from msgspec.structs import replace

    config["data"]["values"] = dump_values(replace(values, version="0.0.1", image=Image(version="0.0.1")))
    assert run("upgrade", "--apply") == 0
    deployment = fake.find("deployments", "linkerd-identity", "linkerd")
    assert deployment is not None
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == f"gameday/mesh:{VERSION}"


def test_an_upgrade_without_a_mesh_says_install_first(fake: FakeCluster) -> None:
    assert "install first" in refusal("upgrade")
    assert "install first" in refusal("prune")


def test_prune_finds_what_is_not_part_of_the_mesh_any_more(
    fake: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    run("install", "--apply")
    capsys.readouterr()
    assert printed(capsys, "prune") == []
    run("upgrade", "--apply", "--set", "viz.enabled=false")
    capsys.readouterr()
    stale = {(item["kind"], item["metadata"]["name"]) for item in printed(capsys, "prune")}
    assert ("Deployment", "viz") in stale
    assert ("ClusterRole", "linkerd-viz") in stale
    assert not any(kind in ("CustomResourceDefinition", "Secret", "Namespace") for kind, _ in stale)
    assert run("prune", "--apply") == 0
    assert fake.find("deployments", "viz", "linkerd-viz") is None
    assert fake.find("deployments", "linkerd-identity", "linkerd") is not None


def test_an_install_that_does_not_come_up_says_what_is_missing(fake: FakeCluster) -> None:
    fake.rolls_out = False
    values, credentials = read_values(), create_credentials("cluster.local")
    with pytest.raises(NotReady, match="deployment linkerd/linkerd-identity"):
        apply_mesh(
            connect(kubeconfig=fake.kubeconfig),
            crd_objects(values),
            install_objects(values, credentials),
            wait=0.05,
        )


def test_an_install_waits_until_pods_get_a_sidecar_and_says_where_they_do_not(
    fake: FakeCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("install", "--apply") == 0
    assert "new pods get a sidecar" in capsys.readouterr().err
    monkeypatch.setattr(trial, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(trial.wait_for_injection, "__kwdefaults__", {"ask": False, "wait": 0.01})
    fake.injects = False
    assert run("upgrade", "--apply") == 0
    assert "no pod in namespace default gets a sidecar: its webhook was passed over" in capsys.readouterr().err
    fake.forbidden.add("pods")
    assert run("upgrade", "--apply") == 0
    assert "pods is forbidden" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["install", "upgrade", "uninstall", "prune", "rotate-issuer", "trust-anchors"])
def test_commands_that_change_the_mesh_refuse_another_namespace_than_its_own(fake: FakeCluster, command: str) -> None:
    more = ("--anchor-certificate", "a", "--anchor-key", "b") if command == "rotate-issuer" else ()
    assert "installs into linkerd and linkerd-viz only" in refusal(command, *more, "-L", "mesh-system")
    assert fake.requests == []


def test_a_refusal_of_the_api_server_is_one_line(fake: FakeCluster) -> None:
    fake.forbidden.add("customresourcedefinitions")
    assert "customresourcedefinitions is forbidden" in refusal("install", "--apply")


INERT = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service"}
"""Killed after one of these, an install is where it was after the object before: nobody reads them to go on."""


def test_an_install_killed_at_any_point_is_gone_on_with_and_keeps_the_issuer_that_identity_has_started_with(
    fake: FakeCluster,
) -> None:
    """Once the injector is there `install` takes the mesh for a whole one, and names the command that completes it."""
    values = read_values()
    objects = [*crd_objects(values)[-1:], *install_objects(values, create_credentials(values.trust_domain))]
    before = copy.deepcopy(fake.objects)
    assert run("install", "--apply") == 0
    whole, fake.objects = fake.names(), copy.deepcopy(before)
    client, had, taken_for_whole = connect(kubeconfig=fake.kubeconfig), None, False
    for item in objects:
        paths.apply_object(client, item, apply.FIELD_MANAGER)
        taken_for_whole |= (item["kind"], item["metadata"]["name"]) == ("Deployment", "linkerd-proxy-injector")
        if item["kind"] == "Secret":
            had = issuer_of(fake)
        if item["kind"] in INERT:
            continue
        killed = copy.deepcopy(fake.objects)
        if taken_for_whole:
            assert "gameday mesh upgrade" in refusal("install", "--apply")
        assert run("upgrade" if taken_for_whole else "install", "--apply") == 0
        assert fake.names() == whole, item["metadata"]["name"]
        assert had in (None, issuer_of(fake)), item["metadata"]["name"]
        _issuer_hangs_from_the_anchors(fake)
        fake.objects = killed
    client.close()


def _issuer_hangs_from_the_anchors(fake: FakeCluster) -> None:
    roots = fake.find("configmaps", "linkerd-identity-trust-roots", "linkerd")
    assert roots is not None
    (anchor,) = pki.load_certificates(roots["data"]["ca-bundle.crt"].encode(), "bundle")
    issuer, *_ = pki.load_certificates(base64.b64decode(issuer_of(fake)["tls.crt"]), "issuer")
    issuer.verify_directly_issued_by(anchor)


def test_an_upgrade_killed_at_any_point_is_done_again_and_leaves_nothing_halfway(fake: FakeCluster) -> None:
    """The same command again ends where one that was not killed does. Without its settings the mesh is all old or all
    new, by whether the killed one had come to write its values; at no point is the issuer another one."""
    settings = ("--set", "controllerReplicas=2", "--set", "controllerLogLevel=debug")
    run("install", "--apply")
    client, issuer, before = connect(kubeconfig=fake.kubeconfig), issuer_of(fake), copy.deepcopy(fake.objects)
    old = installed(fake)
    run("upgrade", "--apply", *settings)
    new, found = installed(fake), read_installed(client)
    assert new != old
    fake.objects, written = copy.deepcopy(before), False
    for item in [*crd_objects(found.values), *install_objects(found.values, found.credentials)]:
        point = f"{item['kind']} {item['metadata']['name']}"
        paths.apply_object(client, item, apply.FIELD_MANAGER)
        written |= item["metadata"]["name"] == "linkerd-config"
        if item["kind"] in INERT:
            continue
        killed = copy.deepcopy(fake.objects)
        assert run("upgrade", "--apply", *settings) == 0
        assert installed(fake) == new, point
        fake.objects = copy.deepcopy(killed)
        assert run("upgrade", "--apply") == 0
        assert installed(fake) == (new if written else old), point
        assert issuer_of(fake) == issuer, point
        fake.objects = killed
    client.close()
    assert written


def installed(fake: FakeCluster) -> dict[tuple[str, str, str], Any]:
    """Everything, but for how often it was written."""
    return {
        (path, *key): item | {"metadata": item["metadata"] | {"resourceVersion": "", "uid": ""}}
        for path, collection in copy.deepcopy(fake.objects).items()
        for key, item in collection.items()
    }


# ---- certificates


def test_an_issuer_is_rotated_from_the_anchors_key_only_if_the_cluster_trusts_it(
    fake: FakeCluster, tmp_path: Path
) -> None:
    run("install", "--apply")
    old = issuer_of(fake)
    run("create-anchor", "--out", str(tmp_path / "new"))
    anchor = ("--anchor-certificate", str(tmp_path / "new/ca.crt"), "--anchor-key", str(tmp_path / "new/ca.key"))
    assert "does not trust this anchor" in refusal("rotate-issuer", *anchor, "--apply")
    assert run("trust-anchors", "--add", str(tmp_path / "new/ca.crt"), "--apply") == 0
    assert run("rotate-issuer", *anchor, "--apply") == 0
    new = issuer_of(fake)
    assert new["tls.crt"] != old["tls.crt"]
    roots = fake.find("configmaps", "linkerd-identity-trust-roots", "linkerd")
    assert roots is not None
    anchors = pki.load_certificates(roots["data"]["ca-bundle.crt"].encode(), "bundle")
    assert len(anchors) == 2


def test_an_anchor_is_dropped_only_once_nothing_of_ours_hangs_from_it(fake: FakeCluster, tmp_path: Path) -> None:
    run("install", "--apply")
    roots = fake.find("configmaps", "linkerd-identity-trust-roots", "linkerd")
    assert roots is not None
    first = fingerprint_of(pki.load_certificates(roots["data"]["ca-bundle.crt"].encode(), "bundle")[0])
    assert "only trust anchor" in refusal("trust-anchors", "--drop", first)
    run("create-anchor", "--out", str(tmp_path))
    run("trust-anchors", "--add", str(tmp_path / "ca.crt"), "--apply")
    assert "rotate the issuer first" in refusal("trust-anchors", "--drop", first[:12], "--apply")
    anchor = ("--anchor-certificate", str(tmp_path / "ca.crt"), "--anchor-key", str(tmp_path / "ca.key"))
    run("rotate-issuer", *anchor, "--apply")
    assert "exactly one" in refusal("trust-anchors", "--drop", "abcdef", "--apply")
    fake.put(POD, meshed_pod("cart-1"))
    assert "in use hang from it (shop/cart-1)" in refusal("trust-anchors", "--drop", first[:12], "--apply")
    assert run("trust-anchors", "--drop", first[:12], "--apply", "--force") == 0
    roots = fake.find("configmaps", "linkerd-identity-trust-roots", "linkerd")
    assert roots is not None
    assert roots["data"]["ca-bundle.crt"] == (tmp_path / "ca.crt").read_text()


@pytest.mark.parametrize("step", ["add", "drop"])
def test_a_change_of_the_trust_anchors_killed_between_its_objects_is_done_again(
    fake: FakeCluster, tmp_path: Path, step: str
) -> None:
    run("install", "--apply")
    client = connect(kubeconfig=fake.kubeconfig)
    first = fingerprint_of(load(anchors_of(fake).pop())[0])
    run("create-anchor", "--out", str(tmp_path))
    command = ["trust-anchors", "--add", str(tmp_path / "ca.crt"), "--apply"]
    if step == "drop":
        run(*command)
        anchor = ("--anchor-certificate", str(tmp_path / "ca.crt"), "--anchor-key", str(tmp_path / "ca.key"))
        run("rotate-issuer", *anchor, "--apply")
        command = ["trust-anchors", "--drop", first, "--apply"]
    found = read_installed(client)
    wanted = (
        with_anchors(found.credentials, load((tmp_path / "ca.crt").read_text()))
        if step == "add"
        else without_anchor(found.credentials, first)
    )
    objects = bundle_objects(found.values, wanted)
    assert len(objects) >= 3
    before = copy.deepcopy(fake.objects)
    for count in range(1, len(objects)):
        fake.objects = copy.deepcopy(before)
        for item in objects[:count]:
            paths.apply_object(client, item, apply.FIELD_MANAGER)
        assert len(anchors_of(fake)) == 2, "killed halfway"
        assert run(*command) == 0
        assert anchors_of(fake) == {wanted.trust_anchors}
    client.close()


def load(bundle: str) -> list[x509.Certificate]:
    return pki.load_certificates(bundle.encode(), "bundle")


def anchors_of(fake: FakeCluster) -> set[str]:
    """As the ConfigMaps say, and as the Secret repeats."""
    maps = fake.objects["/api/v1/configmaps"].items()
    said = {item["data"]["ca-bundle.crt"] for (_, name), item in maps if name == "linkerd-identity-trust-roots"}
    return said | {base64.b64decode(issuer_of(fake)["ca.crt"]).decode()}


def meshed_pod(name: str) -> dict[str, Any]:
    """Ready by its own account; this API server has no way to its ports."""
    ready = {"name": "linkerd-proxy", "ready": True, "state": {"running": {}}}
    return {
        "metadata": {"name": name, "namespace": "shop", "annotations": {"linkerd.io/proxy-version": VERSION}},
        "spec": {"containers": [{"name": "linkerd-proxy", "image": f"gameday/mesh:{VERSION}"}]},
        "status": {"phase": "Running", "containerStatuses": [ready]},
    }


def test_a_new_anchor_never_overwrites_a_key(tmp_path: Path) -> None:
    run("create-anchor", "--out", str(tmp_path))
    key = (tmp_path / "ca.key").read_text()
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    assert "ca.key" in refusal("create-anchor", "--out", str(tmp_path))
    assert (tmp_path / "ca.key").read_text() == key


def test_given_credentials_are_checked_as_identity_would(tmp_path: Path) -> None:
    anchor, other = pki.create_trust_anchor(), pki.create_trust_anchor()
    issuer = pki.create_issuer(other)
    files = CredentialFiles(tmp_path / "ca.crt", tmp_path / "issuer.crt", tmp_path / "issuer.key")
    (tmp_path / "ca.crt").write_text(anchor.certificate_pem)
    (tmp_path / "issuer.crt").write_text(issuer.certificate_pem)
    (tmp_path / "issuer.key").write_text(issuer.key_pem)

    def read(given: CredentialFiles, *, external: bool = False) -> Any:
        return read_credentials(given, external_issuer=external, external_ca=False, trust_domain="cluster.local")

    with pytest.raises(pki.InvalidCredentials, match="not signed by any of the trust anchors"):
        read(files)
    (tmp_path / "ca.crt").write_text(other.certificate_pem)
    assert read(files).issuer_key == issuer.key_pem
    with pytest.raises(pki.InvalidCredentials, match="all of"):
        read(CredentialFiles(tmp_path / "ca.crt"))
    assert read(CredentialFiles(tmp_path / "ca.crt"), external=True).issuer_key == ""
    with pytest.raises(pki.InvalidCredentials, match="exclude each other"):
        read(files, external=True)


def test_the_chart_is_written_where_it_is_wanted(tmp_path: Path) -> None:
    assert run("chart", "--out", str(tmp_path / "chart"), "--set", "controllerReplicas=2") == 0
    assert yaml.safe_load((tmp_path / "chart/values.yaml").read_text())["controllerReplicas"] == 2
    (tmp_path / "file").write_text("")
    assert "--out" in refusal("chart", "--out", str(tmp_path / "file"))
