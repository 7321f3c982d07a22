"""Informers against a server that forgets, hangs, repeats itself and goes away."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import msgspec
import pytest

from mesh.kube import kinds
from mesh.kube.informer import Informer, Timing
from mesh.kube.store import Change, Store, Unreadable
from tests.mesh.kube.fake_api import FakeApi

QUICK = Timing(watch=30.0, grace=5.0, resync=600.0, absent=0.05, backoff=0.005, max_backoff=0.05, page=10)
SHORT = Timing(watch=0.05, grace=0.05, resync=600.0, absent=0.05, backoff=0.005, max_backoff=0.05, page=10)


class Phase(msgspec.Struct, frozen=True):
    phase: str = ""


class Pod(msgspec.Struct, frozen=True):
    """What these tests keep of a pod."""

    status: Phase = Phase()


def read(raw: bytes) -> str:
    phase = msgspec.json.decode(raw, type=Pod).status.phase
    if phase == "odd":
        raise Unreadable("phase is odd")
    return phase


def pod(name: str, phase: str = "Running", namespace: str = "shop") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "status": {"phase": phase}}


class Silent:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def debug(self, message: str, **fields: object) -> None: ...
    def info(self, message: str, **fields: object) -> None: ...

    def warn(self, message: str, **fields: object) -> None:
        self.lines.append(("warn", message))

    def error(self, message: str, **fields: object) -> None:
        self.lines.append(("error", message))


class World:
    """A server, an informer that runs, and what it told."""

    def __init__(self, api: FakeApi, timing: Timing) -> None:
        self.api = api
        self.log = Silent()
        self.changes: list[Change[str]] = []
        self.informer = Informer(
            api.client(), kinds.POD, read, self.log, self.changes.extend, timing=timing, rng=Random(1)
        )

    def names(self) -> set[str]:
        return {name for (_, name), _ in self.informer.store.items()}

    def phase(self, name: str) -> str | None:
        return self.informer.store.get("shop", name)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0.002)

    async def streaming(self) -> None:
        await self.until(lambda: len(self.api._streams) > 0)


def play(story: Callable[[World], Awaitable[None]], timing: Timing = QUICK, before: Any = None) -> World:
    """Runs `story` beside an informer; `before` prepares the server."""

    async def run() -> World:
        async with FakeApi() as api:
            if before is not None:
                before(api)
            world = World(api, timing)
            task = asyncio.create_task(world.informer.run())
            try:
                await story(world)
                assert not task.done(), "an informer never ends by itself"
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            return world

    return asyncio.run(run())


def seed(count: int) -> Callable[[FakeApi], None]:
    def fill(api: FakeApi) -> None:
        for number in range(count):
            api.put(kinds.POD, pod(f"p{number}"))

    return fill


def test_lists_in_pages_then_follows() -> None:
    async def story(world: World) -> None:
        await world.informer.wait_synced()
        assert len(world.names()) == 25
        world.api.put(kinds.POD, pod("new"))
        world.api.put(kinds.POD, pod("p0", "Failed"))
        world.api.delete(kinds.POD, "shop", "p1")
        await world.until(lambda: "p1" not in world.names() and world.phase("p0") == "Failed")
        assert world.phase("new") == "Running"
        assert world.informer.counts["lists"] == 1
        assert Change(("shop", "p0"), "Running", "Failed") in world.changes
        assert Change(("shop", "p1"), "Running", None) in world.changes

    play(story, before=seed(25))


def test_is_not_ready_before_the_first_list_is_in() -> None:
    async def story(world: World) -> None:
        await world.until(lambda: len(world.api.requests) > 0)
        assert not world.informer.synced
        await world.informer.wait_synced()
        assert world.names() == {"p0", "p1", "p2"}

    def slow(api: FakeApi) -> None:
        seed(3)(api)
        api.slow_seconds = 0.1

    play(story, before=slow)


def test_a_forgotten_version_is_listed_anew_and_what_was_deleted_meanwhile_goes() -> None:
    async def story(world: World) -> None:
        await world.streaming()
        world.api.down = True
        world.api.drop_watches()
        await world.until(lambda: world.informer.counts["failures"] > 0)
        world.api.delete(kinds.POD, "shop", "p0")
        world.api.put(kinds.POD, pod("p1", "Failed"))
        world.api.compact()
        assert world.phase("p0") == "Running", "the last state stays while the server is away"
        world.api.down = False
        await world.until(lambda: "p0" not in world.names())
        assert world.phase("p1") == "Failed"
        assert world.informer.counts["relists_expired"] == 1
        assert world.changes[-2:] == [
            Change(("shop", "p1"), "Running", "Failed"),
            Change(("shop", "p0"), "Running", None),
        ]

    play(story, before=seed(3))


def test_a_dropped_stream_goes_on_without_a_list() -> None:
    async def story(world: World) -> None:
        await world.streaming()
        world.api.drop_watches()
        world.api.delete(kinds.POD, "shop", "p0")
        world.api.put(kinds.POD, pod("p1", "Failed"))
        await world.until(lambda: "p0" not in world.names() and world.phase("p1") == "Failed")
        assert world.informer.counts["lists"] == 1

    play(story, before=seed(3))


def test_repeated_events_are_told_once() -> None:
    async def story(world: World) -> None:
        await world.streaming()
        world.api.twice = True
        world.changes.clear()
        world.api.put(kinds.POD, pod("p0", "Failed"))
        world.api.delete(kinds.POD, "shop", "p1")
        world.api.put(kinds.POD, pod("last"))
        await world.until(lambda: "last" in world.names())
        assert world.informer.counts["events"] >= 5
        assert [change.key[1] for change in world.changes] == ["p0", "p1", "last"]

    play(story, before=seed(3))


def test_a_silent_stream_is_given_up_and_listed_anew() -> None:
    def mute(api: FakeApi) -> None:
        seed(1)(api)
        api.mute = True

    async def story(world: World) -> None:
        await world.streaming()
        world.api.put(kinds.POD, pod("unheard"))
        await world.until(lambda: "unheard" in world.names())
        assert world.informer.counts["stalls"] >= 1
        assert ("warn", "watch stalled; listing anew") in world.log.lines

    play(story, SHORT, mute)


def test_bookmarks_keep_the_version_fresh_over_a_compaction() -> None:
    """A quiet kind whose server forgets events of others is not listed anew."""

    async def story(world: World) -> None:
        await world.streaming()
        for number in range(5):
            world.api.put(kinds.SERVICE, pod(f"s{number}"))
        bookmarks = world.informer.counts["bookmarks"]
        await world.until(lambda: world.informer.counts["bookmarks"] >= bookmarks + 2)
        world.api.compact()
        world.api.put(kinds.POD, pod("p1"))
        await world.until(lambda: "p1" in world.names())
        assert world.informer.counts["relists_expired"] == 0

    timing = Timing(watch=0.7, grace=5, backoff=0.005, max_backoff=0.05)
    play(story, timing, before=seed(1))


def test_a_missed_event_is_mended_by_the_resync() -> None:
    async def story(world: World) -> None:
        await world.streaming()
        stored = world.api.objects[kinds.POD.path()]["shop", "p0"]
        stored["status"]["phase"] = "Failed"
        stored["metadata"]["resourceVersion"] = "999"  # written, and no event about it
        await world.until(lambda: world.phase("p0") == "Failed")
        assert world.informer.counts["stalls"] == 0

    play(story, Timing(watch=0.5, grace=5, resync=0.01, backoff=0.005, max_backoff=0.05), seed(1))


def test_a_kind_that_is_not_installed_is_ready_and_found_later() -> None:
    def without(api: FakeApi) -> None:
        seed(1)(api)
        api.objects["/apis/gateway.networking.k8s.io/v1/httproutes"] = api.objects.pop(kinds.POD.path())
        api.absent.add("gateway.networking.k8s.io")

    async def run() -> None:
        async with FakeApi() as api:
            without(api)
            world = World(api, QUICK)
            world.informer = Informer(
                api.client(), kinds.GATEWAY_HTTP_ROUTE, read, world.log, world.changes.extend, timing=QUICK
            )
            task = asyncio.create_task(world.informer.run())
            await world.informer.wait_synced()
            assert world.names() == set()
            api.absent.clear()
            await world.until(lambda: world.names() == {"p0"})
            api.absent.add("gateway.networking.k8s.io")
            api.drop_watches()
            await world.until(lambda: world.informer.counts["lists"] > 4)
            await world.until(lambda: world.names() == set())
            assert world.changes[-1].after is None
            task.cancel()

    asyncio.run(run())


def test_a_moment_of_404_does_not_empty_a_known_kind() -> None:
    async def story(world: World) -> None:
        await world.streaming()
        lists = world.informer.counts["lists"]
        world.informer._api._http._transport = _Through(world.informer._api._http._transport, 2)
        world.api.drop_watches()
        await world.until(lambda: world.informer.counts["lists"] > lists)
        await world.streaming()
        assert world.names() == {"p0"}
        assert all(change.after is not None for change in world.changes)

    play(story, before=seed(1))


class _Through:
    """A transport that answers the first requests 404 itself."""

    def __init__(self, inner: Any, count: int) -> None:
        self.inner, self.count = inner, count

    async def handle_async_request(self, request: Any) -> Any:
        import httpx2

        if self.count:
            self.count -= 1
            return httpx2.Response(404, json={"message": "starting up"})
        return await self.inner.handle_async_request(request)


def test_all_go_on_with_the_first_answer_after_an_outage_and_one_of_them_said_so() -> None:
    """With a backoff of an hour, only another's answer can wake an informer."""
    patient = Timing(watch=30.0, grace=5.0, backoff=3600.0, max_backoff=3600.0)

    async def run() -> None:
        async with FakeApi() as api:
            seed(1)(api)
            log = Silent()
            client = api.client()
            watched = (kinds.POD, kinds.SERVICE, kinds.NAMESPACE)
            informers = [Informer(client, kind, read, log, timing=patient) for kind in watched]
            tasks = [asyncio.create_task(informer.run()) for informer in informers]
            async with asyncio.timeout(5):
                while len(api._streams) < 3:
                    await asyncio.sleep(0.002)
                api.drop_watches()
                while sum(informer.counts["failures"] for informer in informers) < 3:
                    await asyncio.sleep(0.002)
                assert [text for _, text in log.lines] == ["the API server does not answer; its last state stays"]
                await asyncio.sleep(0.05)
                assert not api._streams
                await client.request("GET", "/version")
                while len(api._streams) < 3:
                    await asyncio.sleep(0.002)
            for task in tasks:
                task.cancel()

    asyncio.run(run())


