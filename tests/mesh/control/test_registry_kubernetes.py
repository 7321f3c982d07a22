"""The registry over a Kubernetes API: what proxies are told, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from mesh.api.messages import Endpoints, EndpointsChange, InboundPolicy, NotFound, OutboundPolicy, Profile, decode_line
from mesh.api.resources import EndpointSlice, Pod, Server, Service
from mesh.control.discovery import Discovery
from mesh.control.http import Request, Watch
from mesh.control.metrics import Metrics
from mesh.control.registry.kubernetes import TYPES, KubernetesRegistry
from mesh.control.registry.reading import resource_reader
from mesh.kube import kinds
from mesh.kube.informer import Timing
from mesh.kube.store import Unreadable
from tests.mesh.control.builders import silent_log
from tests.mesh.control.kube_objects import endpoint_slice, member, namespace, pod, service
from tests.mesh.kube.fake_api import FakeApi

QUICK = Timing(backoff=0.005, max_backoff=0.05, absent=0.05)
CART = "/v1/destinations/cart.shop.svc.cluster.local:80"


class Lines:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def send(self, line: bytes) -> None:
        self.lines.append(line)

    def take(self) -> list[Any]:
        taken, self.lines = self.lines, []
        return [decode_line(line) for line in taken]


class World:
    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.metrics = Metrics()
        log, self.said = silent_log()
        self.registry = KubernetesRegistry(api.client(), tuple(TYPES), log, self.metrics, QUICK)
        self.discovery = Discovery(self.registry, log, self.metrics)

    async def start(self) -> None:
        await self.registry.first()
        self.discovery.load()

    def watch(self, path: str) -> Lines:
        policy = not path.startswith("/v1/destinations")
        handler = self.discovery.policy_handler() if policy else self.discovery.destination_handler()
        answer = handler(Request("GET", path, b""))
        assert isinstance(answer, Watch), answer
        lines = Lines()
        answer.opened(lines)  # type: ignore[arg-type]
        return lines

    async def told(self, lines: Lines) -> list[Any]:
        async with asyncio.timeout(5):
            while not lines.lines:
                await asyncio.sleep(0.002)
        return lines.take()

    def endpoints(self, lines: Lines) -> set[str]:
        (found,) = [message for message in lines.take() if isinstance(message, Endpoints)]
        return {endpoint.address for endpoint in found.endpoints}


def play(story: Callable[[World], Awaitable[None]], before: Callable[[FakeApi], None]) -> None:
    async def run() -> None:
        async with FakeApi() as api:
            before(api)
            world = World(api)
            tasks = [asyncio.create_task(world.registry.run())]
            try:
                await world.start()
                tasks.append(asyncio.create_task(world.discovery.watch_registry()))
                await story(world)
                assert not any(task.done() for task in tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def cart(api: FakeApi, *members: Any) -> None:
    api.put(kinds.NAMESPACE, namespace())
    api.put(kinds.SERVICE, service())
    api.put(kinds.POD, pod("cart-0", "10.244.0.5"))
    api.put(kinds.POD, pod("cart-1", "10.244.0.6"))
    found = members or (member("cart-0", "10.244.0.5"), member("cart-1", "10.244.0.6"))
    api.put(kinds.ENDPOINT_SLICE, endpoint_slice(*found))


def test_a_rollout_is_told_in_step_and_a_cluster_ip_is_its_service() -> None:
    async def story(world: World) -> None:
        by_name, by_ip = world.watch(CART), world.watch("/v1/destinations/10.96.0.10:80")
        assert world.endpoints(by_name) == world.endpoints(by_ip) == {"10.244.0.5:8080", "10.244.0.6:8080"}
        world.api.put(kinds.POD, pod("cart-2", "10.244.0.7"))
        gone = member("cart-0", "10.244.0.5", ready=False, terminating=True)
        world.api.put(kinds.ENDPOINT_SLICE, endpoint_slice(gone, member("cart-2", "10.244.0.7")))
        (change,) = await world.told(by_name)
        assert isinstance(change, EndpointsChange)
        assert [endpoint.pod for endpoint in change.add] == ["cart-2"]
        assert change.add[0].identity == "cart.shop.serviceaccount.identity.linkerd.cluster.local"
        assert set(change.remove) == {"10.244.0.5:8080", "10.244.0.6:8080"}

    play(story, cart)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([{"ready": True}, {"ready": False, "serving": False}], {"10.244.0.5:8080"}),
        ([{"ready": True}, {"ready": False, "serving": True, "terminating": True}], {"10.244.0.5:8080"}),
        ([{"ready": False, "terminating": True}, {"ready": False, "serving": False}], {"10.244.0.5:8080"}),
        ([{"ready": False, "serving": False, "terminating": True}, {"ready": False, "serving": False}], set()),
        ([{"ready": None, "serving": None}, {"ready": False, "serving": False}], {"10.244.0.5:8080"}),
    ],
)
def test_terminating_endpoints_serve_only_while_they_are_all_there_is(
    conditions: list[dict[str, bool | None]], expected: set[str]
) -> None:
    async def story(world: World) -> None:
        assert world.endpoints(world.watch(CART)) == expected

    members = [member(f"cart-{n}", f"10.244.0.{5 + n}", **given) for n, given in enumerate(conditions)]
    play(story, lambda api: cart(api, *members))


def test_a_pod_is_meshed_by_label_and_annotation_and_not_on_skipped_ports() -> None:
    def before(api: FakeApi) -> None:
        cart(api)
        claims = pod("cart-0", "10.244.0.5")
        del claims["metadata"]["labels"]["linkerd.io/control-plane-ns"]
        api.put(kinds.POD, claims)
        skips = pod("cart-1", "10.244.0.6")
        skips["metadata"]["annotations"]["config.linkerd.io/skip-inbound-ports"] = "25,8000-8100"
        api.put(kinds.POD, skips)

    async def story(world: World) -> None:
        assert world.endpoints(world.watch(CART)) == {"10.244.0.5:8080", "10.244.0.6:8080"}
        assert world.endpoints(world.watch("/v1/destinations/10.244.0.6:9000")) == {"10.244.0.6:9000"}
        for path in ("10.244.0.6:8080", "10.244.0.5:9000"):
            assert isinstance(world.watch(f"/v1/destinations/{path}").take()[0], NotFound), "forwarded as it is"

    play(story, before)


def test_an_endpoint_whose_pod_is_not_known_yet_waits_for_it() -> None:
    def before(api: FakeApi) -> None:
        cart(api, member("cart-0", "10.244.0.5"), member("late-0", "10.244.0.9"))

    async def story(world: World) -> None:
        lines = world.watch(CART)
        assert world.endpoints(lines) == {"10.244.0.5:8080"}
        world.api.put(kinds.POD, pod("late-0", "10.244.0.9"))
        (change,) = await world.told(lines)
        assert [endpoint.address for endpoint in change.add] == ["10.244.0.9:8080"]

    play(story, before)


def test_the_address_of_a_finished_pod_is_not_its_own_any_more() -> None:
    def before(api: FakeApi) -> None:
        cart(api)
        api.put(kinds.POD, pod("job-0", "10.244.0.6", phase="Succeeded"))
        api.put(kinds.POD, pod("net-0", "172.18.0.2", hostNetwork=True))

    async def story(world: World) -> None:
        (endpoints, _) = world.watch("/v1/destinations/10.244.0.6:9000").take()
        assert endpoints.endpoints[0].pod == "cart-1"
        assert isinstance(world.watch("/v1/destinations/172.18.0.2:9000").take()[0], NotFound)

    play(story, before)


def test_headless_services_and_their_pods() -> None:
    def before(api: FakeApi) -> None:
        cart(api)
        api.put(kinds.SERVICE, service(ip="None"))

    async def story(world: World) -> None:
        assert world.endpoints(world.watch(CART)) == {"10.244.0.5:8080", "10.244.0.6:8080"}
        assert world.endpoints(world.watch("/v1/destinations/10.244.0.5:8080")) == {"10.244.0.5:8080"}

    play(story, before)


def test_external_workloads_are_endpoints_of_the_services_that_select_them() -> None:
    workload = {
        "metadata": {"name": "vm-1", "namespace": "shop", "labels": {"app": "cart"}},
        "spec": {
            "meshTLS": {"identity": "spiffe://root/vm-1", "serverName": "vm-1.shop"},
            "ports": [{"name": "http", "port": 9080}],
            "workloadIPs": [{"ip": "192.0.2.1"}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    }

    async def story(world: World) -> None:
        lines = world.watch(CART)
        lines.take()
        world.api.put(kinds.EXTERNAL_WORKLOAD, workload)
        (change,) = await world.told(lines)
        (added,) = change.add
        assert (added.address, added.port, added.identity) == ("192.0.2.1:9080", 9080, "spiffe://root/vm-1")
        unready = {**workload, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}
        world.api.put(kinds.EXTERNAL_WORKLOAD, unready)
        (change,) = await world.told(lines)
        assert change.remove == ("192.0.2.1:9080",)

    play(story, cart)


def test_policies_take_effect_and_a_refused_one_keeps_the_last_good() -> None:
    async def story(world: World) -> None:
        inbound = world.watch("/v1/inbound/shop/cart-0/8080")
        (policy,) = inbound.take()
        assert policy.server_name == "all-unauthenticated"
        meta = {"name": "cart", "namespace": "shop"}
        spec: dict[str, Any] = {"podSelector": {"matchLabels": {"app": "cart"}}, "port": "http"}
        server = {"apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server", "metadata": meta, "spec": spec}
        world.api.put(kinds.SERVER, server)
        (policy,) = await world.told(inbound)
        assert isinstance(policy, InboundPolicy)
        assert (policy.server_name, policy.authorizations) == ("cart", ())
        world.api.put(kinds.SERVER, {**server, "spec": {**spec, "port": 99_999}})
        world.api.put(kinds.SERVER, {**server, "metadata": {**meta, "name": "zz"}})
        await asyncio.sleep(0.2)
        assert inbound.take() == [], "99999 is no port, and of two Servers the first by name has it"
        assert "99999 is not a port" in world.said.getvalue()
        world.api.delete(kinds.SERVER, "shop", "cart")
        (policy,) = await world.told(inbound)
        assert policy.server_name == "zz"

    play(story, cart)


def test_routes_of_both_groups_profiles_and_splits() -> None:
    meta = {"name": "cart", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"}

    def route(version: str, path: str) -> dict[str, Any]:
        parent = {"group": "", "kind": "Service", "name": "cart", "port": 80}
        rules = [{"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": []}]
        return {
            "apiVersion": version,
            "kind": "HTTPRoute",
            "metadata": dict(meta),
            "spec": {"parentRefs": [parent], "rules": rules},
            "status": {"parents": []},
        }

    async def story(world: World) -> None:
        outbound = world.watch("/v1/outbound/10.96.0.10:80")
        outbound.take()
        world.api.put(kinds.POLICY_HTTP_ROUTE, route("policy.linkerd.io/v1beta3", "/a"))
        world.api.put(kinds.GATEWAY_HTTP_ROUTE, route("gateway.networking.k8s.io/v1", "/bb"))
        policy = (await world.told(outbound))[-1]
        if len(policy.routes) < 2:  # the two informers' changes fell into two publications
            policy = (await world.told(outbound))[-1]
        assert isinstance(policy, OutboundPolicy)
        assert [r.path_prefixes for r in policy.routes] == [("/bb",), ("/a",)]

        lines = world.watch(CART)
        lines.take()
        profile = {
            "metadata": {"name": "cart.shop.svc.cluster.local", "namespace": "shop"},
            "spec": {"routes": [{"name": "r", "condition": {"method": "GET"}, "isRetryable": True}]},
        }
        world.api.put(kinds.SERVICE_PROFILE, profile)
        (told,) = await world.told(lines)
        assert isinstance(told, Profile)
        assert told.routes[0].is_retryable

    play(story, cart)


def test_absent_gateway_api_and_smi_are_no_error_and_are_found_later() -> None:
    def before(api: FakeApi) -> None:
        cart(api)
        api.absent |= {"gateway.networking.k8s.io", "split.smi-spec.io"}

    async def story(world: World) -> None:
        lines = world.watch(CART)
        lines.take()
        split = {
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {"service": "cart", "backends": [{"service": "cart-v2", "weight": 100}]},
        }
        world.api.put(kinds.TRAFFIC_SPLIT, split)
        world.api.absent.clear()
        (profile,) = await world.told(lines)
        assert isinstance(profile, Profile)
        assert "cart-v2" in repr(profile)

    play(story, before)


def test_the_last_state_is_served_while_the_api_server_is_away() -> None:
    async def story(world: World) -> None:
        world.api.down = True
        world.api.drop_watches()
        async with asyncio.timeout(5):
            while not any(informer.counts["failures"] > 2 for informer in world.registry.informers):
                await asyncio.sleep(0.005)
        assert world.endpoints(world.watch(CART)) == {"10.244.0.5:8080", "10.244.0.6:8080"}
        lines = world.watch(CART)
        lines.take()
        world.api.put(kinds.ENDPOINT_SLICE, endpoint_slice(member("cart-0", "10.244.0.5")))
        world.api.down = False
        (change,) = await world.told(lines)
        assert change.remove == ("10.244.0.6:8080",)

    play(story, cart)


def test_a_change_is_told_within_a_tenth_of_a_second_and_a_burst_as_few_lines() -> None:
    async def story(world: World) -> None:
        lines = world.watch(CART)
        lines.take()
        took = []
        for number in range(10):
            started = time.perf_counter()
            members = [member("cart-0", "10.244.0.5")] + [member("cart-1", "10.244.0.6")] * (number % 2)
            world.api.put(kinds.ENDPOINT_SLICE, endpoint_slice(*members))
            await world.told(lines)
            took.append(time.perf_counter() - started)
        assert sorted(took)[5] < 0.1, took
        before = world.discovery.watches.state.version
        for number in range(200):
            world.api.put(kinds.POD, pod(f"new-{number}", f"10.244.9.{number}"))
        world.api.put(kinds.ENDPOINT_SLICE, endpoint_slice(member("new-199", "10.244.9.199")))
        async with asyncio.timeout(5):
            while not any(getattr(message, "add", ()) for message in await world.told(lines)):
                pass
        assert world.discovery.watches.state.version - before <= 15

    play(story, cart)


# ---- reading


def _read(type_: type[Any], value: Any) -> Any:
    return resource_reader(type_)(msgspec.json.encode(value))


def test_what_the_mesh_does_not_read_is_not_kept() -> None:
    one = pod("cart-0", "10.244.0.5")
    other = pod("cart-0", "10.244.0.5")
    other["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = "y"
    other["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert _read(Pod, one) == _read(Pod, other)


def test_nulls_of_the_api_server_read_as_left_out() -> None:
    external = {"metadata": {"name": "x", "namespace": "shop"}, "spec": {"type": "ExternalName", "ports": None}}
    assert _read(Service, external).spec.ports == ()
    empty = {"metadata": {"name": "x", "namespace": "shop"}, "addressType": "IPv4", "endpoints": None, "ports": None}
    assert _read(EndpointSlice, empty).endpoints == ()
    assert _read(EndpointSlice, {**empty, "addressType": "FQDN"}) is None
    anyport = {**empty, "ports": [{"name": "", "port": None}, {"name": "http", "port": 80, "appProtocol": None}]}
    assert [port.port for port in _read(EndpointSlice, anyport).ports] == [80]


def test_what_admission_would_refuse_is_refused_with_field_and_reason() -> None:
    server = {"metadata": {"name": "cart", "namespace": "shop"}, "spec": {"podSelector": {}, "port": 0}}
    with pytest.raises(Unreadable, match=r"spec\.port: 0 is not a port"):
        _read(Server, server)
    with pytest.raises(Unreadable, match="object missing required field"):
        _read(Server, {"metadata": {"name": "cart"}, "spec": {}})
