"""Pods as processes of a run: names that stay, targets that are there, events that tell what happened."""

from __future__ import annotations

from typing import Any

import msgspec

from gameday.worlds.kind.pods import Fleet, Pod, decode_pods


def pod(
    name: str, service: str = "cart", *, uid: str = "", ip: str = "10.0.0.1", ready: bool = True, **more: Any
) -> Pod:
    proxy_restarts = more.pop("proxy_restarts", 0)
    proxy_runs = more.pop("proxy_runs", True)
    state: dict[str, Any] = {"running": {}} if proxy_runs else {"waiting": {"reason": "CrashLoopBackOff"}}
    last = {"terminated": {"reason": "OOMKilled", "exitCode": 137}} if proxy_restarts else {}
    body = {
        "metadata": {
            "name": name,
            "namespace": service,
            "uid": uid or name,
            "labels": {"app": service, **more.pop("labels", {})},
            "creationTimestamp": more.pop("made", "2026-01-01T00:00:00Z"),
            **({"deletionTimestamp": "2026-01-01T00:01:00Z"} if more.pop("ending", False) else {}),
        },
        "status": {
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "initContainerStatuses": [
                {"name": "linkerd-proxy", "restartCount": proxy_restarts, "state": state, "lastState": last}
            ],
            "containerStatuses": [{"name": "app", "restartCount": 0, "state": {"running": {"startedAt": "x"}}}],
        },
    }
    return decode_pods(msgspec.json.encode({"items": [body]}))[0]


def control(component: str, *, ready: bool = True, uid: str = "c") -> Pod:
    names = ["destination", "policy"] if component == "destination" else [component]
    body = {
        "metadata": {
            "name": f"linkerd-{component}-x",
            "namespace": "linkerd",
            "uid": uid,
            "labels": {"linkerd.io/control-plane-component": component},
        },
        "status": {
            "podIP": "10.0.0.9",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"name": name, "state": {"running": {}}} for name in names],
        },
    }
    return decode_pods(msgspec.json.encode({"items": [body]}))[0]


def fleet(*services: str) -> Fleet:
    return Fleet(frozenset(services or ("cart",)))


def test_a_pod_that_replaces_another_goes_on_under_its_name() -> None:
    ours = fleet()
    ours.update([pod("cart-a"), pod("cart-b", made="2026-01-01T00:00:01Z")], [])
    assert [(row.name, row.pod) for row in ours.rows] == [("cart-0", "cart-a"), ("cart-1", "cart-b")]
    events = ours.update([pod("cart-b"), pod("cart-c", ready=False)], [])
    assert [(row.name, row.pod) for row in ours.rows] == [("cart-0", "cart-c"), ("cart-1", "cart-b")]
    assert [(event.kind, event.process) for event in events] == [("kill", "cart-0")]


def test_a_pod_that_is_ending_has_given_its_name_back() -> None:
    ours = fleet()
    ours.update([pod("cart-a")], [])
    ours.update([pod("cart-a", ending=True), pod("cart-b", ready=False)], [])
    assert [(row.name, row.pod) for row in ours.rows] == [("cart-0", "cart-b")]
    assert ours.update([pod("cart-b")], [])[0].kind == "ready"


def test_targets_are_the_containers_that_run() -> None:
    ours = fleet("cart")
    ours.update(
        [pod("cart-a", proxy_runs=False), pod("own-a", "own")], [control("identity"), control("destination", uid="d")]
    )
    assert ours.targets() == [
        ("control/identity", "http://10.0.0.9:9990/metrics"),
        ("control/destination", "http://10.0.0.9:9996/metrics"),
        ("control/policy", "http://10.0.0.9:9997/metrics"),
        ("cart-0/app", "http://10.0.0.1:9999/metrics"),
        ("own-0/proxy", "http://10.0.0.1:4191/metrics"),
    ]


def test_a_pod_without_an_address_is_neither_row_nor_target() -> None:
    ours = fleet()
    ours.update([pod("cart-a", ip="")], [])
    assert ours.rows == ()
    assert ours.targets() == []


def test_an_oom_kill_is_told_as_such() -> None:
    ours = fleet()
    ours.update([pod("cart-a")], [])
    events = ours.update([pod("cart-a", proxy_restarts=1, ready=False)], [])
    assert [(event.kind, event.text) for event in events] == [
        ("restart", "cart-0: linkerd-proxy restarted: OOMKilled (137)"),
        ("unready", "cart-0 is not ready any more"),
    ]


def test_the_control_plane_goes_and_comes() -> None:
    ours = fleet()
    ours.update([], [control("identity")])
    assert [event.kind for event in ours.update([], [])] == ["down"]
    assert ours.update([], [control("identity", uid="n", ready=False)]) == []
    assert [event.text for event in ours.update([], [control("identity", uid="n")])] == ["control/identity is ready"]
