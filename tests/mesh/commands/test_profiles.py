"""Generated ServiceProfiles: what our own loader makes of them, strictly, and which route a path gets."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.messages import Profile
from mesh.api.resources import ServiceProfile
from mesh.commands.cluster import ClusterOptions
from mesh.commands.errors import CommandFailed
from mesh.commands.profile import last_within, profile
from mesh.commands.profiles import (
    InvalidOpenApi,
    from_open_api,
    from_requests,
    manifest,
    path_regex,
    template,
    template_of,
)
from mesh.control.registry.manifests import load_manifests
from mesh.control.translate import profile_message

NAME = "web.shop.svc.cluster.local"
SWAGGER = """
swagger: "2.0"
basePath: /api/
paths:
  /books/{id}:
    get:
      x-linkerd-retryable: true
      x-linkerd-timeout: 300ms
      responses: {200: {description: ok}, "404": {description: none}, "500": {description: bad}, default: {}}
    parameters: []
  /books/new: {get: {}, post: {}}
  /a.b(c): {head: {responses: {}}}
"""


def loaded(found: object, tmp_path: Path) -> tuple[ServiceProfile, Profile]:
    """What the strict loader and the translation make of a generated profile; no complaints allowed."""
    file = tmp_path / "profile.yaml"
    file.write_text(found if isinstance(found, str) else yaml.safe_dump(found, sort_keys=False))
    (resource,) = load_manifests([file])
    assert isinstance(resource, ServiceProfile)
    complaints: list[object] = []
    message = profile_message(f"{NAME}:80", resource, 1, 0.0, lambda *complaint: complaints.append(complaint))
    assert complaints == []
    return resource, message


def route_of(message: Profile, method: str, path: str) -> str | None:
    for route in message.routes:
        methods = not route.methods or method in route.methods
        if methods and all(re.fullmatch(regex, path) for regex in route.path_regexes):
            return route.name
    return None


def test_an_open_api_document_becomes_routes(tmp_path: Path) -> None:
    _, message = loaded(manifest(NAME, from_open_api(yaml.safe_load(SWAGGER))), tmp_path)
    assert [route.name for route in message.routes] == [
        "HEAD /api/a.b(c)",
        "GET /api/books/new",
        "POST /api/books/new",
        "GET /api/books/{id}",
    ]
    assert route_of(message, "GET", "/api/books/17") == "GET /api/books/{id}"
    assert route_of(message, "GET", "/api/books/new") == "GET /api/books/new"
    assert route_of(message, "GET", "/api/books/17/pages") is None
    assert route_of(message, "HEAD", "/api/axb(c)") is None
    book = message.routes[3]
    assert (book.is_retryable, book.timeout_seconds) == (True, 0.3)
    assert [(c.min, c.is_failure) for c in book.response_classes] == [(200, False), (404, False), (500, True)]


def test_open_api_3_has_its_base_in_the_first_server(tmp_path: Path) -> None:
    document = {"openapi": "3.1.0", "servers": [{"url": "https://shop/v2"}], "paths": {"/pay": {"post": {}}}}
    _, message = loaded(manifest(NAME, from_open_api(document)), tmp_path)
    assert route_of(message, "POST", "/v2/pay") == "POST /v2/pay"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "not an OpenAPI document"),
        ({"paths": {}}, "not an OpenAPI document"),
        ({"paths": {"/x": {"summary": "nothing"}}}, "none has an operation"),
        ({"paths": {"/x": []}}, "paths./x: must be a mapping"),
        ({"paths": {"/x": {"get": {"x-linkerd-timeout": "soon"}}}}, "paths./x.get.x-linkerd-timeout: 'soon'"),
        ({"paths": {"/x": {"get": {"x-linkerd-retryable": "yes"}}}}, "must be true or false"),
    ],
)
def test_what_is_wrong_with_a_document_is_said_with_its_place(document: object, said: str) -> None:
    with pytest.raises(InvalidOpenApi, match=re.escape(said)):
        from_open_api(document)


def test_the_template_loads_as_it_is(tmp_path: Path) -> None:
    resource, message = loaded(template(NAME), tmp_path)
    assert resource.metadata.namespace == "shop"
    assert message.retry_budget is not None
    assert route_of(message, "POST", "/authors/7") == "/authors/{id}"


def test_seen_requests_become_routes_with_ids_folded(tmp_path: Path) -> None:
    seen = [("GET", f"/books/{number}?page=2") for number in range(50)]
    seen += [("get", "/books/new"), ("POST", "/pay/0d4f7c1e-0f7c-4f0e-9a46-0a4bb5a3f0aa/confirm")]
    _, message = loaded(manifest(NAME, from_requests(Counter(seen))), tmp_path)
    assert [route.name for route in message.routes] == [
        "GET /books/new",
        "GET /books/{id}",
        "POST /pay/{id}/confirm",
    ]
    assert route_of(message, "GET", "/books/999") == "GET /books/{id}"


def test_only_the_most_frequent_routes_are_kept() -> None:
    seen = [("GET", "/often")] * 3 + [("GET", "/twice")] * 2 + [("GET", "/once")]
    assert [route["name"] for route in from_requests(Counter(seen), limit=2)] == ["GET /often", "GET /twice"]


@pytest.mark.parametrize("path", ["/v2", "/health", "/deadbeef", "/books", "/", ""])
def test_words_are_not_taken_for_ids(path: str) -> None:
    assert template_of(path) == path


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
def test_a_seen_path_matches_the_route_made_of_it(path: str) -> None:
    plain = path.partition("?")[0].replace("{", "%7B").replace("}", "%7D")
    assert re.fullmatch(path_regex(template_of(path)), plain)


def test_the_command_writes_what_the_loader_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "openapi.yaml"
    file.write_text(SWAGGER)
    assert profile("web", open_api=file, cluster=ClusterOptions(namespace="shop")) == 0
    resource, _ = loaded(capsys.readouterr().out, tmp_path)
    assert (resource.metadata.name, resource.metadata.namespace) == (NAME, "shop")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "give one of --open-api FILE, --tap RESOURCE or --template"),
        ({"template_only": True, "tap": "deploy/web"}, "give one of"),
        ({"open_api": Path("/nowhere.yaml")}, "--open-api /nowhere.yaml: No such file"),
        ({"template_only": True, "cluster_domain": "-"}, "not a DNS name"),
    ],
)
def test_bad_input_is_one_line(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(CommandFailed, match=re.escape(said)):
        profile("web", **arguments)


def test_the_first_snapshot_after_the_duration_is_taken() -> None:
    snapshots = [{"seconds": at, "rows": []} for at in (0.9, 2.1, 3.1)]
    assert last_within(snapshots, 2.0)["seconds"] == 2.1
    assert last_within(snapshots, 9.0)["seconds"] == 3.1
    assert last_within([], 2.0) == {}


def test_a_literal_segment_comes_before_a_parameter_whatever_its_letters() -> None:
    document = {"paths": {"/{user}": {"get": {}}, "/~root": {"get": {}}, "/{user}/a": {"get": {}}}}
    assert [route["name"] for route in from_open_api(document)] == ["GET /~root", "GET /{user}", "GET /{user}/a"]
