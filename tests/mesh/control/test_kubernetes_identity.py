"""Identity's sources on Kubernetes: token reviews, the issuer's Secret, the copies of the trust anchors, its events."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import msgspec
import pytest

from mesh.api.messages import CertifyResponse
from mesh.control.certify import LeafTerms
from mesh.control.credentials import server_credentials
from mesh.control.http import Later, Request, Response
from mesh.control.identity import Identity
from mesh.control.issuer import Issuers
from mesh.control.issuer_secret import IssuerSecret
from mesh.control.metrics import Metrics
from mesh.control.names import component_name
from mesh.control.pki import Authority, InvalidCredentials, create_issuer
from mesh.control.token_review import TokenReviews
from mesh.control.tokens import InvalidToken, NotAuthenticated, ServiceAccount, VerifierUnavailable
from mesh.control.trust_bundle import BUNDLE_KEY, COPY_LABELS, Copy, Remove, TrustBundle, Write, plan
from mesh.kube import kinds
from mesh.kube.lease import Election, LeaseTiming
from mesh.kube.permissions import ISSUER, TRUST_ROOTS
from tests.mesh.control.builders import CART, NOW, Realm, silent_log
from tests.mesh.control.kube_objects import namespace, pod
from tests.mesh.kube.fake_api import FakeApi, Object
from tests.mesh.kube.test_informer import QUICK


def run(story: Callable[[FakeApi], Awaitable[None]]) -> None:
    async def play() -> None:
        async with FakeApi() as api:
            await story(api)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                if task.get_name().startswith("test-"):
                    task.cancel()

    asyncio.run(play())


def spawn(*works: Any) -> None:
    for work in works:
        task = asyncio.create_task(work, name="test-work")
        _TASKS.add(task)
        task.add_done_callback(_TASKS.discard)


_TASKS: set[asyncio.Task[Any]] = set()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.002)


# ---- token review


def _knows(token: str, username: str, audiences: list[str]) -> Callable[[Object], Object]:
    def review(spec: Object) -> Object:
        if spec["token"] != token:
            return {"authenticated": False, "error": "token is expired"}
        shared = [audience for audience in spec["audiences"] if audience in audiences]
        return {"authenticated": bool(shared), "audiences": shared, "user": {"username": username}}

    return review


@pytest.mark.parametrize(
    ("username", "audiences", "token", "expected"),
    [
        ("system:serviceaccount:shop:cart", ["identity.l5d.io"], "good", ServiceAccount("cart", "shop")),
        ("system:serviceaccount:shop:cart", ["identity.l5d.io"], "other", NotAuthenticated),
        ("system:serviceaccount:shop:cart", ["https://kubernetes.default.svc"], "good", NotAuthenticated),
        ("alice", ["identity.l5d.io"], "good", InvalidToken),
    ],
)
def test_a_token_is_what_the_api_server_says(username: str, audiences: list[str], token: str, expected: Any) -> None:
    async def story(api: FakeApi) -> None:
        api.token_review = _knows("good", username, audiences)
        asked = TokenReviews(api.client()).ask(token)
        if isinstance(expected, ServiceAccount):
            assert await asked == expected
        else:
            with pytest.raises(expected):
                await asked

    run(story)


def test_an_audience_that_the_api_server_ignored_is_not_taken_as_ours() -> None:
    async def story(api: FakeApi) -> None:
        user = {"username": "system:serviceaccount:shop:cart"}
        api.token_review = lambda spec: {"authenticated": True, "user": user}
        with pytest.raises(NotAuthenticated, match="not meant for"):
            await TokenReviews(api.client()).ask("x")

    run(story)


def test_without_an_api_server_nobody_is_refused_for_good() -> None:
    async def story(api: FakeApi) -> None:
        api.down = True
        with pytest.raises(VerifierUnavailable, match="503"):
            await TokenReviews(api.client()).ask("x")

    run(story)


# ---- identity with a remote verifier


class _Desk:
    """Identity without its server."""

    def __init__(self, api: FakeApi, realm: Realm) -> None:
        self.log, self.said = silent_log()
        self.issued: list[tuple[ServiceAccount, str]] = []
        self.metrics = Metrics()
        self.content = (realm.issuer.certificate_pem.encode(), realm.issuer.key_pem.encode())
        self.clock = NOW
        anchors = [realm.anchor.certificate]
        self.issuers = Issuers(lambda: self.content, anchors, self.log, self.metrics, lambda: NOW)
        self.identity = Identity(
            self.issuers,
            TokenReviews(api.client()),
            LeafTerms(60.0, 1.0),
            "cluster.local",
            server_credentials(component_name("identity"), anchors, require_client=False),
            self.log,
            self.metrics,
            issued=lambda account, text: self.issued.append((account, text)),
        )

    async def certify(self, request: Any) -> Response:
        answer = self.identity.handle(Request("POST", "/v1/certify", msgspec.json.encode(request)))
        assert isinstance(answer, Later)
        return await answer.response


def test_a_leaf_for_a_reviewed_token_and_an_event_about_its_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.control.identity.time.time", lambda: NOW)

    async def story(api: FakeApi) -> None:
        realm = Realm()
        desk = _Desk(api, realm)
        request = realm.request(token="good")
        assert (await desk.certify(request)).status == 503, "no issuer yet"
        assert desk.issuers.poll()
        api.token_review = _knows("good", "system:serviceaccount:shop:cart", ["identity.l5d.io"])
        answer = await desk.certify(request)
        assert answer.status == 200
        assert msgspec.json.decode(answer.body, type=CertifyResponse).valid_until == pytest.approx(NOW + 61, abs=2)
        ((account, text),) = desk.issued
        assert account == ServiceAccount("cart", "shop")
        assert text.startswith(f"issued certificate for {CART} until ")
        assert (await desk.certify(realm.request(token="bad"))).status == 401
        api.token_review = _knows("good", "system:serviceaccount:shop:payment", ["identity.l5d.io"])
        assert (await desk.certify(request)).status == 403
        api.down = True
        assert (await desk.certify(request)).status == 502
        assert desk.metrics.value("identity_certify_total", result="verifier_unavailable") == 1
        assert len(desk.issued) == 1

    run(story)


def test_a_slow_review_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.control.identity.time.time", lambda: NOW)

    async def story(api: FakeApi) -> None:
        realm = Realm()
        desk = _Desk(api, realm)
        desk.issuers.poll()
        answers = [asyncio.create_task(desk.certify(realm.request(token=str(n)))) for n in range(100)]
        turns = 0
        while not all(answer.done() for answer in answers):
            turns += 1
            await asyncio.sleep(0)
        assert turns > 20, "the loop went round while reviews were open"
        assert {answer.result().status for answer in answers} == {401}

    run(story)


# ---- issuer secret


def issuer_secret(issuer: Authority) -> Object:
    data = {"tls.crt": issuer.certificate_pem, "tls.key": issuer.key_pem}
    return {
        "metadata": {"name": ISSUER, "namespace": "linkerd"},
        "type": "kubernetes.io/tls",
        "data": {name: base64.b64encode(text.encode()).decode() for name, text in data.items()},
    }


def test_a_rotated_secret_is_taken_up_from_the_watch_and_told() -> None:
    async def story(api: FakeApi) -> None:
        realm = Realm()
        log, _ = silent_log()
        told: list[tuple[str, str]] = []
        secret = IssuerSecret(api.client(), "linkerd", log, timing=QUICK)
        issuers = Issuers(
            secret.content, [realm.anchor.certificate], log, Metrics(), lambda: NOW, lambda *it: told.append(it)
        )
        spawn(secret.informer.run())
        await secret.informer.wait_synced()
        assert not issuers.poll()
        assert told == [("IssuerValidationFailed", "Secret linkerd/linkerd-identity-issuer: not there")]
        api.put(kinds.SECRET, issuer_secret(realm.issuer))
        await until(issuers.poll)
        api.put(kinds.SECRET, issuer_secret(Realm().issuer))
        await until(lambda: not issuers.poll() and told[-1][0] == "IssuerUpdateSkipped")
        following = create_issuer(realm.anchor, now=NOW)
        api.put(kinds.SECRET, issuer_secret(following))
        await until(issuers.poll)
        assert issuers.issuer is not None
        assert issuers.issuer.certificate == following.certificate
        broken = issuer_secret(following)
        broken["data"]["tls.key"] = "%%%"
        api.put(kinds.SECRET, broken)
        await until(lambda: secret.informer.store.unreadable == 1)
        assert not issuers.poll(), "a Secret that cannot be read keeps what it last said"
        assert [reason for reason, _ in told] == [
            "IssuerValidationFailed",
            "IssuerUpdated",
            "IssuerUpdateSkipped",
            "IssuerUpdated",
        ]

    run(story)


def test_a_rotation_that_the_watch_missed_is_found_by_the_timer() -> None:
    async def story(api: FakeApi) -> None:
        realm = Realm()
        log, said = silent_log()
        api.put(kinds.SECRET, issuer_secret(realm.issuer))
        secret = IssuerSecret(api.client(), "linkerd", log, timing=QUICK)
        spawn(secret.informer.run())
        await secret.informer.wait_synced()
        await until(lambda: len(api._streams) == 1)
        api.mute = True
        api.put(kinds.SECRET, issuer_secret(create_issuer(realm.anchor, now=NOW)))
        before = secret.content()
        spawn(secret.reread(0.02))
        await until(lambda: secret.content() != before)
        assert "missed by the watch" in said.getvalue()

    run(story)


def test_a_secret_without_its_key_says_so() -> None:
    async def story(api: FakeApi) -> None:
        api.put(kinds.SECRET, {"metadata": {"name": ISSUER, "namespace": "linkerd"}, "data": {"tls.crt": "YQ=="}})
        secret = IssuerSecret(api.client(), "linkerd", silent_log()[0], timing=QUICK)
        spawn(secret.informer.run())
        await secret.informer.wait_synced()
        with pytest.raises(InvalidCredentials, match=r"linkerd/linkerd-identity-issuer: has no tls\.key"):
            secret.content()

    run(story)


def test_an_issuer_of_a_new_anchor_is_taken_once_the_anchor_is_trusted() -> None:
    old, new = Realm(), Realm()
    log, _ = silent_log()
    content = [(old.issuer.certificate_pem.encode(), old.issuer.key_pem.encode())]
    issuers = Issuers(lambda: content[0], [old.anchor.certificate], log, Metrics(), lambda: NOW)
    assert issuers.poll()
    content[0] = (new.issuer.certificate_pem.encode(), new.issuer.key_pem.encode())
    assert not issuers.poll()
    issuers.trust([old.anchor.certificate, new.anchor.certificate])
    assert issuers.poll()
    assert issuers.issuer is not None
    assert issuers.issuer.certificate == new.issuer.certificate
    issuers.trust([new.anchor.certificate])
    assert not issuers.poll(), "the same issuer is no update"


# ---- trust bundle


@pytest.mark.parametrize(
    ("bundle", "needed", "copies", "steps"),
    [
        ("A", {"shop", "web"}, {}, [Write("shop", False), Write("web", False)]),
        ("A", {"shop"}, {"shop": Copy("A", True)}, []),
        ("B", {"shop"}, {"shop": Copy("A", True)}, [Write("shop", True)]),
        ("A", {"shop"}, {"shop": Copy("tampered", False)}, [Write("shop", True)]),
        ("A", set(), {"shop": Copy("A", True), "own": Copy("A", False)}, [Remove("shop")]),
        (None, {"shop"}, {"old": Copy("A", True)}, []),
        ("", {"shop"}, {"old": Copy("A", True)}, []),
    ],
)
def test_plan(bundle: str | None, needed: set[str], copies: dict[str, Copy], steps: list[Any]) -> None:
    assert plan(bundle, needed, copies) == steps


def _config_map(content: str, where: str = "linkerd") -> Object:
    return {"metadata": {"name": TRUST_ROOTS, "namespace": where}, "data": {BUNDLE_KEY: content}}


def test_the_leader_keeps_copies_where_pods_need_them() -> None:
    async def story(api: FakeApi) -> None:
        api.put(kinds.CONFIG_MAP, _config_map("anchor-1"))
        api.put(kinds.CONFIG_MAP, {"metadata": {"name": "other", "namespace": "shop"}, "data": {}})
        api.put(kinds.NAMESPACE, namespace("linkerd", linkerd_io__x="y"))
        api.put(kinds.NAMESPACE, {"metadata": {"name": "shop", "annotations": {"linkerd.io/inject": "enabled"}}})
        api.put(kinds.NAMESPACE, {"metadata": {"name": "plain"}})
        ending = {"name": "ending", "annotations": {"linkerd.io/inject": "enabled"}, "deletionTimestamp": "2026-01-01"}
        api.put(kinds.NAMESPACE, {"metadata": ending})
        api.put(kinds.NAMESPACE, {"metadata": {"name": "linkerd-viz", "labels": {"linkerd.io/extension": "viz"}}})
        log, _ = silent_log()
        timing = LeaseTiming(duration=1.0, renew_deadline=0.5, retry=0.02)
        elections = [Election(api.client(), "linkerd", "lease", str(n), log, timing, Random(n)) for n in range(2)]
        bundles = [TrustBundle(api.client(), "linkerd", e, log, Metrics(), QUICK) for e in elections]
        spawn(*(e.run() for e in elections), *(b.run() for b in bundles))

        def copies() -> dict[str, str]:
            found = [o for o in api.all(kinds.CONFIG_MAP) if o["metadata"]["name"] == TRUST_ROOTS]
            return {o["metadata"]["namespace"]: o["data"][BUNDLE_KEY] for o in found}

        await until(lambda: copies() == {"linkerd": "anchor-1", "shop": "anchor-1", "linkerd-viz": "anchor-1"})
        made = api.get(kinds.CONFIG_MAP, "shop", TRUST_ROOTS)
        assert made is not None
        assert made["metadata"]["labels"] == {"linkerd.io/control-plane-ns": "linkerd", **COPY_LABELS}

        injected = pod("cart-0", "10.244.0.5")
        injected["metadata"]["namespace"] = "plain"
        api.put(kinds.POD, injected)
        await until(lambda: "plain" in copies())
        api.put(kinds.CONFIG_MAP, _config_map("anchor-1+2"))
        await until(lambda: set(copies().values()) == {"anchor-1+2"} and len(copies()) == 4)
        tampered = api.get(kinds.CONFIG_MAP, "shop", TRUST_ROOTS)
        assert tampered is not None
        tampered["data"][BUNDLE_KEY] = "mine"
        api.put(kinds.CONFIG_MAP, tampered)
        await until(lambda: copies()["shop"] == "anchor-1+2")
        api.delete(kinds.POD, "plain", "cart-0")
        await until(lambda: "plain" not in copies())
        api.delete(kinds.CONFIG_MAP, "linkerd", TRUST_ROOTS)
        await asyncio.sleep(0.2)
        assert set(copies()) == {"shop", "linkerd-viz"}, "a missing original removes nothing"
        assert sum(election.leads for election in elections) == 1

    run(story)
