"""No client makes the proxy's memory grow: the bench's checks (`python -m benchmarks.memory`), smaller."""

from __future__ import annotations

import pytest

from benchmarks.machine import raise_descriptor_limit
from benchmarks.memory import Sizes, findings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

SIZES = Sizes(
    idle_connections=300,
    body_bytes=60_000_000,
    stalled_seconds=1.0,
    distinct=2_000,
    authorities=300,
    concurrent=300,
    soak_seconds=5.0,
)


@pytest.mark.parametrize("check", ["idle", "slow", "distinct", "authorities", "concurrent", "soak"])
def test_memory_stays_within_its_goal(check: str) -> None:
    raise_descriptor_limit()
    missed = [str(finding) for finding in findings([check], SIZES) if not finding.met]
    assert not missed, "\n".join(missed)
