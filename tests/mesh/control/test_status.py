"""What is written into statuses: verdicts on plain data, and a writer that writes once."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from mesh.api.resources import (
    AnyResource,
    EgressNetwork,
    GRPCRoute,
    HTTPLocalRateLimitPolicy,
    HTTPRoute,
    Server,
    Service,
)
from mesh.control.metrics import Metrics
from mesh.control.registry.index import Index
from mesh.control.status.verdicts import CONTROLLER, desired_status
from mesh.control.status.writer import StatusWriter
from mesh.kube import kinds
from mesh.kube.api import Conflict
from mesh.kube.lease import Election, LeaseTiming
from tests.mesh.control.builders import silent_log
from tests.mesh.control.kube_objects import service
from tests.mesh.kube.fake_api import FakeApi, Object
from tests.mesh.kube.test_informer import QUICK

T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"
POLICY = "policy.linkerd.io"


def route(
    *backends: dict[str, Any], parent: dict[str, Any] | None = None, kind: str = "HTTPRoute", name: str = "r"
) -> Object:
    parents = [{"group": "", "kind": "Service", "name": "cart", "port": 80} | (parent or {})]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop", "generation": 1},
        "spec": {"parentRefs": parents, "rules": [{"backendRefs": list(backends)}]},
    }


def index(*more: AnyResource, ip: str = "10.96.0.10") -> Index:
    return Index([msgspec.convert(service(ip=ip), Service), *more])


def conditions(value: Object, over: Index, type_: Any = HTTPRoute) -> dict[str, tuple[str, str]]:
    status = desired_status(msgspec.convert(value, type_), over, {}, 1, T0)
    assert status is not None
    (parent,) = status["parents"]
    assert parent["controllerName"] == CONTROLLER
    return {c["type"]: (c["status"], c["reason"]) for c in parent["conditions"]}


SERVER = msgspec.convert(
    {"metadata": {"name": "cart", "namespace": "shop"}, "spec": {"podSelector": {}, "port": 80}}, Server
)
EGRESS = msgspec.convert(
    {"metadata": {"name": "out", "namespace": "shop"}, "spec": {"trafficPolicy": "Allow"}}, EgressNetwork
)
OK = ("True", "Accepted")


@pytest.mark.parametrize(
    ("parent", "accepted"),
    [
        ({}, OK),
        ({"name": "gone"}, ("False", "NoMatchingParent")),
        ({"port": 81}, ("False", "NoMatchingParent")),
        ({"namespace": "web"}, ("False", "NoMatchingParent")),
        ({"group": POLICY, "kind": "Server"}, OK),
        ({"group": POLICY, "kind": "Server", "name": "gone"}, ("False", "NoMatchingParent")),
        ({"group": POLICY, "kind": "EgressNetwork", "name": "out"}, OK),
        ({"group": POLICY, "kind": "EgressNetwork", "name": "gone"}, ("False", "NoMatchingParent")),
    ],
)
def test_a_route_is_accepted_by_parents_that_exist(parent: dict[str, Any], accepted: tuple[str, str]) -> None:
    assert conditions(route(parent=parent), index(SERVER, EGRESS))["Accepted"] == accepted


def test_a_headless_service_is_no_parent() -> None:
    assert conditions(route(), index(ip="None"))["Accepted"] == ("False", "NoMatchingParent")


@pytest.mark.parametrize(
    ("backend", "resolved"),
    [
        ({"name": "cart", "port": 80}, ("True", "ResolvedRefs")),
        ({"name": "gone", "port": 80}, ("False", "BackendNotFound")),
        ({"name": "cart", "namespace": "web"}, ("False", "BackendNotFound")),
        ({"name": "x", "kind": "Bucket", "group": "example.com"}, ("False", "InvalidKind")),
        ({"name": "out", "kind": "EgressNetwork", "group": POLICY}, ("False", "EgressNetworkBackendMustBeParent")),
    ],
)
def test_backends_resolve_or_say_why_not(backend: dict[str, Any], resolved: tuple[str, str]) -> None:
    assert conditions(route(backend), index(EGRESS))["ResolvedRefs"] == resolved


def test_an_egress_network_is_a_backend_of_its_own_routes() -> None:
    own = {"group": POLICY, "kind": "EgressNetwork", "name": "out"}
    assert conditions(route(own, parent=own), index(EGRESS))["ResolvedRefs"] == ("True", "ResolvedRefs")


def test_an_http_route_beside_a_grpc_route_is_in_conflict() -> None:
    grpc = msgspec.convert(route(kind="GRPCRoute"), GRPCRoute)
    assert conditions(route(), index(grpc))["Accepted"] == ("False", "RouteReasonConflicted")
    assert conditions(route(kind="GRPCRoute"), index(grpc), GRPCRoute)["Accepted"] == OK


def test_entries_of_other_controllers_stay_and_a_time_moves_only_with_its_status() -> None:
    subject = msgspec.convert(route(), HTTPRoute)
    theirs = {"controllerName": "example.com/gw", "parentRef": {"name": "gw"}, "conditions": []}
    first = desired_status(subject, index(), {"parents": [theirs]}, 1, T0)
    assert first is not None
    assert first["parents"][0] == theirs
    assert desired_status(subject, index(), first, 1, T1) is None, "nothing changed, nothing is written"
    second = desired_status(subject, Index(), first, 2, T1)
    assert second is not None
    accepted, resolved = second["parents"][1]["conditions"]
    assert (accepted["status"], accepted["lastTransitionTime"], accepted["observedGeneration"]) == ("False", T1, 2)
    assert (resolved["status"], resolved["lastTransitionTime"]) == ("True", T0)


def test_a_route_of_gateways_only_is_left_alone_and_a_former_one_is_cleaned() -> None:
    subject = msgspec.convert(route(parent={"group": "gateway.networking.k8s.io", "kind": "Gateway"}), HTTPRoute)
    theirs = {"controllerName": "example.com/gw", "parentRef": {"name": "gw"}, "conditions": []}
    assert desired_status(subject, index(), {"parents": [theirs]}, 1, T0) is None
    ours = {"controllerName": CONTROLLER, "parentRef": {"name": "cart"}, "conditions": []}
    assert desired_status(subject, index(), {"parents": [theirs, ours]}, 1, T0) == {"parents": [theirs]}


def test_of_two_rate_limits_the_older_holds() -> None:
    def limit(name: str, created: str, target: str = "cart") -> HTTPLocalRateLimitPolicy:
        return msgspec.convert(
            {
                "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created},
                "spec": {
                    "targetRef": {"group": POLICY, "kind": "Server", "name": target},
                    "total": {"requestsPerSecond": 5},
                },
            },
            HTTPLocalRateLimitPolicy,
        )

    old, new, lost = limit("z", T0), limit("a", T1), limit("lost", T0, "gone")
    reasons = []
    for subject in (old, new, lost):
        status = desired_status(subject, index(SERVER), {}, 1, T0, [old, new, lost])
        assert status is not None
        assert status["targetRef"]["name"] == subject.spec.target_ref.name
        reasons.append((status["conditions"][0]["status"], status["conditions"][0]["reason"]))
    assert reasons == [OK, ("False", "RateLimitReasonAlreadyExists"), ("False", "NoMatchingTarget")]


def test_the_leader_writes_each_status_once_and_again_when_its_parent_comes() -> None:
    async def play() -> None:
        async with FakeApi() as api:
            holder = [Index()]
            log, _ = silent_log()
            timing = LeaseTiming(duration=1.0, renew_deadline=0.5, retry=0.02)
            elections = [Election(api.client(), "linkerd", "lease", str(n), log, timing) for n in range(2)]
            writers = [StatusWriter(api.client(), lambda: holder[0], e, log, Metrics(), QUICK) for e in elections]
            tasks = [asyncio.create_task(work.run()) for work in (*elections, *writers)]

            async def until(accepted: str) -> None:
                async with asyncio.timeout(5):
                    while True:
                        found = api.get(kinds.GATEWAY_HTTP_ROUTE, "shop", "r") or {}
                        if parents := found.get("status", {}).get("parents"):
                            assert len(parents) == 1
                            if parents[0]["conditions"][0]["status"] == accepted:
                                return
                        await asyncio.sleep(0.005)

            api.put(kinds.GATEWAY_HTTP_ROUTE, route())
            await until("False")
            holder[0] = index()
            for writer in writers:
                writer.look_again()
            await until("True")
            await asyncio.sleep(0.3)
            patches = [path for method, path in api.requests if method == "PATCH"]
            assert patches == ["/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r/status"] * 2
            for task in tasks:
                task.cancel()

    asyncio.run(play())


def test_a_patch_on_an_outdated_version_is_a_conflict_and_not_an_overwrite() -> None:
    """What the writer relies on, shown on the server that the tests use."""

    async def play() -> None:
        async with FakeApi() as api:
            api.put(kinds.GATEWAY_HTTP_ROUTE, route())
            path = kinds.GATEWAY_HTTP_ROUTE.path("shop", "r", "status")
            patch = {"metadata": {"resourceVersion": "1"}, "status": {"parents": []}}
            with pytest.raises(Conflict):
                await api.client().request("PATCH", path, body=patch, content_type="application/merge-patch+json")

    asyncio.run(play())
