"""The webhook's certificate in Secret, configuration and handshake; reviews in and out. The API server is in memory and
speaks real HTTP; the webhook is called over real TLS."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mesh.control.http import Request, Response
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.webhook import certificate as certificates
from mesh.control.webhook import keeper as keeping
from mesh.control.webhook.certificate import LIFETIME_SECONDS, Certificate, issue, problem, trusts
from mesh.control.webhook.keeper import MUTATING, Keeper, Place
from mesh.control.webhook.review import AdmissionRequest, Answer, pointer, respond
from mesh.control.webhook.server import WebhookServer
from mesh.kube.kinds import SECRET
from tests.mesh.kube.fake_api import FakeApi

PLACE = Place("linkerd", "linkerd-proxy-injector", "linkerd-proxy-injector-k8s-tls", "injector", MUTATING)
NAMES = PLACE.names
CONFIGURATION: dict[str, Any] = {
    "metadata": {"name": "injector"},
    "webhooks": [{"name": "a.b.c", "clientConfig": {"service": {"name": "x"}}, "sideEffects": "None"}],
}
YEAR = LIFETIME_SECONDS


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def make(api: FakeApi, clock: Clock) -> Keeper:
    return Keeper(api.client(), PLACE, Log("test", stream=io.StringIO()), Metrics(), clock=clock)


def stored(api: FakeApi) -> Certificate:
    secret = api.get(SECRET, "linkerd", PLACE.secret)
    assert secret is not None
    return Certificate(*(base64.b64decode(secret["data"][name]).decode() for name in keeping.FILES))


def bundle(api: FakeApi) -> str:
    configuration = api.get(MUTATING, "", "injector")
    assert configuration is not None
    return base64.b64decode(configuration["webhooks"][0]["clientConfig"].get("caBundle", "")).decode()


def play(scenario: Callable[[FakeApi, Clock], Awaitable[None]]) -> None:
    async def inside() -> None:
        async with FakeApi() as api:
            api.put(MUTATING, CONFIGURATION)
            await scenario(api, Clock())

    asyncio.run(inside())


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SETTLE_SECONDS", 0.0)


# ---- the certificate


def test_a_certificate_is_good_until_a_third_of_its_life_is_left() -> None:
    made = issue(NAMES, now=0.0)
    assert problem(made, NAMES, now=1.0) == ""
    assert problem(made, NAMES, now=YEAR * 0.66) == ""
    assert problem(made, NAMES, now=YEAR * 0.68) == "tls.crt expires soon"
    assert problem(made, NAMES, now=YEAR * 1.1) == "tls.crt has expired"
    assert problem(made, NAMES, now=-1000.0) == "tls.crt is not valid yet"
    assert problem(made, ("other.linkerd.svc",), now=1.0) == "tls.crt is not for other.linkerd.svc"


@pytest.mark.parametrize("part", ["ca", "chain", "key"])
def test_a_secret_that_does_not_fit_together_is_noticed(part: str) -> None:
    made, other = issue(NAMES, now=0.0), issue(NAMES, now=0.0)
    mixed = {name: getattr(made, name) for name in ("ca", "chain", "key")} | {part: getattr(other, part)}
    assert problem(Certificate(**mixed), NAMES, now=1.0)
    assert problem(Certificate(**(mixed | {part: "rubbish"})), NAMES, now=1.0)


def test_a_new_certificate_keeps_the_old_authority_trusted_until_that_expires() -> None:
    first = issue(NAMES, now=0.0)
    second = issue(NAMES, first.ca, now=YEAR * 0.7)
    third = issue(NAMES, second.ca, now=YEAR * 1.2)
    assert trusts(second.ca, first)
    assert trusts(second.ca, second)
    assert trusts(third.ca, second)
    assert not trusts(third.ca, first)
    assert third.ca.count("BEGIN CERTIFICATE") == 2


# ---- the keeper


def test_the_first_replica_makes_secret_and_bundle_and_the_second_uses_them() -> None:
    async def scenario(api: FakeApi, clock: Clock) -> None:
        one, two = make(api, clock), make(api, clock)
        assert await one.look()
        made = stored(api)
        assert await two.look()
        assert stored(api) == made
        assert one._shown == two._shown == made
        assert bundle(api) == made.ca
        configuration = api.get(MUTATING, "", "injector")
        assert configuration is not None
        assert configuration["webhooks"][0] | {"clientConfig": None} == CONFIGURATION["webhooks"][0] | {
            "clientConfig": None
        }
        requests = len(api.requests)
        assert await one.look()
        assert {method for method, _ in api.requests[requests:]} == {"GET"}

    play(scenario)


def test_replicas_that_start_together_agree() -> None:
    async def scenario(api: FakeApi, clock: Clock) -> None:
        replicas = [make(api, clock) for _ in range(4)]
        for _ in range(5):
            if all(await asyncio.gather(*(replica.look() for replica in replicas))):
                break
        assert {replica._shown for replica in replicas} == {stored(api)}
        assert bundle(api) == stored(api).ca

    play(scenario)


def test_it_is_renewed_before_it_expires_and_both_are_trusted_meanwhile() -> None:
    async def scenario(api: FakeApi, clock: Clock) -> None:
        one, two = make(api, clock), make(api, clock)
        await one.look()
        await two.look()
        before = stored(api)
        clock.now += YEAR * 0.7
        await one.look()
        after = stored(api)
        assert after != before
        # The second replica still shows the old one, and is believed.
        assert two._shown == before
        assert trusts(bundle(api), before)
        assert trusts(bundle(api), after)
        await two.look()
        assert two._shown == after

    play(scenario)


def test_a_secret_that_someone_broke_or_removed_is_made_anew() -> None:
    async def scenario(api: FakeApi, clock: Clock) -> None:
        keeper = make(api, clock)
        await keeper.look()
        secret = api.get(SECRET, "linkerd", PLACE.secret)
        assert secret is not None
        api.put(SECRET, secret | {"data": secret["data"] | {"tls.crt": "AAAA"}})
        await keeper.look()
        assert problem(stored(api), NAMES, now=clock.now) == ""
        api.delete(SECRET, "linkerd", PLACE.secret)
        await keeper.look()
        assert problem(stored(api), NAMES, now=clock.now) == ""
        assert bundle(api) == stored(api).ca

    play(scenario)


@pytest.mark.parametrize("harm", ["removed", "emptied"])
def test_what_a_replica_shows_stays_trusted_when_the_secret_is_lost(harm: str) -> None:
    async def scenario(api: FakeApi, clock: Clock) -> None:
        one, two = make(api, clock), make(api, clock)
        await one.look()
        await two.look()
        secret = api.get(SECRET, "linkerd", PLACE.secret)
        assert secret is not None
        if harm == "removed":
            api.delete(SECRET, "linkerd", PLACE.secret)
        else:
            api.put(SECRET, secret | {"data": {}})
        await one.look()
        assert two._shown is not None
        assert two._shown != stored(api)
        assert trusts(bundle(api), two._shown)
        assert stored(api).ca.count("BEGIN CERTIFICATE") == 2

    play(scenario)


def test_a_bundle_that_someone_took_away_is_put_back() -> None:
    async def scenario(api: FakeApi, clock: Clock) -> None:
        keeper = make(api, clock)
        await keeper.look()
        api.put(MUTATING, CONFIGURATION)  # as a new apply of the manifests without server-side fields would
        assert bundle(api) == ""
        await keeper.look()
        assert bundle(api) == stored(api).ca

    play(scenario)


def test_without_an_api_server_it_goes_on_with_what_it_has() -> None:
    async def scenario(api: FakeApi, clock: Clock) -> None:
        keeper = make(api, clock)
        await keeper.look()
        api.down = True
        with pytest.raises(Exception, match="503"):
            await keeper.look()
        assert keeper.ready.is_set()

    play(scenario)


# ---- the server


def review(operation: str = "CREATE", **fields: Any) -> dict[str, Any]:
    request = {"uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": operation, **fields}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


async def call(port: int, authorities: str, body: bytes) -> tuple[int, Any]:
    context = ssl.create_default_context(cadata=authorities)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAMES[0])
    head = f"POST /?timeout=10s HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    top, _, rest = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(rest)


def test_the_api_server_reaches_it_with_the_bundle_alone_before_and_after_a_renewal() -> None:
    async def scenario(api: FakeApi, clock: Clock) -> None:
        seen: list[AdmissionRequest] = []

        def judge(request: AdmissionRequest) -> Answer:
            seen.append(request)
            return Answer(patch=[{"op": "add", "path": "/x", "value": 1}], warnings=("w" * 400,))

        server = WebhookServer(api.client(), PLACE, {"/": judge}, Log("test", stream=io.StringIO()), Metrics())
        await server.bind("127.0.0.1", 0)
        assert server.server._server is not None
        port = server.server._server.sockets[0].getsockname()[1]
        running = asyncio.create_task(server.run())
        await asyncio.wait_for(server.keeper.ready.wait(), 10)
        large = {"metadata": {"name": "p"}, "spec": {"x": "y" * 1_000_000}}
        status, answer = await call(port, bundle(api), json.dumps(review(object=large)).encode())
        assert (status, answer["kind"]) == (200, "AdmissionReview")
        assert answer["response"]["uid"] == "u-1"
        assert json.loads(base64.b64decode(answer["response"]["patch"])) == [{"op": "add", "path": "/x", "value": 1}]
        assert len(answer["response"]["warnings"][0]) == 256
        assert seen[0].decoded() == large

        api.delete(SECRET, "linkerd", PLACE.secret)
        await server.keeper.look()
        assert (await call(port, bundle(api), json.dumps(review()).encode()))[0] == 200
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.close()

    play(scenario)


def asked(request: Request, handlers: dict[str, Any]) -> Response:
    answer = respond(request, handlers)
    assert isinstance(answer, Response)
    return answer


def test_what_is_no_review_is_refused_with_the_reason() -> None:
    handlers = {"/": lambda request: Answer(False, "no such port", 422)}
    assert asked(Request("POST", "/", b"{}"), handlers).status == 400
    assert asked(Request("GET", "/", b""), handlers).status == 405
    assert asked(Request("POST", "/other", b""), handlers).status == 404
    old = json.dumps(review() | {"apiVersion": "admission.k8s.io/v1beta1"}).encode()
    assert asked(Request("POST", "/", old), handlers).status == 400
    refused = json.loads(asked(Request("POST", "/", json.dumps(review()).encode()), handlers).body)["response"]
    assert refused == {"uid": "u-1", "allowed": False, "status": {"code": 422, "message": "no such port"}}


def test_pointers_escape_what_annotations_are_full_of() -> None:
    assert pointer("metadata", "annotations", "linkerd.io/a~b") == "/metadata/annotations/linkerd.io~1a~0b"
    assert certificates.RENEW_LEFT < 1
