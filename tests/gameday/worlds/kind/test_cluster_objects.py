"""What a run puts into a cluster, as objects; and the mesh's values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gameday.errors import BadInput
from gameday.worlds.base import WorldOptions
from gameday.worlds.kind import doctor
from gameday.worlds.kind.manifests import AppTooLarge, app_objects, load_objects, run_objects, scenario_resources
from gameday.worlds.kind.mesh import values_of
from gameday.worlds.kind.objects import KINDS
from gameday.worlds.kind.world import KindWorld
from mesh.deploy.objects import Credentials, install_objects
from scenarios.load import load_scenario
from scenarios.model import Scenario

OWN_PROGRAM = """\
apiVersion: gameday.dev/v1
kind: Application
metadata: {name: own}
spec:
  services:
    front:
      namespace: own
      routes:
        GET /: {time: 1ms, calls: [GET back /]}
    back:
      namespace: own
      port: 7000
      command: [python, server.py, --port, $PORT]
      routes:
        GET /: {time: 1ms}
  journeys:
    visit: {share: 100%, steps: [GET front /]}
"""
SCENARIO = """\
apiVersion: gameday.dev/v1
kind: Scenario
metadata: {name: own, title: One}
spec:
  app: ./app.yaml
  load: {rate: 5/s, mix: {visit: 100%}, maxInFlight: 10, timeout: 1s}
  phases: {warmup: 1s, baseline: 5s, inject: 5s, recover: 5s}
  faults:
    - {name: gone, kind: pod-kill, at: 0s, duration: 2s, target: {app: back}}
  slos:
    - {name: visits, route: GET front /, objective: 90%}
  expectations:
    - {text: It works, expect: success_rate of visits during recover > 1%}
  abort:
    - {slo: visits, burnRate: 1000, for: 60s}
"""


@pytest.fixture(scope="module")
def expiry() -> Scenario:
    return load_scenario("cert-expiry")


@pytest.fixture
def own(tmp_path: Path) -> Scenario:
    (tmp_path / "app.yaml").write_text(OWN_PROGRAM)
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    (tmp_path / "server.py").write_text("print('hello')\n")
    return load_scenario(str(tmp_path / "scenario.yaml"))


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def test_every_object_carries_the_runs_label_and_has_a_known_kind(expiry: Scenario) -> None:
    objects = [*run_objects("r"), *app_objects(expiry, "r", 1), *load_objects(expiry.app, "r", 3)]
    assert all(item["metadata"]["labels"]["gameday.run"] == "r" for item in objects)
    assert all((item["apiVersion"], item["kind"]) in KINDS for item in objects)
    deployments = of_kind(objects, "Deployment")
    assert {name for name, item in deployments.items() if item["metadata"]["namespace"] == "load"} == {
        "agent",
        "workers",
    }
    assert deployments["cart"]["spec"]["template"]["metadata"]["labels"] == {"app": "cart", "gameday.run": "r"}
    assert of_kind(objects, "Namespace")["cart"]["metadata"]["annotations"] == {"linkerd.io/inject": "enabled"}
    assert of_kind(objects, "Namespace")["gameday"]["metadata"]["annotations"] == {}


def test_our_own_containers_satisfy_the_restricted_level(expiry: Scenario) -> None:
    objects = [*run_objects("r"), *app_objects(expiry, "r", 1), *load_objects(expiry.app, "r", 2)]
    containers = [
        container
        for item in objects
        if item["kind"] in ("Deployment", "Job")
        for container in item["spec"]["template"]["spec"]["containers"]
    ]
    for container in containers:
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_a_namespace_of_somebody_else_is_not_made_again(expiry: Scenario) -> None:
    objects = app_objects(expiry, "r", 1, frozenset({"cart"}))
    assert "cart" not in of_kind(objects, "Namespace")
    assert "payment" in of_kind(objects, "Namespace")


def test_annotations_of_the_scenario_are_on_the_service() -> None:
    storm = load_scenario("retry-storm")
    service = of_kind(app_objects(storm, "r", 1), "Service")["payment"]
    assert service["metadata"]["annotations"]["retry.linkerd.io/limit"] == "3"
    budget = load_scenario("retry-storm", variant="budget")
    assert [item["kind"] for item in scenario_resources(budget.resources)] == ["ServiceProfile"]


def test_probes_and_scrapes_go_past_the_proxy(expiry: Scenario) -> None:
    template = of_kind(app_objects(expiry, "r", 1), "Deployment")["cart"]["spec"]["template"]
    probe = template["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"]
    assert str(probe) in template["metadata"]["annotations"]["config.linkerd.io/skip-inbound-ports"]
    agent = of_kind(load_objects(expiry.app, "r", 1), "Deployment")["agent"]["spec"]["template"]
    skipped = agent["metadata"]["annotations"]["config.linkerd.io/skip-outbound-ports"].split(",")
    assert {"443", "6443", "4191", "9990-9999"} <= set(skipped)


def test_a_program_of_the_users_runs_with_the_files_beside_the_application(own: Scenario) -> None:
    objects = app_objects(own, "r", 1)
    container = of_kind(objects, "Deployment")["back"]["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["python", "server.py", "--port", "$(PORT)"]
    assert {"name": "PORT", "value": "7000"} in container["env"]
    assert container["workingDir"] == "/gameday"
    assert container["readinessProbe"]["tcpSocket"] == {"port": 7000}
    files = of_kind(objects, "ConfigMap")["gameday-app"]["data"]
    assert set(files) == {"app.yaml", "scenario.yaml", "server.py"}


def test_files_that_do_not_fit_into_a_config_map_are_refused(own: Scenario) -> None:
    (own.app.source.parent / "data.txt").write_text("x" * 1_000_000)
    with pytest.raises(AppTooLarge, match="ConfigMap"):
        app_objects(own, "r", 1)


def test_certificates_live_as_the_scenario_says(expiry: Scenario) -> None:
    values = values_of(expiry.identity)
    objects = install_objects(values, Credentials("anchors", "cert", "key"))
    identity = of_kind(objects, "Deployment")["linkerd-identity"]["spec"]["template"]["spec"]["containers"][0]
    arguments = [*identity.get("command", ()), *identity.get("args", ())]
    assert arguments[arguments.index("--leaf-lifetime") + 1] == "15s"
    assert arguments[arguments.index("--clock-skew") + 1] == "500ms"
    assert "viz" not in of_kind(objects, "Deployment")


# ---- a machine or a command line that will not do


def test_without_docker_or_kind_nothing_is_started_and_it_says_what_to_get(
    expiry: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match=r"needs Docker.*install Docker"):
        KindWorld(expiry, tmp_path, WorldOptions(name="kind"))
    (tmp_path / "docker").write_text("#!/bin/sh\necho 27.0\n")
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(BadInput, match=r"needs kind.*install kind"):
        KindWorld(expiry, tmp_path, WorldOptions(name="kind"))
    assert not (tmp_path / "kubeconfig").exists()
    found = {name: (ok, fix) for name, ok, _, fix in doctor.checks()}
    assert found["Docker"][0]
    assert not found["kind"][0]
    assert "https://kind.sigs.k8s.io" in found["kind"][1]


def test_a_context_that_is_not_there_is_bad_input(
    expiry: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="kubeconfig"):
        KindWorld(expiry, tmp_path, WorldOptions(name="kind", context="nobody"))


def test_a_cluster_and_a_context_are_one_too_many(expiry: Scenario, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--cluster and --context"):
        KindWorld(expiry, tmp_path, WorldOptions(name="kind", context="a", cluster="b"))
