"""No input, however mangled, makes the loader do anything but load or say what is wrong."""

from __future__ import annotations

import os
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import APP, MESH, SCENARIO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scenarios import catalogue
from scenarios.load import InvalidScenario, load_application, load_scenario
from scenarios.model import Scenario

QUICK = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
ONE_LINE = re.compile(r"[^\n]+: [^\n]+")


def outcome(path: Path | str, **options: Any) -> Scenario | None:
    """Loads; a refusal must have at least one problem and each must be one printable line."""
    try:
        return load_scenario(path, **options)
    except InvalidScenario as error:
        problems = error.problems
    assert problems
    for problem in problems:
        assert ONE_LINE.fullmatch(str(problem)), repr(str(problem))
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("mangled")
    (where / "app.yaml").write_text(APP)
    (where / "scenario.yaml").write_text(SCENARIO)
    (where / "mesh.yaml").write_text(MESH)
    return where


def paths_of(tree: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [prefix] if prefix else []
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += paths_of(value, (*prefix, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            found += paths_of(value, (*prefix, index))
    return found


ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(
        ["", " ", "0s", "-1s", "1e999", "99999999999999999999h", "٣s", "50 %", "5/s", "=", "2001-99-99", "1:99:99",
         "0x1f", "GET /", "POST front /checkout", "../app.yaml", "\x00", "a" * 5000, "..", "/", "~", "<<", "é", "null",
         "success_rate of checkout during inject >= 99%", "p95 of x > y"]
    ),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    st.just({"name": "x"}),
)  # fmt: skip


def mutate(tree: Any, path: tuple[Any, ...], kind: str, value: Any) -> None:
    for step in path[:-1]:
        tree = tree[step]
    last = path[-1]
    if kind == "delete":
        del tree[last]
    elif kind == "retype":
        tree[last] = value
    elif kind == "rename" and isinstance(tree, dict):
        tree[value if isinstance(value, str | int | float | bool | None) else str(value)] = tree.pop(last)
    elif kind == "wrap":
        tree[last] = [tree[last]]
    elif kind == "double" and isinstance(tree, list):
        tree.append(tree[last])


@pytest.mark.parametrize("name", ["scenario.yaml", "app.yaml", "mesh.yaml"])
@QUICK
@given(data=st.data())
def test_a_mutated_scenario_loads_or_is_refused_in_plain_lines(folder: Path, name: str, data: st.DataObject) -> None:
    texts = {"scenario.yaml": SCENARIO, "app.yaml": APP, "mesh.yaml": MESH}
    tree = yaml.safe_load(texts[name])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths_of(tree) or [("spec",)]))
        kind = data.draw(st.sampled_from(["delete", "retype", "rename", "wrap", "double"]))
        try:
            mutate(tree, path, kind, deepcopy(data.draw(ODD_VALUES)))
        except (KeyError, TypeError):
            continue
    for other, text in texts.items():
        (folder / other).write_text(text)
    (folder / name).write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    outcome(folder)


@QUICK
@given(body=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode(errors="replace"))))
def test_any_bytes_load_or_are_refused(folder: Path, body: bytes) -> None:
    (folder / "scenario.yaml").write_bytes(body)
    assert outcome(folder) is None


ODD_BYTES = [b"\t", b"&a ", b"*a", b"? ", b"!!x ", b"%", b"---\n", b"\xff", b"\xef\xbb\xbf", b"|", b"<<: "]


@QUICK
@given(data=st.data())
def test_a_scenario_with_bytes_cut_out_or_put_in_loads_or_is_refused(folder: Path, data: st.DataObject) -> None:
    body = SCENARIO.encode()
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 30)))
    inserted = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from(ODD_BYTES)))  # fmt: skip
    for name, text in (("app.yaml", APP), ("mesh.yaml", MESH)):
        (folder / name).write_text(text)
    (folder / "scenario.yaml").write_bytes(body[:start] + inserted + body[end:])
    outcome(folder)


@QUICK
@given(
    overrides=st.lists(
        st.one_of(
            st.text(max_size=30),
            st.tuples(
                st.sampled_from(
                    ["load.rate", "faults[0].at", "slos.fast.latency", "variants", "app", "faults", "a.b.c", "load[0]"]
                ),
                st.text(max_size=20),
            ).map("=".join),
        ),
        max_size=3,
    ),
    variant=st.one_of(st.none(), st.just("mild"), st.text(max_size=10)),
)  # fmt: skip
def test_any_override_and_variant_load_or_are_refused(folder: Path, overrides: list[str], variant: str | None) -> None:
    for name, text in (("scenario.yaml", SCENARIO), ("app.yaml", APP), ("mesh.yaml", MESH)):
        (folder / name).write_text(text)
    outcome(folder, overrides=overrides, variant=variant)


@QUICK
@given(
    name=st.one_of(st.text(max_size=300), st.just("a" * 5000), st.just("\x00"), st.just("~/x"), st.just("/dev/null"))
)
def test_any_name_loads_or_is_refused(folder: Path, name: str) -> None:
    outcome(name if name not in (".", "./") else "x")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join('*' + chr(97 + i) for _ in range(9))}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "scenario.yaml:1: is empty"),
        (b"# only a comment\n", "scenario.yaml:1: is empty"),
        (b"null\n", "is empty"),
        (BOMB.encode(), "has more than 20000 values once aliases are followed"),
        (b"spec: &a {b: *a}\n", "is nested more than 40 deep"),
        (b"[" * 100_000, "scenario.yaml"),
        (b"{a: " * 50_000, "scenario.yaml"),
        (b"- " * 3_000, "scenario.yaml"),
        (b"x" * 300_000, "is larger than 256 KiB"),
        (b"apiVersion: \xff\n", "scenario.yaml:1: is not UTF-8 text (byte 0xff)"),
        (b"\nname: \x07\n", "scenario.yaml:2: not YAML"),
        (b"spec: !!python/object/apply:os.system ['true']\n", "scenario.yaml:1"),
        (b"spec: !!python/name:os.system\n", "has no meaning here"),
        (b"? [a, b]\n: c\n", "scenario.yaml:1: a key must be a word"),
        (b"just text\n", "scenario.yaml:1: a mapping expected, not text"),
        (b"---\na: b\n---\nc: d\n", "holds more than one document"),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_hostile_files_are_refused_quickly_with_a_reason(tmp_path: Path, body: bytes, message: str) -> None:
    (tmp_path / "scenario.yaml").write_bytes(body)
    with pytest.raises(InvalidScenario) as error:
        load_scenario(tmp_path)
    assert message in str(error.value)


def test_what_is_not_a_readable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "loop.yaml", tmp_path / "pipe.yaml", tmp_path / "gone.yaml", tmp_path, Path(os.devnull)):
        with pytest.raises(InvalidScenario):
            load_application(path)


@pytest.mark.parametrize("name", catalogue.names())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_shipped_scenario_with_any_line_gone_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, name: str, data: st.DataObject
) -> None:
    lines = catalogue.path(name).read_text().splitlines(keepends=True)
    del lines[data.draw(st.integers(0, len(lines) - 1))]
    (folder / "scenario.yaml").write_text("".join(lines))
    outcome(folder)
