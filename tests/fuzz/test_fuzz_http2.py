"""A small, always equal slice of the fuzzer, so that it cannot rot."""

from __future__ import annotations

import pytest
from fuzz_http2 import Owner, run

from mesh.proxy.wire.http2 import H2Connection


def test_hostile_conversations_break_no_rule() -> None:
    tally = run(inputs=6_000, seed=20)
    for what in ("read alike", "both took it", "both refused it", "ended by us", "survived"):
        assert tally[what] > 5, what


def test_the_fuzzer_sees_a_machine_that_forgets_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(H2Connection, "_check_not_idle", lambda connection, stream_id: None)
    with pytest.raises(AssertionError, match="fuzz_http2 seed 1 input"):
        run(inputs=6_000, seed=1)


def test_the_fuzzer_sees_streams_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(H2Connection, "lost", lambda connection: connection.streams.clear())
    with pytest.raises(AssertionError, match="fuzz_http2 seed 1 input"):
        run(inputs=100, seed=1)
    assert Owner(client=True, answer=0).streams
