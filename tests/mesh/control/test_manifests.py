"""Manifests: what is read, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.api.resources import Service, ServiceProfile
from mesh.control.registry.manifests import InvalidManifest, load_manifests, read_manifest

GOOD = """\
apiVersion: v1
kind: Service
metadata:
  name: cart
  namespace: shop
  annotations:
    retry.linkerd.io/http: 5xx
    retry.linkerd.io/limit: "2"
spec:
  ports:
  - {name: http, port: 8080}
---
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: cart.shop.svc.cluster.local, namespace: shop}
spec:
  routes:
  - name: GET /cart
    condition: {method: GET, pathRegex: /cart}
    isRetryable: true
    timeout: 300ms
  retryBudget: {retryRatio: 0.2, minRetriesPerSecond: 10, ttl: 10s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart}
"""


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mesh.yaml"
    path.write_text(text)
    return path


def _problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(InvalidManifest) as error:
        load_manifests([_file(tmp_path, text)])
    return [str(problem).removeprefix(str(tmp_path) + "/") for problem in error.value.problems]


def test_documents_of_the_mesh_are_read_and_others_passed_over(tmp_path: Path) -> None:
    resources = load_manifests([_file(tmp_path, GOOD)])
    assert [type(r) for r in resources] == [Service, ServiceProfile]


def test_json_and_lists_and_folders_are_read(tmp_path: Path) -> None:
    item = '{"kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":1}]}}'
    (tmp_path / "a.json").write_text('{"kind":"List","items":[' + item + "]}")
    assert [r.metadata.name for r in load_manifests([tmp_path])] == ["a"]


MISTAKES = [
    ("port: 8080", "port: eighty", "mesh.yaml:11: spec.ports[0].port: expected a whole number, got text"),
    ("port: 8080", "port: 80800", "mesh.yaml:11: spec.ports[0].port: 80800 is not a port (1..65535)"),
    ('limit: "2"', "limit: 2", 'mesh.yaml:8: metadata.annotations["retry.linkerd.io/limit"]: expected text'),
    ("http: 5xx", "http: 5x", "mesh.yaml:7: metadata.annotations[\"retry.linkerd.io/http\"]: '5x' is not a status"),
    ("io/limit", "io/limits", 'annotation; did you mean "retry.linkerd.io/limit"?'),
    ("kind: Service\n", "kind: Servise\n", "mesh.yaml:2: kind: unknown kind 'Servise'; did you mean \"Service\"?"),
    ("kind: Deployment", "kind: Link", "mesh.yaml:25: kind: Link is not enforced"),
    (
        "timeout: 300ms",
        "timeout: 300",
        "mesh.yaml:21: spec.routes[0].timeout: expected text (put it in quotes), got a whole number",
    ),
    ("timeout: 300ms", 'timeout: "300"', "mesh.yaml:21: spec.routes[0].timeout: '300' is not a duration"),
    ("pathRegex: /cart", "pathRegex: '['", "mesh.yaml:19: spec.routes[0].condition.pathRegex"),
    ("ttl: 10s", "ttl: 10m", "mesh.yaml:22: spec.retryBudget.ttl: the budget's ttl must be from 1s to 60s"),
    ("  name: cart\n", "  name: cart\n  name: cart\n", "mesh.yaml:5: 'name' is given twice"),
    ("  name: cart\n", "  name: Cart!\n", "mesh.yaml:4: metadata.name: 'Cart!' is not a name"),
    ("kind: Service\n", "kind: [\n", "not valid YAML"),
    ("spec:\n  ports", "spec: &a\n  again: *a\n  ports", "more than"),
]


@pytest.mark.parametrize(("good", "bad", "expected"), MISTAKES, ids=[m[1].strip() for m in MISTAKES])
def test_a_mistake_is_told_with_file_line_and_field(tmp_path: Path, good: str, bad: str, expected: str) -> None:
    assert good in GOOD
    problems = _problems(tmp_path, GOOD.replace(good, bad, 1))
    assert any(expected in problem for problem in problems), problems


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    assert len(_problems(tmp_path, GOOD.replace("8080", "0").replace("10s", "0s"))) == 2


def test_the_running_control_plane_tolerates_a_wrong_annotation_and_refuses_a_wrong_profile(tmp_path: Path) -> None:
    wrong_annotation = GOOD.replace("http: 5xx", "http: 5x")
    assert len(load_manifests([_file(tmp_path, wrong_annotation)], strict=False)) == 2
    with pytest.raises(InvalidManifest):
        read_manifest(GOOD.replace("pathRegex: /cart", "pathRegex: '['"), Path("x.yaml"))


def test_a_resource_defined_twice_is_told(tmp_path: Path) -> None:
    assert "Service shop/cart is already defined" in _problems(tmp_path, GOOD + "---\n" + GOOD.split("---")[0])[0]


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="no such file"):
        load_manifests([tmp_path / "nothing.yaml"])


def test_deep_nesting_is_refused_and_not_a_crash(tmp_path: Path) -> None:
    assert "nested deeper" in _problems(tmp_path, "kind: " + "[" * 5000)[0]


_WORDS = "null -1 1e99 [] {} 'x' 2024-01-01 2024-99-99 !!binary !y *a &a ~ ? 0o7 .inf .nan <<:{} | %YAML yes é"
_PHRASES = ("<<: {}", "- - -", "!!binary x", "!x y", "? x", "{a: b", "\t", "\x00", "\ud7ff", "9" * 400)
_JUNK = st.sampled_from((*_WORDS.split(), *_PHRASES))


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_mutation_of_a_manifest_gives_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        lines = text.split("\n")
        row = data.draw(st.integers(0, len(lines) - 1))
        line = lines[row]
        match data.draw(st.sampled_from(["value", "drop", "cut", "insert", "indent"])):
            case "value":
                lines[row] = line.split(":")[0] + ": " + data.draw(_JUNK)
            case "drop":
                del lines[row]
            case "cut":
                lines[row] = line[: data.draw(st.integers(0, len(line)))]
            case "insert":
                at = data.draw(st.integers(0, len(line)))
                lines[row] = line[:at] + data.draw(st.one_of(_JUNK, st.text(max_size=3))) + line[at:]
            case "indent":
                lines[row] = " " * data.draw(st.integers(0, 6)) + line.strip()
        text = "\n".join(lines)
    for strict in (True, False):
        path = tmp_path / "mesh.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            load_manifests([path], strict=strict)
        except InvalidManifest as error:
            assert all(p.line >= 1 and p.message for p in error.problems)  # noqa: PT017
