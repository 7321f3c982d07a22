"""Events reach the server, repeat as a count, and never hold up who tells."""

from __future__ import annotations

import asyncio

from mesh.kube import kinds
from mesh.kube.events import ISSUER_UPDATE_SKIPPED, MAX_WAITING, About, Events
from tests.mesh.kube.fake_api import FakeApi
from tests.mesh.kube.test_informer import Silent

ISSUER = About("Secret", "linkerd", "linkerd-identity-issuer")


async def _until_quiet(events: Events) -> None:
    async with asyncio.timeout(5):
        while not events._waiting.empty():
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.05)


def test_an_event_names_its_object_and_a_repeat_is_a_count() -> None:
    async def run() -> None:
        async with FakeApi() as api:
            events = Events(api.client(), "linkerd-identity", "pod-1", Silent())
            task = asyncio.create_task(events.run())
            for _ in range(3):
                events.tell(ISSUER, ISSUER_UPDATE_SKIPPED, "not a CA", "Warning")
            events.tell(ISSUER, ISSUER_UPDATE_SKIPPED, "expired", "Warning")
            await _until_quiet(events)
            found = {event["message"]: event for event in api.all(kinds.EVENT)}
            assert {text: event["count"] for text, event in found.items()} == {"not a CA": 3, "expired": 1}
            event = found["not a CA"]
            assert event["involvedObject"]["name"] == "linkerd-identity-issuer"
            assert (event["type"], event["reason"]) == ("Warning", "IssuerUpdateSkipped")
            assert event["metadata"]["namespace"] == "linkerd"
            for stored in api.all(kinds.EVENT):
                api.delete(kinds.EVENT, "linkerd", stored["metadata"]["name"])
            events.tell(ISSUER, ISSUER_UPDATE_SKIPPED, "not a CA", "Warning")
            await _until_quiet(events)
            assert [event["count"] for event in api.all(kinds.EVENT)] == [1], "one that Kubernetes forgot is made anew"
            task.cancel()

    asyncio.run(run())


def test_events_are_dropped_rather_than_waited_for() -> None:
    async def run() -> None:
        async with FakeApi() as api:
            api.down = True
            events = Events(api.client(), "linkerd-identity", "pod-1", Silent())
            for number in range(MAX_WAITING + 10):
                events.tell(ISSUER, ISSUER_UPDATE_SKIPPED, str(number))
            assert events.dropped == 10
            task = asyncio.create_task(events.run())
            await _until_quiet(events)
            assert events.dropped > 10
            assert not task.done()
            task.cancel()

    asyncio.run(run())
