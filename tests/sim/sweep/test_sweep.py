"""The same jobs give the same results here, in a pool and on a Dask cluster; time that is over is noticed."""

from __future__ import annotations

import importlib
import time
from typing import Any

import pytest

from sim.sweep import places
from sim.sweep.places import Clock, NoDask, Sweep


def twice(number: int) -> int:
    """Stands in for a play."""
    return 2 * number


def slowly(number: int) -> int:
    time.sleep(0.002)
    return number


NUMBERS = list(range(100))
DOUBLED = [2 * n for n in NUMBERS]


def test_jobs_are_played_in_order_in_this_process() -> None:
    seen: list[int] = []
    with Sweep(1, done=seen.append) as here:
        assert here.play(twice, NUMBERS, Clock(None)) == DOUBLED
        assert here.played == 100
    assert seen == list(range(1, 101))


def test_time_that_is_over_cuts_a_wave_short_from_its_end() -> None:
    with Sweep(1) as here:
        assert here.play(twice, NUMBERS, Clock(0.0)) == []
        some = here.play(slowly, NUMBERS, Clock(0.05))
    assert some == NUMBERS[: len(some)]
    assert len(some) < len(NUMBERS)


@pytest.mark.e2e
def test_a_pool_gives_what_this_process_gives() -> None:
    with Sweep(2) as pool:
        assert pool.play(twice, NUMBERS, Clock(None)) == DOUBLED
        assert pool.play(twice, NUMBERS, Clock(0.0)) == []


def test_without_the_extra_dask_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(NoDask, match=r"^--dask needs .* pip install 'gameday\[dask\]'$"):
        Sweep(dask="tcp://127.0.0.1:1")


@pytest.mark.e2e
def test_a_dask_cluster_plays_a_map_as_this_process_does() -> None:
    distributed = pytest.importorskip("distributed")
    from test_phase_map import small_map

    here = small_map(3)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, protocol="tcp://", host="127.0.0.1"
    ) as cluster:
        with Sweep(dask=cluster.scheduler_address) as there:
            assert there.workers == 2
            assert there.play(twice, NUMBERS, Clock(None)) == DOUBLED
            assert there.play(twice, NUMBERS, Clock(0.0)) == []
        with Sweep(dask=cluster.scheduler_address) as there:
            assert small_map(3, sweep=there) == here


@pytest.mark.e2e
def test_a_scheduler_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(places, "DASK_WAIT_SECONDS", 0.5)
    with pytest.raises(NoDask, match="no scheduler answers there") as refused:
        Sweep(dask="tcp://127.0.0.1:9")
    assert "\n" not in str(refused.value)
    with pytest.raises(NoDask, match="no scheduler answers there"):
        Sweep(dask="nonsense://here")
