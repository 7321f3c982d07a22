"""`gameday mesh inject` over YAML: what changes, what passes through, what is said. No cluster."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh.commands.app import app
from mesh.commands.errors import CommandFailed

APP = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: "web:1", ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: example.com/v1
kind: Widget
metadata: {name: w}
spec: {template: {spec: {containers: [{name: c}]}}}
"""
JOBS = """\
kind: List
apiVersion: v1
items:
- kind: CronJob
  metadata: {name: nightly}
  spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c}]}}}}}
- kind: DaemonSet
  metadata: {name: agent}
  spec: {template: {spec: {hostNetwork: true, containers: [{name: c}]}}}
- kind: Pod
  metadata: {name: quiet, annotations: {linkerd.io/inject: disabled}}
  spec: {containers: [{name: c}]}
"""


def run(*words: str, given: str | None = None, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> tuple[list[Any], str]:
    if given is not None:
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
    assert app(list(words), exit_on_error=False, result_action="return_value") == 0
    out, err = capsys.readouterr()
    return list(yaml.safe_load_all(out)), err


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    return lambda *words, given=None: run(*words, given=given, monkeypatch=monkeypatch, capsys=capsys)


def test_workloads_and_namespaces_are_annotated_and_everything_else_passes_through(mesh: Any) -> None:
    before = list(yaml.safe_load_all(APP))
    documents, said = mesh("inject", "-", given=APP)
    namespace, deployment, service, widget = documents
    assert namespace["metadata"]["annotations"] == {"linkerd.io/inject": "enabled"}
    assert deployment["spec"]["template"]["metadata"]["annotations"] == {"linkerd.io/inject": "enabled"}
    assert (service, widget) == (before[2], before[3])
    assert said.split("\n")[1:5] == [
        'namespace "shop" injected',
        'deployment "web" injected',
        'service "web" skipped',
        'widget "w" skipped',
    ]


def test_items_of_a_list_are_looked_at_one_by_one(mesh: Any) -> None:
    (found,), said = mesh("inject", "-", "--annotation", "config.linkerd.io/proxy-log-level=debug", given=JOBS)
    nightly, agent, off = found["items"]
    annotations = nightly["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"linkerd.io/inject": "enabled", "config.linkerd.io/proxy-log-level": "debug"}
    assert "annotations" not in agent["spec"]["template"].get("metadata", {})
    assert off["metadata"]["annotations"] == {"linkerd.io/inject": "disabled"}
    assert 'daemonset "agent" skipped: hostNetwork: true' in said
    assert 'pod "quiet" skipped: annotated "linkerd.io/inject: disabled"' in said


def test_manual_injection_writes_the_sidecar_and_uninject_takes_it_out_again(mesh: Any) -> None:
    documents, _ = mesh("inject", "-", "--manual", "--set", "proxy.logLevel=trace", given=APP)
    spec = documents[1]["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["initContainers"]] == ["linkerd-init", "linkerd-proxy"]
    environment = {one["name"]: one.get("value") for one in spec["initContainers"][1]["env"]}
    assert environment["LINKERD2_PROXY_LOG"] == "trace"
    assert environment["LINKERD2_PROXY_INBOUND_PORTS"] == "8080"
    assert documents[1]["spec"]["template"]["metadata"]["labels"]["linkerd.io/proxy-deployment"] == "web"

    again, said = mesh("inject", "-", "--manual", given=yaml.safe_dump_all(documents))
    assert again == documents
    assert 'deployment "web" skipped: it has a sidecar already' in said

    out, said = mesh("uninject", "-", given=yaml.safe_dump_all(documents))
    assert out == list(yaml.safe_load_all(APP))
    assert 'deployment "web" uninjected' in said
    assert 'service "web" skipped' in said


def test_a_wrong_annotation_is_warned_of(mesh: Any) -> None:
    _, said = mesh("inject", "-", "--manual", "--annotation", "config.linkerd.io/proxy-uid=0", given=APP)
    assert "‼ deployment/web: config.linkerd.io/proxy-uid: '0' is root" in said


def test_files_and_folders(mesh: Any, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.yaml").write_text(APP)
    (tmp_path / "sub/a.yml").write_text(JOBS)
    (tmp_path / "notes.txt").write_text("no: [yaml")
    documents, _ = mesh("inject", str(tmp_path))
    assert [document["kind"] for document in documents] == ["Namespace", "Deployment", "Service", "Widget", "List"]


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        (("inject",), "", "no file given"),
        (("inject", "-", "--manaul"), APP, "no option --manaul"),
        (("inject", "/nowhere.yaml"), "", "/nowhere.yaml: No such file"),
        (("inject", "-"), "a: [b", "standard input: not YAML"),
        (("inject", "-", "--set", "a=b"), APP, "only with --manual"),
        (("inject", "-", "--manual", "--set", "proxy.loglevel=b"), APP, "no field"),
        (("inject", "-", "--annotation", "x"), APP, "'x' is not name=value"),
    ],
)
def test_mistakes_are_one_line(
    words: tuple[str, ...], given: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with pytest.raises(CommandFailed) as failed:
        run(*words, given=given, monkeypatch=monkeypatch, capsys=capsys)
    assert said in str(failed.value)
    assert "\n" not in str(failed.value)


def test_text_without_objects_passes_through(mesh: Any) -> None:
    documents, said = mesh("inject", "-", given="# nothing\n---\njust text\n")
    assert documents == ["just text"]
    assert 'document skipped: document missing "kind" field' in said
