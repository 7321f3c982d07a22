"""A build that is not of its sources is refused, and one line says what to do."""

from __future__ import annotations

import ast
import importlib.machinery
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mesh import native

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
SOURCE = Path("mesh/behavior/budget.py")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree of one module, compiled and noted."""
    monkeypatch.setattr(native, "ROOT", tmp_path)
    monkeypatch.setattr(native, "NOTE", tmp_path / "mesh" / "native.json")
    source = tmp_path / SOURCE
    source.parent.mkdir(parents=True)
    source.write_text("x = 1\n")
    source.with_name("budget" + SUFFIX).write_bytes(b"machine code")
    native.NOTE.write_text(json.dumps({str(SOURCE): native._digest(source)}))
    return tmp_path


def test_every_pattern_finds_a_source_and_nothing_that_cannot_be_compiled() -> None:
    for pattern in native.PATTERNS:
        assert list(native.ROOT.glob(pattern)), pattern
    assert Path("mesh/behavior/exchange.py") in native.sources()
    assert Path("mesh/behavior/regexes.py") not in native.sources()


def test_no_attribute_becomes_a_word_of_c() -> None:
    """mypyc puts an underscore before each name, and then the C compiler refuses all of it."""
    words = {"_thread", "_inline", "_asm", "_const", "_signed", "_volatile", "_restrict", "_label__", "Bool", "Complex"}
    for path in native.sources():
        for node in ast.walk(ast.parse((native.ROOT / path).read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                assert node.attr not in words, f"{path}:{node.lineno}: {node.attr}"


def test_a_build_of_these_sources_is_taken(tree: Path) -> None:
    assert native.check()


def test_a_source_that_changed_after_it_was_compiled_is_refused(tree: Path) -> None:
    (tree / SOURCE).write_text("x = 2\n")
    with pytest.raises(native.StaleBuild, match=r"budget\.py has changed since it was compiled; run `make native`"):
        native.check()


def test_a_source_that_is_gone_is_refused(tree: Path) -> None:
    (tree / SOURCE).unlink()
    with pytest.raises(native.StaleBuild):
        native.check()


def test_extensions_that_nobody_noted_are_refused(tree: Path) -> None:
    native.NOTE.unlink()
    with pytest.raises(native.StaleBuild, match="nothing says from what"):
        native.check()


def test_clean_leaves_sources_only(tree: Path) -> None:
    native.clean()
    assert [path.name for path in tree.rglob("*") if path.is_file()] == [SOURCE.name]
    assert not native.check()


def test_without_a_compiler_the_line_says_so(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / SOURCE).write_text("x = 2\n")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(native.BuildFailed, match="no C compiler"):
        native.build()


def test_the_proxy_starts_without_what_only_a_build_or_another_system_needs() -> None:
    code = (
        "import sys, mesh.proxy.__main__; print([m for m in ('tempfile', 'shutil', 'lzma', 'bz2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=native.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "0.8 MB of every sidecar"
