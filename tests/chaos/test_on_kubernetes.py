"""Faults, ledger and reaper against a Kubernetes API server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fake_cluster import FakeApi, cluster_world, fake_api, pod_address

import chaos.kube
from chaos import cluster_reaper
from chaos.faults.base import CannotInject
from chaos.faults.catalogue import FAULTS
from chaos.kube import in_cluster
from chaos.ledger import Ledger
from chaos.mirror import MirroredFault
from chaos.plan import plan
from chaos.requests import Step, StepFailed, WorldGone, perform, perform_all
from chaos.world import FILE
from scenarios.load import load_scenario
from scenarios.model import FaultSpec


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as found:
        yield found


def fault(
    kind: str, name: str = "f", parameters: dict[str, float | str] | None = None, **targets: str | int
) -> FaultSpec:
    return FaultSpec(name, kind, 0.0, 5.0, targets, parameters or {})


def test_a_component_is_scaled_away_its_pods_killed_and_scaled_back(api: FakeApi, tmp_path: Path) -> None:
    world = cluster_world(api.write_access(tmp_path))
    steps = FAULTS["control-plane-down"].steps(fault("control-plane-down", component="identity"), world)
    perform_all([*steps.inject, *steps.revert])
    scale = "/apis/apps/v1/namespaces/linkerd/deployments/i/scale"
    assert [(method, path, body) for method, path, body, _ in api.asked] == [
        ("PATCH", scale, {"spec": {"replicas": 0}}),
        ("DELETE", "/api/v1/namespaces/linkerd/pods?labelSelector=c%3Di", {"gracePeriodSeconds": 0}),
        ("PATCH", scale, {"spec": {"replicas": 1}}),
    ]
    assert api.asked[0][3] == "application/merge-patch+json"


def test_two_components_of_one_deployment_are_scaled_once_and_the_plan_says_that_they_go_together(
    tmp_path: Path,
) -> None:
    world = cluster_world(tmp_path / "kube.json")
    kind = FAULTS["control-plane-down"]
    steps = kind.steps(fault("control-plane-down", component="all"), world)
    assert [step.url.rpartition("/deployments/")[2] for step in steps.revert] == ["i/scale", "d/scale"]
    scenario = load_scenario("control-plane-outage", variant="destination-only")
    warnings = plan(scenario, "kind").warnings
    assert any("destination and policy share a Deployment" in warning for warning in warnings)
    assert plan(scenario, "local").warnings == ()


def test_a_workload_degrades_through_the_pod_proxy(api: FakeApi, tmp_path: Path) -> None:
    world = cluster_world(api.write_access(tmp_path), pod_address("payment", 0), pod_address("payment", 1))
    spec = fault("app-degrade", parameters={"errorRate": 0.5}, service="payment", replicas=1)
    perform_all(FAULTS["app-degrade"].steps(spec, world).inject)
    assert [(method, path) for method, path, _, _ in api.asked] == [
        ("PUT", "/api/v1/namespaces/payment/pods/payment-x0:9999/proxy/faults")
    ]
    assert api.asked[0][2]["errorRate"] == 0.5


def test_pods_are_killed_by_their_own_names_without_grace(api: FakeApi, tmp_path: Path) -> None:
    world = cluster_world(api.write_access(tmp_path), pod_address("cart", 0), pod_address("cart", 1))
    steps = FAULTS["pod-kill"].steps(fault("pod-kill", service="cart", replicas=2), world)
    perform_all(steps.inject)
    assert [path for _, path, _, _ in api.asked] == [
        "/api/v1/namespaces/cart/pods/cart-x0",
        "/api/v1/namespaces/cart/pods/cart-x1",
    ]
    assert steps.revert == ()


def test_a_memory_limit_replaces_all_pods_at_once_and_is_taken_away_again(tmp_path: Path) -> None:
    world = cluster_world(tmp_path / "kube.json", pod_address("cart"))
    steps = FAULTS["proxy-oom"].steps(fault("proxy-oom", parameters={"memoryLimit": "20Mi"}, service="cart"), world)
    inject, revert = (msgspec.json.decode(steps[0].body)["spec"] for steps in (steps.inject, steps.revert))
    assert inject["strategy"] == {"$retainKeys": ["type"], "type": "Recreate"}
    name = "config.linkerd.io/proxy-memory-limit"
    assert inject["template"]["metadata"]["annotations"][name] == "20Mi"
    assert revert["template"]["metadata"]["annotations"][name] is None


def test_a_throttled_pod_mends_itself_even_if_nobody_reverts(tmp_path: Path) -> None:
    world = cluster_world(tmp_path / "kube.json", pod_address("cart"))
    spec = fault("network-throttle", parameters={"rate": "32kbit"}, service="cart", replicas=1)
    steps = FAULTS["network-throttle"].steps(spec, world)
    container = msgspec.json.decode(steps.inject[0].body)["spec"]["ephemeralContainers"][0]
    script = container["command"][-1]
    assert "tbf rate 32kbit" in script
    assert f"sleep {spec.ttl:.0f}; tc qdisc del" in script
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert "qdisc del" in msgspec.json.decode(steps.revert[0].body)["spec"]["ephemeralContainers"][0]["command"][-1]


def test_a_wrong_route_is_applied_and_deleted(api: FakeApi, tmp_path: Path) -> None:
    world = cluster_world(api.write_access(tmp_path), pod_address("payment"), pod_address("cart"))
    spec = fault("misroute", parameters={"to": "cart", "share": 0.25}, service="payment")
    perform_all(FAULTS["misroute"].steps(spec, world).inject)
    method, path, body, content_type = api.asked[0]
    assert method == "PATCH"
    assert path.startswith("/apis/policy.linkerd.io/v1beta3/namespaces/payment/httproutes/gameday-misroute-f?")
    assert content_type == "application/apply-patch+yaml"
    backends = body["spec"]["rules"][0]["backendRefs"]
    assert [(backend["name"], backend["namespace"], backend["weight"]) for backend in backends] == [
        ("cart", "cart", 250),
        ("payment", "payment", 750),
    ]


def test_a_wrong_selector_adds_a_label_that_nobody_has(tmp_path: Path) -> None:
    world = cluster_world(tmp_path / "kube.json", pod_address("cart"))
    steps = FAULTS["misroute"].steps(fault("misroute", parameters={"mode": "selector"}, service="cart"), world)
    assert msgspec.json.decode(steps.inject[0].body) == {"spec": {"selector": {"gameday-misroute": "f"}}}
    assert msgspec.json.decode(steps.revert[0].body) == {"spec": {"selector": {"gameday-misroute": None}}}


@pytest.mark.parametrize("kind", ["app-degrade", "pod-kill", "proxy-oom", "network-throttle", "misroute"])
def test_without_a_pod_there_is_nothing_to_hit(kind: str, tmp_path: Path) -> None:
    world = cluster_world(tmp_path / "kube.json")
    with pytest.raises(CannotInject):
        FAULTS[kind].steps(fault(kind, service="cart", replicas=1), world)


# ---- what an answer means


def test_what_is_gone_needs_no_mending_but_a_server_that_is_silent_is_not_gone(api: FakeApi, tmp_path: Path) -> None:
    access = api.write_access(tmp_path)
    api.statuses["/api/v1/namespaces/cart"] = 404
    with pytest.raises(WorldGone):
        perform(Step("DELETE", f"kube:{access}:/api/v1/namespaces/cart/pods/x"))
    api.statuses["/apis"] = 409
    with pytest.raises(StepFailed, match="fake 409"):
        perform(Step("PATCH", f"kube:{access}:/apis/x", "{}"))
    other = tmp_path / "other"
    other.mkdir()
    silent = FakeApi("http://127.0.0.1:1").write_access(other)
    with pytest.raises(StepFailed) as caught:
        perform(Step("DELETE", f"kube:{silent}:/api/v1/namespaces/cart/pods/x"))
    assert not isinstance(caught.value, WorldGone)


# ---- the ledger's copy, and who reads it


def open_ledger(folder: Path, api: FakeApi) -> tuple[Ledger, Step]:
    access = api.write_access(folder)
    world = cluster_world(access, pod_address("cart"))
    (folder / FILE).write_bytes(msgspec.json.encode(world))
    return Ledger(folder, create=True), Step("PATCH", f"kube:{access}:/apis/mend", "{}")


def test_the_copy_in_the_cluster_is_there_before_the_fault_and_has_steps_for_one_inside(
    api: FakeApi, tmp_path: Path
) -> None:
    ledger, mend = open_ledger(tmp_path, api)
    ledger.begin("f", "k", "t", [mend], 5.0)
    copy = msgspec.json.decode(api.data["fault.f"], type=MirroredFault)
    assert copy.rollback == (in_cluster(mend),)
    assert copy.rollback[0].url == "kube::/apis/mend"
    assert copy.deadline == pytest.approx(time.time() + 5.0, abs=2.0)
    assert ledger.revert("f")
    assert msgspec.json.decode(api.data["fault.f"], type=MirroredFault).state == "reverted"
    ledger.close_run()
    assert api.data["closed"] == "true"


def test_a_fault_that_the_cluster_will_not_remember_is_not_begun(api: FakeApi, tmp_path: Path) -> None:
    ledger, mend = open_ledger(tmp_path, api)
    api.statuses["/api/v1/namespaces/gameday"] = 403
    with pytest.raises(StepFailed, match="403"):
        ledger.begin("f", "k", "t", [mend], 5.0)
    assert ledger.records() == []


@pytest.fixture
def inside(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    """As if this process ran in the cluster."""
    from mesh.kube.client import find_config

    api.write_access(tmp_path)
    config = find_config(None, str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(chaos.kube, "service_account_config", lambda: config)
    chaos.kube._http.cache_clear()
    yield api
    chaos.kube._http.cache_clear()


def remember(api: FakeApi, name: str, deadline: float, state: str = "injecting") -> None:
    step = Step("PATCH", f"kube::/apis/mend-{name}", "{}")
    copy = MirroredFault(name=name, state=state, deadline=deadline, rollback=(step,))
    api.data[f"fault.{name}"] = msgspec.json.encode(copy).decode()


def test_the_job_reverts_what_has_expired_once_and_nothing_else(inside: FakeApi) -> None:
    now = time.time()
    remember(inside, "old", now - 1)
    remember(inside, "young", now + 60)
    remember(inside, "done", now - 1, "reverted")
    for _ in range(2):
        assert cluster_reaper.sweep("gameday")
    assert [path for _, path, _, _ in inside.asked if path.startswith("/apis")] == ["/apis/mend-old"]
    assert "reverted.old" in inside.data


def test_the_job_tries_again_what_it_could_not_revert_and_leaves_what_is_gone(inside: FakeApi) -> None:
    remember(inside, "stuck", time.time() - 1)
    remember(inside, "gone", time.time() - 1)
    inside.statuses |= {"/apis/mend-stuck": 500, "/apis/mend-gone": 404}
    cluster_reaper.sweep("gameday")
    assert "reverted.gone" in inside.data
    assert "reverted.stuck" not in inside.data
    del inside.statuses["/apis/mend-stuck"]
    cluster_reaper.sweep("gameday")
    assert "reverted.stuck" in inside.data


def test_the_job_ends_with_the_run_and_before_its_own_end_reverts_everything(inside: FakeApi) -> None:
    remember(inside, "young", time.time() + 60)
    cluster_reaper.sweep("gameday", all_open=True)
    assert "reverted.young" in inside.data
    inside.data["closed"] = "true"
    assert not cluster_reaper.sweep("gameday")
