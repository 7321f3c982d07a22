"""docs/proxy.md tells every variable, metric and error of the proxy, and none that does not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mesh.proxy import config
from mesh.proxy.wire.errors import ANSWERS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "proxy.md").read_text()
IN_QUOTES = frozenset(re.findall(r"`([^`\n]+)`", PAGE))
LABELS_OF_NAMES = {
    "direction": ("inbound", "outbound"),
    "http": ("inbound_http_authz",),
    "tcp": ("inbound_tcp_authz",),
}


class Variables(dict[str, str]):
    """An environment that notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]  # config asks with a default
        self.asked.add(name.removeprefix(config.PREFIX))
        return super().get(name, default)


def registered() -> Iterator[str]:
    """Names of metric families in the proxy's source: the first argument of what makes them."""
    for path in sorted((ROOT / "mesh" / "proxy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) > 1:
                name = node.args[0]
                if node.func.attr not in ("counters", "histograms", "gauges", "collect"):
                    continue
                if isinstance(name, ast.Constant):
                    yield str(name.value)
                elif isinstance(name, ast.JoinedStr):
                    yield from expanded(name)


def expanded(name: ast.JoinedStr) -> Iterator[str]:
    first, *rest = name.values
    tail = "".join(str(part.value) for part in rest if isinstance(part, ast.Constant))
    if isinstance(first, ast.FormattedValue) and isinstance(first.value, ast.Name):
        for prefix in LABELS_OF_NAMES.get(first.value.id, ()):
            yield prefix + tail


def test_every_variable_is_on_the_page() -> None:
    environment = Variables()
    config.load_config(environment)
    whole = Variables()
    whole.update({f"{config.PREFIX}TRACE_COLLECTOR_SVC_ADDR": "127.0.0.1:4318"})
    whole.update({f"{config.PREFIX}{part}_SVC_ADDR": "127.0.0.1:1" for part in ("DESTINATION", "POLICY")})
    whole.update({f"{config.PREFIX}{part}_SVC_NAME": "a.b" for part in ("DESTINATION", "POLICY")})
    config.load_config(whole)
    asked = environment.asked | whole.asked
    assert len(asked) > 40
    assert asked - IN_QUOTES == set()


def test_the_page_has_no_variable_that_nobody_reads() -> None:
    source = (ROOT / "mesh" / "proxy" / "config.py").read_text()
    shown = re.findall(r"^\| (`[A-Z0-9_]+`(?:, `[A-Z0-9_]+`)*) \|", PAGE, re.MULTILINE)
    for name in (name.strip("`") for row in shown for name in row.split(", ")):
        read = name in source or name.partition("_")[2] in source
        assert read, name


def test_every_metric_is_on_the_page() -> None:
    names = set(registered())
    assert len(names) > 40
    assert names - IN_QUOTES == set()


def test_every_error_is_on_the_page_as_the_table_has_it() -> None:
    for answer in ANSWERS.values():
        row = f"| {answer.text} | {answer.status} | {answer.grpc_code.name} ({int(answer.grpc_code)}) |"
        assert row in PAGE
        assert f"| {answer.refused or '–'} | {'close' if answer.close else 'keep'} |" in PAGE
