"""One leader at most, at any moment, whatever happens to the others and to the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from mesh.kube import kinds
from mesh.kube.lease import Election, LeaseTiming, Record, Verdict, decide
from tests.mesh.kube.fake_api import FakeApi
from tests.mesh.kube.test_informer import Silent

QUICK = LeaseTiming(duration=1.0, renew_deadline=0.3, retry=0.02)


@pytest.mark.parametrize(
    ("record", "unchanged", "verdict"),
    [
        (None, 0.0, Verdict.CREATE),
        (Record("me", "1"), 99.0, Verdict.RENEW),
        (Record("other", "1"), 14.9, Verdict.WAIT),
        (Record("other", "1"), 15.1, Verdict.TAKE),
        (Record("other", "1", duration=60.0), 15.1, Verdict.WAIT),
        (Record("", "1"), 0.0, Verdict.TAKE),
    ],
)
def test_verdicts(record: Record | None, unchanged: float, verdict: Verdict) -> None:
    assert decide(record, "me", unchanged) is verdict


class Replicas:
    def __init__(self, api: FakeApi, count: int) -> None:
        self.api = api
        self.elections = [
            Election(api.client(), "linkerd", "lease", f"replica-{n}", Silent(), QUICK, Random(n)) for n in range(count)
        ]
        self.tasks = [asyncio.create_task(election.run()) for election in self.elections]
        self.most = 0

    @property
    def leaders(self) -> list[int]:
        found = [n for n, election in enumerate(self.elections) if election.leads]
        self.most = max(self.most, len(found))
        return found

    async def until(self, holds: Callable[[], bool], seconds: float = 5.0) -> float:
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout(seconds):
            while not holds():
                assert len(self.leaders) <= 1
                await asyncio.sleep(0.002)
        return asyncio.get_running_loop().time() - started

    def stop(self, n: int) -> None:
        self.tasks[n].cancel()


def play(story: Callable[[Replicas], Awaitable[None]], count: int = 3) -> None:
    async def run() -> None:
        async with FakeApi() as api:
            replicas = Replicas(api, count)
            try:
                await story(replicas)
                assert replicas.most <= 1
            finally:
                for task in replicas.tasks:
                    task.cancel()
                await asyncio.gather(*replicas.tasks, return_exceptions=True)

    asyncio.run(run())


def test_one_of_three_leads_and_a_proper_stop_hands_over_at_once() -> None:
    async def story(replicas: Replicas) -> None:
        await replicas.until(lambda: len(replicas.leaders) == 1)
        first = replicas.leaders[0]
        replicas.stop(first)
        waited = await replicas.until(lambda: replicas.leaders not in ([], [first]))
        assert waited < QUICK.duration / 2, "nobody waited for the lease to run out"
        lease = replicas.api.get(kinds.LEASE, "linkerd", "lease")
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == f"replica-{replicas.leaders[0]}"
        assert lease["spec"]["leaseTransitions"] >= 1

    play(story)


def test_a_leader_that_cannot_renew_stops_before_another_may_start() -> None:
    async def story(replicas: Replicas) -> None:
        await replicas.until(lambda: len(replicas.leaders) == 1)
        replicas.api.down = True
        deposed = await replicas.until(lambda: replicas.leaders == [])
        assert deposed < QUICK.duration
        replicas.api.down = False
        await replicas.until(lambda: len(replicas.leaders) == 1)

    play(story)


def test_a_dead_leaders_lease_is_taken_after_its_duration() -> None:
    async def story(replicas: Replicas) -> None:
        lease = {
            "metadata": {"name": "lease", "namespace": "linkerd"},
            "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 1, "renewTime": "2099-01-01T00:00:00.000000Z"},
        }
        replicas.api.put(kinds.LEASE, lease)
        waited = await replicas.until(lambda: len(replicas.leaders) == 1)
        assert waited > 0.9, "a time far ahead in it says nothing, neither does ours"

    play(story, 1)


def test_who_loses_the_race_for_a_free_lease_waits() -> None:
    async def story(replicas: Replicas) -> None:
        free = {"metadata": {"name": "lease", "namespace": "linkerd"}, "spec": {"holderIdentity": ""}}
        replicas.api.put(kinds.LEASE, free)
        await replicas.until(lambda: len(replicas.leaders) == 1)
        conflicts = [path for method, path in replicas.api.requests if method == "PUT"]
        assert len(conflicts) > 1, "several tried"

    play(story, 5)
