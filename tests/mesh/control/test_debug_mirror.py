"""The admin port's read-only mirror of the watches: the same answer as a proxy gets, once, for people."""

from __future__ import annotations

from pathlib import Path

from mesh.api.messages import Endpoints, Profile, decode_line
from mesh.control.admin import admin_handler
from mesh.control.http import Request, Response
from tests.mesh.control.test_registry_watch import AUTHORITY, SERVICE, Registry, endpoint_slice, pod


def ask(registry: Registry, path: str, *, policy: bool = False, method: str = "GET") -> Response:
    discovery = registry.discovery
    debug = discovery.policy_debug_handler() if policy else discovery.destination_debug_handler()
    answer = admin_handler(registry.metrics, lambda: True, debug)(Request(method, path, b""))
    assert isinstance(answer, Response)
    return answer


def shop(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path)
    registry.write("service.yaml", SERVICE)
    registry.write("pod.yaml", pod("cart-0", "10.0.0.5"))
    registry.write("slice.yaml", endpoint_slice(("cart-0", "10.0.0.5", True)))
    registry.discovery.load()
    return registry


def test_the_mirror_says_what_a_watch_says_first(tmp_path: Path) -> None:
    registry = shop(tmp_path)
    answer = ask(registry, f"/debug/v1/destinations/{AUTHORITY}")
    assert answer.status == 200
    assert answer.body == b"".join(registry.watch(f"/v1/destinations/{AUTHORITY}")._lines)
    endpoints, profile = (decode_line(line) for line in answer.body.splitlines())
    assert isinstance(endpoints, Endpoints)
    assert [endpoint.address for endpoint in endpoints.endpoints] == ["10.0.0.5:8080"]
    assert isinstance(profile, Profile)


def test_asking_the_mirror_opens_no_watch(tmp_path: Path) -> None:
    registry = shop(tmp_path)
    ask(registry, f"/debug/v1/destinations/{AUTHORITY}")
    assert len(registry.discovery.watches) == 0


def test_policy_answers_policy_questions_only(tmp_path: Path) -> None:
    registry = shop(tmp_path)
    assert ask(registry, f"/debug/v1/outbound/{AUTHORITY}", policy=True).status == 200
    assert ask(registry, "/debug/v1/inbound/shop/cart-0/8080", policy=True).status == 200
    assert ask(registry, f"/debug/v1/destinations/{AUTHORITY}", policy=True).status == 404


def test_a_wrong_question_is_refused_with_its_reason(tmp_path: Path) -> None:
    registry = shop(tmp_path)
    answer = ask(registry, "/debug/v1/destinations/cart:8080")
    assert answer.status == 400
    assert b"SERVICE.NAMESPACE.svc.cluster.local:PORT" in answer.body
    assert ask(registry, f"/debug/v1/destinations/{AUTHORITY}", method="PUT").status == 405


def test_components_without_discovery_have_no_mirror(tmp_path: Path) -> None:
    answer = admin_handler(shop(tmp_path).metrics, lambda: True)(Request("GET", "/debug/v1/destinations/x", b""))
    assert isinstance(answer, Response)
    assert answer.status == 404
