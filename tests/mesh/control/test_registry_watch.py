"""The polled folder, and what its changes make of open watches. Polls are called; nothing sleeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.api.messages import Endpoints, EndpointsChange, NotFound, OutboundPolicy, Profile, decode_line
from mesh.behavior.authz import default_inbound_policy
from mesh.control.discovery import Discovery
from mesh.control.http import Request, Response, Watch
from mesh.control.metrics import Metrics
from mesh.control.registry.files import RegistryFiles, RegistryUnreadable
from mesh.control.translate.authorizations import Cluster
from tests.mesh.control.builders import CART, silent_log

AUTHORITY = "cart.shop.svc.cluster.local:8080"
SERVICE = "kind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {ports: [{name: http, port: 8080}]}\n"
PROFILE = (
    "kind: ServiceProfile\nmetadata: {name: cart.shop.svc.cluster.local, namespace: shop}\n"
    "spec: {routes: [{name: r, condition: {method: GET}}]}\n"
)


def pod(name: str, ip: str, *, meshed: bool = True, inbound: str | None = None) -> str:
    annotations = {"linkerd.io/proxy-version": "1"} if meshed else {}
    if inbound is not None:
        annotations["gameday.dev/inbound-address"] = inbound
    return (
        f"kind: Pod\nmetadata: {{name: {name}, namespace: shop, annotations: {annotations}}}\n"
        f"spec: {{serviceAccountName: cart}}\nstatus: {{podIP: {ip}}}\n"
    )


def endpoint_slice(*members: tuple[str, str, bool], port: int = 8080) -> str:
    endpoints = ", ".join(
        f"{{addresses: [{ip}], conditions: {{ready: {str(ready).lower()}}}, targetRef: {{kind: Pod, name: {name}}}}}"
        for name, ip, ready in members
    )
    return (
        "kind: EndpointSlice\nmetadata: {name: cart-x, namespace: shop, labels: {kubernetes.io/service-name: cart}}\n"
        f"endpoints: [{endpoints}]\nports: [{{name: http, port: {port}}}]\n"
    )


class Registry:
    """A folder, the server's view of it, and a stream for each watch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = Metrics()
        self.log, self.said = silent_log()
        self.discovery = Discovery(RegistryFiles(path, self.log, self.metrics), self.log, self.metrics)

    def write(self, name: str, text: str) -> None:
        """As the world writes: whole, by rename."""
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text)
        os.replace(temporary, self.path / name)

    def watch(self, path: str) -> Lines:
        policy = not path.startswith("/v1/destinations")
        handler = self.discovery.policy_handler() if policy else self.discovery.destination_handler()
        answer = handler(Request("GET", path, b""))
        assert isinstance(answer, Watch), answer
        lines = Lines()
        lines.end = answer.opened(lines)  # type: ignore[arg-type]
        return lines


