"""Tables as scripts cut them: golden output, one word a cell, the same values in JSON."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mesh.commands.tables import Column, bytes_per_second, milliseconds, per_second, percent, render

STAT = (
    Column("NAME"),
    Column("MESHED", right=True),
    Column("SUCCESS", percent, right=True),
    Column("RPS", per_second, right=True),
    Column("LATENCY_P50", milliseconds, right=True, key="latency_ms_p50"),
    Column("READ_BYTES/SEC", bytes_per_second, right=True, wide=True, key="read_bytes_rate"),
)
ROWS = (
    ("emoji", "1/1", 1.0, 1.84, 1.0, 412.3),
    ("web", "0/2", None, None, None, None),
    ("vote-bot-with-a-long-name", "1/1", 0.97531, 123.0, 1013.4, 2_345_678.0),
)


def test_a_table_for_people() -> None:
    assert render(STAT, ROWS) == (
        "NAME                        MESHED   SUCCESS        RPS   LATENCY_P50\n"
        "emoji                          1/1   100.00%     1.8rps           1ms\n"
        "web                            0/2         -          -             -\n"
        "vote-bot-with-a-long-name      1/1    97.53%   123.0rps        1013ms\n"
    )


def test_wide_shows_the_wide_columns_too() -> None:
    head, first, *_ = render(STAT, ROWS, "wide").splitlines()
    assert head.split()[-1] == "READ_BYTES/SEC"
    assert first.split()[-1] == "412.3B/s"


def test_json_has_plain_values_under_its_own_names() -> None:
    first, second, _ = json.loads(render(STAT, ROWS, "json"))
    assert first == {
        "name": "emoji",
        "meshed": "1/1",
        "success": 1.0,
        "rps": 1.84,
        "latency_ms_p50": 1.0,
        "read_bytes_rate": 412.3,
    }
    assert second["success"] is None


def test_an_empty_table_is_its_head_and_an_empty_list() -> None:
    assert render(STAT[:2], ()) == "NAME   MESHED\n"
    assert render(STAT[:2], (), "json") == "[]\n"


@given(st.lists(st.tuples(st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True), st.none() | st.floats(0, 1))))
def test_each_row_has_as_many_words_as_columns(rows: list[tuple[str, float | None]]) -> None:
    columns = (Column("NAME"), Column("SUCCESS", percent, right=True))
    lines = render(columns, rows).splitlines()
    assert all(len(line.split()) == 2 for line in lines)
    assert len({len(line) for line in lines}) == 1  # the last column is right-aligned, so all lines end together


def test_large_rates_have_larger_units() -> None:
    assert [bytes_per_second(rate) for rate in (0, 999.0, 1000.0, 1.5e6, 2e9, 5e12)] == [
        "0.0B/s",
        "999.0B/s",
        "1.0KB/s",
        "1.5MB/s",
        "2.0GB/s",
        "5000.0GB/s",
    ]
