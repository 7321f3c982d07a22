"""What `mesh check` prints and returns."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mesh.commands.check import command
from mesh.commands.check.facts import Facts
from mesh.commands.check.judge import Result, Severity
from mesh.commands.check.present import as_json, as_text
from mesh.commands.errors import CommandFailed
from tests.mesh.commands.healthy import HEALTHY, broken

RESULTS = [
    Result("kubernetes-api", "can query the Kubernetes API", Severity.OK),
    Result("linkerd-identity", "trust anchors are fine", Severity.WARNING, "one ends soon\nanother too", "rotate"),
    Result("linkerd-identity", "issuer is fine", Severity.ERROR, "expired", "replace it"),
]


def test_as_linkerd_prints_it() -> None:
    assert as_text(RESULTS) == (
        "kubernetes-api\n"
        "--------------\n"
        "√ can query the Kubernetes API\n"
        "\n"
        "linkerd-identity\n"
        "----------------\n"
        "‼ trust anchors are fine\n"
        "    one ends soon\n"
        "    another too\n"
        "    what to do: rotate\n"
        "× issuer is fine\n"
        "    expired\n"
        "    what to do: replace it\n"
        "\n"
        "Status check results are ×\n"
    )


def test_short_leaves_out_what_is_right() -> None:
    text = as_text(RESULTS, short=True)
    assert "kubernetes-api" not in text
    assert as_text(RESULTS[:1], short=True) == "Status check results are √\n"


def test_json_has_linkerd_s_shape() -> None:
    document = json.loads(as_json(RESULTS))
    assert document == {
        "success": False,
        "categories": [
            {
                "categoryName": "kubernetes-api",
                "checks": [{"description": "can query the Kubernetes API", "result": "success"}],
            },
            {
                "categoryName": "linkerd-identity",
                "checks": [
                    {
                        "description": "trust anchors are fine",
                        "result": "warning",
                        "error": "one ends soon\nanother too",
                        "hint": "rotate",
                    },
                    {"description": "issuer is fine", "result": "error", "error": "expired", "hint": "replace it"},
                ],
            },
        ],
    }


def given(monkeypatch: pytest.MonkeyPatch, *facts: Facts) -> list[float]:
    """The facts of one look after another; returns the waits between them. Time passes only in waits."""
    looks: Iterator[Facts] = iter(facts)
    waits: list[float] = []
    monkeypatch.setattr(command, "_facts", lambda *_, **__: next(looks))
    monkeypatch.setattr(command.time, "sleep", waits.append)
    monkeypatch.setattr(command.time, "monotonic", lambda: sum(waits))
    return waits


def test_a_healthy_mesh_is_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given(monkeypatch, HEALTHY)
    assert command.check(output="short") == 0
    assert capsys.readouterr().out == "Status check results are √\n"


def test_a_failed_check_is_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given(monkeypatch, broken(issuer_pem=None))
    assert command.check(output="short") == 1
    assert "Secret linkerd-identity-issuer: does not exist" in capsys.readouterr().out


def test_warnings_alone_are_0(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, broken(client_version="9.9.9"))
    assert command.check(output="json") == 0


def test_waiting_looks_again_until_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = given(monkeypatch, broken(issuer_pem=None), broken(issuer_pem=None), HEALTHY)
    assert command.check(wait="1m") == 0
    assert waits == [2.0, 2.0]


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = given(monkeypatch, *[broken(issuer_pem=None)] * 10)
    assert command.check(wait="5s") == 1
    assert waits == [2.0, 2.0, 1.0]


def test_bad_input_is_one_line() -> None:
    with pytest.raises(CommandFailed, match="exclude each other"):
        command.check(pre=True, proxy=True)
    with pytest.raises(CommandFailed, match="--wait: 'soon' is not a duration"):
        command.check(wait="soon")