def test_refused_permission_keeps_the_last_state_and_says_so_once() -> None:
    async def story(world: World) -> None:
        await world.streaming()
        world.api.forbidden.add("pods")
        world.api.drop_watches()
        await world.until(lambda: world.informer.counts["failures"] >= 4)
        assert world.names() == {"p0"}
        assert len([line for line in world.log.lines if "cannot follow" in line[1]]) == 1
        world.api.forbidden.clear()
        world.api.put(kinds.POD, pod("p1"))
        await world.until(lambda: world.names() == {"p0", "p1"})

    play(story, before=seed(1))


def test_an_object_that_cannot_be_read_keeps_its_last_good_state() -> None:
    async def story(world: World) -> None:
        await world.streaming()
        world.api.put(kinds.POD, pod("p0", "odd"))
        world.api.put(kinds.POD, pod("p1", "odd"))
        world.api.put(kinds.POD, pod("end"))
        await world.until(lambda: "end" in world.names())
        assert world.phase("p0") == "Running"
        assert world.phase("p1") is None
        assert world.informer.store.unreadable == 2

    play(story, before=seed(1))


def test_an_object_made_anew_under_its_name_is_another_one() -> None:
    store: Store[str] = Store(read)

    def raw(uid: str, version: str, phase: str = "Running") -> bytes:
        return msgspec.json.encode(
            {"metadata": {"name": "p", "uid": uid, "resourceVersion": version}, "status": {"phase": phase}}
        )

    store.put(raw("a", "1"))
    store.put(raw("b", "3", "Pending"))
    assert store.delete(raw("a", "2")) is None, "the deletion is of the one before"
    assert store.get("", "p") == "Pending"
    assert store.put(raw("c", "4", "odd"))[1] == Change(("", "p"), "Pending", None), "not the state of another object"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_server_may_ask_for_patience(status: int) -> None:
    from mesh.kube.api import failure

    assert failure(status, b"{}", "7").retry_after == 7.0
    assert failure(status, b"not json", "soon").retry_after == 0.0


