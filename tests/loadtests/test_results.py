"""The output file: written line by line by one process while another reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.plan import InvalidPlan, LoadPlan, read_plan, write_plan
from loadtests.results import InvalidLine, RequestResult, ResultTail, format_line, parse_line

ANSWERED = RequestResult("POST shop /buy", "buy", 1000.5, 1000.501, 1000.75, 200, None, "ab" * 16)
DROPPED = RequestResult("POST shop /buy", "buy", 1000.6, None, None, None, "dropped", None)


def test_a_line_reads_back_as_it_was() -> None:
    assert [parse_line(format_line(result)) for result in (ANSWERED, DROPPED)] == [ANSWERED, DROPPED]
    assert format_line(DROPPED) == b'["POST shop /buy","buy",1000.6,null,null,null,"dropped",null]\n'


@pytest.mark.parametrize("line", [b"", b"{}\n", b"[1]\n", b'["a","b",1,2,3,"200",null,null]\n', b"\xff"])
def test_a_line_of_another_kind_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidLine):
        parse_line(line)


def test_a_tail_gives_each_line_once_and_waits_for_half_written_ones(tmp_path: Path) -> None:
    path = tmp_path / "requests.ndjson"
    tail = ResultTail(path)
    assert tail.read() == []
    with path.open("ab", buffering=0) as file:
        body = format_line(ANSWERED) + format_line(DROPPED)
        seen = []
        for index in range(len(body)):
            file.write(body[index : index + 1])
            seen += tail.read()
    assert seen == [ANSWERED, DROPPED]
    assert tail.read() == []


def test_a_tail_begins_again_with_a_file_that_was_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "requests.ndjson"
    path.write_bytes(format_line(ANSWERED) * 3)
    tail = ResultTail(path)
    assert len(tail.read()) == 3
    path.write_bytes(format_line(DROPPED))
    assert tail.read() == [DROPPED]


def test_a_wrong_line_is_raised_once_and_then_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "requests.ndjson"
    path.write_bytes(b"rubbish\n" + format_line(ANSWERED))
    tail = ResultTail(path)
    with pytest.raises(InvalidLine):
        tail.read()
    assert tail.read() == [ANSWERED]


PLAN = LoadPlan(
    app="app.yaml", proxy=None, rate=60.0, mix={"buy": 1.0}, max_in_flight=10, timeout_seconds=1.0, seed=1,
    duration_seconds=5.0, output="requests.ndjson",
)  # fmt: skip


def test_a_plan_reads_back_as_it_was(tmp_path: Path) -> None:
    write_plan(PLAN, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == PLAN


@pytest.mark.parametrize("body", [b"", b"{}", b'{"app": 5}', b"\xff\xfe"])
def test_a_plan_that_is_none_is_refused_in_one_line(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(body)
    with pytest.raises(InvalidPlan, match=r"plan\.json: "):
        read_plan(tmp_path / "plan.json")