class Lines:
    """A stream's other end."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def send(self, line: bytes) -> None:
        self._lines.append(line)

    def take(self) -> list:
        messages = [decode_line(line) for line in self._lines]
        self._lines.clear()
        return messages


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(tmp_path)
    made.write("service.yaml", SERVICE)
    made.write("pods.yaml", pod("cart-0", "127.9.0.5") + "---\n" + pod("cart-1", "127.9.0.6"))
    made.write("slice.yaml", endpoint_slice(("cart-0", "127.9.0.5", True), ("cart-1", "127.9.0.6", True)))
    made.discovery.load()
    return made


def test_a_watch_begins_with_a_snapshot_of_endpoints_and_profile(registry: Registry) -> None:
    endpoints, profile = registry.watch(f"/v1/destinations/{AUTHORITY}").take()
    assert isinstance(endpoints, Endpoints)
    assert [(e.address, e.pod, e.identity) for e in endpoints.endpoints] == [
        ("127.9.0.5:8080", "cart-0", CART),
        ("127.9.0.6:8080", "cart-1", CART),
    ]
    assert isinstance(profile, Profile)
    assert not profile.exists


def test_services_are_asked_for_by_the_clusters_own_domain(registry: Registry) -> None:
    cluster = Cluster(domain="corp.example")
    discovery = Discovery(RegistryFiles(registry.path, registry.log, Metrics()), registry.log, Metrics(), cluster)
    discovery.load()
    handler = discovery.destination_handler()
    answer = handler(Request("GET", "/v1/destinations/cart.shop.svc.corp.example:80", b""))
    assert isinstance(answer, Watch)
    lines = Lines()
    answer.opened(lines)  # type: ignore[arg-type]
    endpoints, _ = lines.take()
    assert endpoints.endpoints[0].identity == CART  # the trust domain is another thing
    refused = handler(Request("GET", f"/v1/destinations/{AUTHORITY}", b""))
    assert not isinstance(refused, Watch)
    assert (refused.status, b"svc.corp.example:PORT" in refused.body) == (400, True)


def test_a_pod_that_falls_unready_is_removed_and_comes_back(registry: Registry) -> None:
    lines = registry.watch(f"/v1/destinations/{AUTHORITY}")
    (before, _) = lines.take()
    registry.write("slice.yaml", endpoint_slice(("cart-0", "127.9.0.5", False), ("cart-1", "127.9.0.6", True)))
    registry.discovery.poll()
    (change,) = lines.take()
    assert isinstance(change, EndpointsChange)
    assert (change.remove, change.add) == (("127.9.0.5:8080",), ())
    assert change.version == before.version + 1
    assert change.published_at >= before.published_at
    registry.write("slice.yaml", endpoint_slice(("cart-0", "127.9.0.5", True), ("cart-1", "127.9.0.6", True)))
    registry.discovery.poll()
    (change,) = lines.take()
    assert [e.address for e in change.add] == ["127.9.0.5:8080"]


def test_a_service_without_ready_pods_is_an_empty_list_and_not_unknown(registry: Registry) -> None:
    registry.write("slice.yaml", endpoint_slice(("cart-0", "127.9.0.5", False)))
    registry.discovery.poll()
    endpoints = registry.watch(f"/v1/destinations/{AUTHORITY}").take()[0]
    assert isinstance(endpoints, Endpoints)
    assert endpoints.endpoints == ()


def test_an_unknown_service_is_not_found_until_it_appears_and_again_when_it_goes(registry: Registry) -> None:
    lines = registry.watch("/v1/destinations/web.shop.svc.cluster.local:80")
    assert isinstance(lines.take()[0], NotFound)
    registry.write("web.yaml", SERVICE.replace("cart", "web"))
    registry.discovery.poll()
    assert [type(m) for m in lines.take()] == [Endpoints]
    (registry.path / "web.yaml").unlink()
    registry.discovery.poll()
    assert [type(m) for m in lines.take()] == [NotFound]


def test_an_unmeshed_pod_is_dialled_at_the_app_in_plaintext(registry: Registry) -> None:
    registry.write("pods.yaml", pod("cart-0", "127.9.0.5", meshed=False))
    registry.discovery.poll()
    (endpoint,) = registry.watch(f"/v1/destinations/{AUTHORITY}").take()[0].endpoints
    assert (endpoint.address, endpoint.identity) == ("127.9.0.5:8080", None)


def test_an_address_of_a_pod_not_yet_known_is_left_out_and_never_taken_as_unmeshed(registry: Registry) -> None:
    registry.write("pods.yaml", pod("cart-0", "127.9.0.5"))
    registry.discovery.poll()
    endpoints = registry.watch(f"/v1/destinations/{AUTHORITY}").take()[0].endpoints
    assert [e.pod for e in endpoints] == ["cart-0"]


def test_pods_that_share_an_ip_are_told_apart_by_their_inbound_address(registry: Registry) -> None:
    registry.write("pods.yaml", pod("cart-0", "127.0.0.1", inbound="127.0.0.1:20001"))
    registry.discovery.poll()
    (endpoint,) = registry.watch(f"/v1/destinations/{AUTHORITY}").take()[0].endpoints
    assert endpoint.address == "127.0.0.1:20001"


def test_a_profile_that_comes_changes_and_goes_is_sent_whole_each_time(registry: Registry) -> None:
    lines = registry.watch(f"/v1/destinations/{AUTHORITY}")
    lines.take()
    registry.write("profile.yaml", PROFILE)
    registry.discovery.poll()
    (profile,) = lines.take()
    assert [r.name for r in profile.routes] == ["r"]
    (registry.path / "profile.yaml").unlink()
    registry.discovery.poll()
    (profile,) = lines.take()
    assert not profile.exists


def test_policy_watches_hear_of_annotations_and_only_of_changes_that_concern_them(registry: Registry) -> None:
    outbound = registry.watch(f"/v1/outbound/{AUTHORITY}")
    inbound = registry.watch("/v1/inbound/shop/cart-0/8080")
    assert isinstance(outbound.take()[0], OutboundPolicy)
    published_at = registry.discovery.watches.state.published_at
    assert inbound.take() == [default_inbound_policy("all-unauthenticated", version=1, published_at=published_at)]
    annotated = SERVICE.replace("namespace: shop", "namespace: shop, annotations: {retry.linkerd.io/http: 5xx}")
    registry.write("service.yaml", annotated)
    registry.discovery.poll()
    (policy,) = outbound.take()
    assert policy.routes[-1].retry.statuses == ((500, 599),)
    assert inbound.take() == []


def test_routes_apply_to_the_service_and_port_they_name(registry: Registry) -> None:
    def route(name: str, parent: str, namespace: str = "shop") -> str:
        return (
            f"kind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{parentRefs: [{parent}]}}\n"
        )

    routes = [
        route("any-port", "{name: cart}"),
        route("this-port", "{name: cart, port: 8080}"),
        route("other-port", "{name: cart, port: 9090}"),
        route("other-service", "{name: web}"),
        route("gateway", "{name: cart, kind: Gateway, group: gateway.networking.k8s.io}"),
        route("consumer", "{name: cart, namespace: shop}", namespace="web"),
    ]
    registry.write("routes.yaml", "---\n".join(routes))
    registry.discovery.poll()
    (policy,) = registry.watch(f"/v1/outbound/{AUTHORITY}").take()
    assert [r.name for r in policy.routes] == ["any-port", "this-port"]


def test_a_bad_file_keeps_its_last_good_state_and_is_told_once(registry: Registry) -> None:
    lines = registry.watch(f"/v1/destinations/{AUTHORITY}")
    lines.take()
    registry.write("slice.yaml", "kind: EndpointSlice\nmetadata: {")
    for _ in range(3):
        registry.discovery.poll()
    assert lines.take() == []
    assert registry.said.getvalue().count("manifest refused") == 1
    assert "slice.yaml:3: not valid YAML" in registry.said.getvalue()
    assert registry.metrics.value("registry_file_errors_total") == 1
    assert "registry_bad_files 1.0" in registry.metrics.exposition()
    registry.write("slice.yaml", endpoint_slice(("cart-1", "127.9.0.6", True)))
    registry.discovery.poll()
    assert [type(m) for m in lines.take()] == [EndpointsChange]
    assert "registry_bad_files 0.0" in registry.metrics.exposition()


def test_a_folder_that_vanishes_keeps_its_last_state(registry: Registry, tmp_path: Path) -> None:
    lines = registry.watch(f"/v1/destinations/{AUTHORITY}")
    lines.take()
    tmp_path.rename(tmp_path.with_name("away"))
    for _ in range(3):
        registry.discovery.poll()
    assert lines.take() == []
    assert registry.said.getvalue().count("registry folder is gone") == 1


def test_a_folder_that_is_missing_at_the_start_is_an_error(tmp_path: Path) -> None:
    log, _ = silent_log()
    with pytest.raises(RegistryUnreadable):
        RegistryFiles(tmp_path / "none", log, Metrics()).load()


def test_hidden_and_foreign_files_are_passed_over(registry: Registry) -> None:
    (registry.path / ".half-written.yaml").write_text("kind: [")
    (registry.path / "notes.txt").write_text("kind: [")
    assert registry.discovery.poll() is None
    assert registry.metrics.value("registry_file_errors_total") == 0


def test_a_touched_file_with_the_same_content_is_no_change(registry: Registry) -> None:
    lines = registry.watch(f"/v1/destinations/{AUTHORITY}")
    lines.take()
    version = registry.discovery.watches.state.version
    registry.write("service.yaml", SERVICE)
    registry.discovery.poll()
    assert registry.discovery.watches.state.version == version


def test_a_wrong_annotation_is_logged_once_and_ignored(registry: Registry) -> None:
    wrong = SERVICE.replace("namespace: shop", "namespace: shop, annotations: {retry.linkerd.io/http: 5x}")
    registry.write("service.yaml", wrong)
    registry.discovery.poll()
    for _ in range(3):
        (policy,) = registry.watch(f"/v1/outbound/{AUTHORITY}").take()
    assert policy.routes[-1].retry is None
    assert registry.said.getvalue().count("retry.linkerd.io/http") == 1


def test_a_closed_watch_is_forgotten(registry: Registry) -> None:
    lines = registry.watch(f"/v1/destinations/{AUTHORITY}")
    assert len(registry.discovery.watches) == 1
    lines.end()
    assert len(registry.discovery.watches) == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/destinations/cart", 400),
        ("/v1/destinations/cart.shop.svc.other.domain:80", 400),
        ("/v1/destinations/cart.shop.svc.cluster.local:0", 400),
        ("/v1/destinations/cart.shop.svc.cluster.local:99999", 400),
        ("/v1/destinations", 404),
        ("/v1/outbound/cart.shop.svc.cluster.local:80", 404),
        ("/", 404),
    ],
)
def test_a_watch_of_nothing_is_refused(registry: Registry, path: str, status: int) -> None:
    answer = registry.discovery.destination_handler()(Request("GET", path, b""))
    assert isinstance(answer, Response)
    assert answer.status == status