def test_churn_of_five_hundred_pods_stays_bounded_and_in_step() -> None:
    """Twenty thousand events; what is kept does not grow, and the end state is the server's."""

    async def story(world: World) -> None:
        await world.streaming()
        api = world.api
        world.changes.clear()
        world.informer._on_change = lambda changes: None  # type: ignore[method-assign]
        tracemalloc.start()
        grown = []
        for round_ in range(4):
            for number in range(5000):
                name = f"p{number % 500}"
                if number % 50 == 7 and ("shop", name) in api.objects[kinds.POD.path()]:
                    api.delete(kinds.POD, "shop", name)
                else:
                    api.put(kinds.POD, pod(name, f"{round_}-{number}"))
                if number % 500 == 0:
                    await asyncio.sleep(0)
            wanted = {key[1]: stored["status"]["phase"] for key, stored in api.objects[kinds.POD.path()].items()}
            await world.until(lambda: dict_of(world) == wanted)  # noqa: B023
            api.compact()
            snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*mesh/kube/*")])
            grown.append(sum(stat.size for stat in snapshot.statistics("filename")))
        tracemalloc.stop()
        assert grown[-1] < 1_000_000, grown
        assert grown[-1] < 1.5 * grown[0] + 50_000, grown
        assert world.informer.counts["stalls"] == 0

    def dict_of(world: World) -> dict[str, str]:
        return {key[1]: value for key, value in world.informer.store.items()}

    play(story, before=seed(500))
