"""Adversarial connections take nothing from others: no request is lost, connections end, memory comes back.

The bench (`python -m benchmarks.attack`) also looks at latency, which would be a timed test here.
"""

from __future__ import annotations

import pytest
import uvloop

from benchmarks.adversaries import ADVERSARIES
from benchmarks.attack import CONNECTIONS_LEFT, Effort, connections_left, open_connections, send_wave, under_attack
from benchmarks.machine import raise_descriptor_limit
from benchmarks.world import answers, world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

EFFORT = Effort(connections=24 * len(ADVERSARIES), batch=6 * len(ADVERSARIES), rate=50)
GROWTH_MB = 10.0


def test_a_well_behaved_client_loses_nothing_while_others_attack_and_memory_comes_back() -> None:
    raise_descriptor_limit()
    with world() as running:
        opened = {place: open_connections(running, place) for place in "ab"}
        uvloop.run(send_wave(running, EFFORT))  # what the heap needs for so many at once is not growth
        before = {place: running.rss_mb(place) for place in "ab"}
        tally = under_attack(running, EFFORT)
        assert tally.sent > 0
        assert tally.lost == 0, tally.wrong
        for place in "ab":
            assert connections_left(running, place, opened[place]) <= CONNECTIONS_LEFT
            assert running.rss_mb(place) - before[place] < GROWTH_MB
        assert answers(running.outbound)
