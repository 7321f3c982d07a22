"""The agent's spool, and the runner's intake of it: nothing lost, nothing twice, wherever the connection breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gameday.ingest import LineTail
from gameday.worlds.kind.agent import SpoolSink, is_blocked
from gameday.worlds.kind.messages import (
    Begun,
    Happened,
    LoadEnded,
    NewSeries,
    PodRow,
    Pods,
    Result,
    Samples,
    decode,
    encode,
)
from gameday.worlds.kind.spool import Spool
from gameday.worlds.kind.stream import Intake
from loadtests.results import ResultTail
from reports.store import Usage


class Store:
    """Takes what a run store would."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, str, list[tuple[str, str, float]]]] = []
        self.usage: list[Usage] = []

    def add_samples(self, at: float, process: str, samples: Iterable[tuple[str, str, float]]) -> None:
        self.samples.append((at, process, list(samples)))

    def add_usage(self, usages: Iterable[Usage]) -> None:
        self.usage.extend(usages)


RESULT = Result("GET shop /", "visit", 100.25, 100.26, 100.5, 200, None, "ab")
LINES = [
    Begun(99.0, "run"),
    NewSeries(0, "cart-0/proxy", "request_total", 'direction="inbound"'),
    Samples(100.0, "cart-0/proxy", [(0, 3.0)]),
    RESULT,
    Happened(101.0, "kill", "pod cart-0 is deleted", {"process": "cart-0"}),
    Pods(101.0, [PodRow("cart-0", "cart", "cart", "cart-7d9", "10.0.0.1", True)]),
    Result("GET shop /", "visit", 102.0, None, None, None, "dropped", None),
    LoadEnded(0),
]


def intake(folder: Path, correction: float = 0.0) -> tuple[Intake, Store, list[Pods], list[int]]:
    store, pods, ended = Store(), [], []
    made = Intake(store, folder / "requests", folder / "events", correction, pods.append, ended.append)
    return made, store, pods, ended


@given(st.lists(st.integers(1, 400), max_size=12))
def test_the_intake_is_the_same_however_the_bytes_are_cut(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("intake")
    made, store, pods, ended = intake(folder)
    data = b"".join(encode(line) for line in LINES)
    for cut in cuts:
        made.feed(data[:cut])
        data = data[cut:]
    made.feed(data)
    assert store.samples == [(100.0, "cart-0/proxy", [("request_total", 'direction="inbound"', 3.0)])]
    assert [row.pod for row in pods[0].rows] == ["cart-7d9"]
    assert ended == [0]
    requests = ResultTail(folder / "requests").read()
    assert [(r.intended_at, r.status, r.error) for r in requests] == [(100.25, 200, None), (102.0, None, "dropped")]
    events = LineTail(folder / "events").read()
    assert [msgspec.json.decode(event)["kind"] for event in events] == ["kill"]


def test_all_times_are_on_the_runners_clock(tmp_path: Path) -> None:
    made, store, _, _ = intake(tmp_path, correction=0.02)
    made.feed(b"".join(encode(line) for line in LINES))
    first, dropped = ResultTail(tmp_path / "requests").read()
    assert (first.intended_at, first.sent_at, first.finished_at) == (100.23, 100.24, 100.48)
    assert dropped.sent_at is None
    assert store.samples[0][0] == pytest.approx(99.98)
    assert msgspec.json.decode(LineTail(tmp_path / "events").read()[0])["at"] == pytest.approx(100.98)


def test_an_agent_that_begins_again_numbers_its_series_anew(tmp_path: Path) -> None:
    made, store, _, _ = intake(tmp_path)
    again = [
        Begun(200.0, "run"),
        NewSeries(0, "cart-0/app", "app_queue_length", ""),
        Samples(201.0, "cart-0/app", [(0, 1.0)]),
    ]
    made.feed(b"".join(encode(line) for line in [*LINES, *again]))
    assert store.samples[-1] == (201.0, "cart-0/app", [("app_queue_length", "", 1.0)])


def test_a_spool_is_read_from_any_offset_while_it_grows(tmp_path: Path) -> None:
    async def read() -> bytes:
        spool = Spool(tmp_path / "spool")
        spool.append([b"one\n", b"two\n"])
        found = b""
        async for data in spool.read(4, silence=0.01):
            found += data
            if data == b"":
                if b"three" in found:
                    return found
                spool.append([b"three\n"])
        return found

    assert asyncio.run(read()) == b"two\nthree\n"


def test_an_agent_that_was_killed_in_mid_line_goes_on_after_the_last_whole_one(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"whole\nhal")
    spool = Spool(tmp_path / "spool")
    assert spool.size == 6
    spool.append([b"next\n"])
    assert (tmp_path / "spool").read_bytes() == b"whole\nnext\n"


def test_only_what_changed_is_sent_and_usage_comes_with_the_metrics(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    sink = SpoolSink(spool)
    cpu, memory = ("process_cpu_seconds_total", "", 1.5), ("process_resident_memory_bytes", "", 4e7)
    sink.add_samples(1.0, "cart-0/proxy", [("a", "", 1.0), ("b", "", 2.0), cpu, memory])
    before = spool.size
    sink.add_samples(2.0, "cart-0/proxy", [("a", "", 1.0), ("b", "", 3.0), cpu, memory])
    lines = [decode(line) for line in (tmp_path / "spool").read_bytes()[before:].splitlines()]
    assert isinstance(lines[0], Samples)
    assert lines[0].values == [(1, 3.0)]
    assert msgspec.to_builtins(lines[1]) == ["u", 2.0, "cart-0/proxy", 1.5, 40_000_000]


@pytest.mark.parametrize(
    ("blocked", "process", "is_so"),
    [
        ({"cart"}, "cart-0/proxy", True),
        ({"cart"}, "cart-service-0/proxy", False),
        ({"control"}, "control/policy", True),
        ({"control"}, "cart-0/app", False),
        ({"all"}, "cart-0/app", True),
        (set(), "cart-0/app", False),
    ],
)
def test_telemetry_is_blocked_by_service(blocked: set[str], process: str, is_so: bool) -> None:
    assert is_blocked(process, blocked) is is_so
