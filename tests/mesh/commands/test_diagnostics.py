"""`mesh diagnostics` and `mesh authz` as commands, against an API server that is played by a table of answers."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
import yaml
from lightkube import Client
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import Cluster, User

from mesh.api.messages import (
    AuthorizationSpec,
    Endpoint,
    Endpoints,
    InboundPolicy,
    NotFound,
    OutboundPolicy,
    Profile,
    WatchMessage,
    encode_line,
)
from mesh.commands.authz import authz
from mesh.commands.cluster import ClusterOptions
from mesh.commands.diagnostics import controller_metrics, endpoints, policy, profile, proxy_metrics
from mesh.commands.errors import CommandFailed
from mesh.commands.workloads import resources

Json = dict[str, Any]
SHOP = ClusterOptions(namespace="shop")
WEB = "web.shop.svc.cluster.local:80"
CONTROL = "/api/v1/namespaces/linkerd/pods"
STAMP: Json = {"version": 3, "published_at": 1.0}
DEFAULT = AuthorizationSpec(kind="default", name="all-unauthenticated", group="", client="unauthenticated")


def pod(name: str, namespace: str, *containers: str, labels: Json | None = None, proxy: bool = False) -> Json:
    spec: Json = {"containers": [{"name": c, "ports": [{"containerPort": 8080}]} for c in containers]}
    if proxy:
        spec["initContainers"] = [{"name": "linkerd-proxy", "restartPolicy": "Always"}]
    metadata: Json = {"name": name, "namespace": namespace, "labels": labels or {}}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running", "podIP": "10.1.1.1"}}


class Api:
    """What there is: control plane, a meshed pod behind a service, and what each proxied path answers."""

    def __init__(self) -> None:
        self.lists = {
            CONTROL: [
                pod("linkerd-identity-1", "linkerd", "identity"),
                pod("linkerd-destination-1", "linkerd", "destination", "policy"),
            ],
            "/api/v1/namespaces/shop/pods": [
                pod("web-1", "shop", "app", proxy=True, labels={"app": "web"}),
                pod("bare-1", "shop", "app"),
            ],
        }
        self.objects = {"/api/v1/namespaces/shop/services/web": {"spec": {"selector": {"app": "web"}}}}
        self.answers: dict[str, bytes] = {}
        self.asked: list[httpx2.Request] = []

    def says(self, place: str, *messages: WatchMessage) -> None:
        self.answers[place] = b"".join(map(encode_line, messages))

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        path = request.url.path
        if "/proxy/" in path:
            pod_port, _, rest = path.partition("/pods/")[2].partition("/proxy/")
            answer = self.answers.get(f"{pod_port}/{rest}")
            if answer is None:
                return httpx2.Response(503, json={"message": "connection refused"})
            return httpx2.Response(400 if answer.startswith(b'{"error"') else 200, content=answer)
        if path in self.objects:
            return httpx2.Response(200, json=self.objects[path])
        if path in self.lists:
            wanted = dict(part.split("=") for part in request.url.params.get("labelSelector", "").split(",") if part)
            items = [item for item in self.lists[path] if wanted.items() <= item["metadata"]["labels"].items()]
            return httpx2.Response(200, json={"items": items})
        return httpx2.Response(404, json={"message": f"{path.rpartition('/')[2]} not found"})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    played = Api()
    config = KubeConfig.from_one(cluster=Cluster(server="http://fake"), user=User(token="t"))

    def connect(context: str | None, kubeconfig: str | None) -> Client:
        return Client(config, transport=httpx2.MockTransport(played.handle), trust_env=False)

    monkeypatch.setattr("mesh.kube.client.connect", connect)
    return played


def test_endpoints_are_a_table(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.says(
        f"linkerd-destination-1:9996/debug/v1/destinations/{WEB}",
        Endpoints(
            **STAMP,
            endpoints=(
                Endpoint(address="10.1.1.1:4143", pod="web-1", namespace="shop", identity="web.id", port=8080),
                Endpoint(address="[fd00::1]:8080", pod="bare-1", namespace="shop"),
            ),
        ),
    )
    assert endpoints(WEB, output="wide", client_namespace="bank") == 0
    assert capsys.readouterr().out == (
        "NAMESPACE   IP         PORT   POD      SERVICE    IDENTITY   WEIGHT   OPAQUE\n"
        "shop        10.1.1.1   8080   web-1    web.shop   web.id      10000   no\n"
        "shop        fd00::1    8080   bare-1   web.shop   -           10000   no\n"
    )
    assert api.asked[-1].url.params["ns"] == "bank"


def test_an_authority_that_is_not_known_is_said(api: Api) -> None:
    api.says(f"linkerd-destination-1:9996/debug/v1/destinations/{WEB}", NotFound(**STAMP, authority=WEB))
    with pytest.raises(CommandFailed, match="no such service"):
        endpoints(WEB)


def test_a_service_without_endpoints_is_no_error(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.says(f"linkerd-destination-1:9996/debug/v1/destinations/{WEB}", Endpoints(**STAMP))
    assert endpoints(WEB) == 0
    assert capsys.readouterr() == ("", "No endpoints found.\n")
    assert endpoints(WEB, output="json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_question_that_destination_refuses_is_answered_in_its_words(api: Api) -> None:
    api.answers["linkerd-destination-1:9996/debug/v1/destinations/web"] = b'{"error":"\'web\' is not SERVICE.NS"}'
    with pytest.raises(CommandFailed, match=r"^'web' is not SERVICE\.NS$"):
        endpoints("web")


def test_the_next_replica_is_asked_where_one_does_not_answer(api: Api) -> None:
    api.lists[CONTROL].append(pod("linkerd-destination-2", "linkerd", "destination", "policy"))
    api.says(f"linkerd-destination-2:9996/debug/v1/destinations/{WEB}", Endpoints(**STAMP))
    assert endpoints(WEB) == 0


def test_without_a_control_plane_that_is_said(api: Api) -> None:
    api.lists[CONTROL] = []
    with pytest.raises(CommandFailed, match="no running pod with a container destination in linkerd"):
        endpoints(WEB)
    with pytest.raises(CommandFailed, match="no control plane runs in linkerd"):
        controller_metrics()


def test_the_profile_is_printed_without_the_endpoints(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"linkerd-destination-1:9996/debug/v1/destinations/{WEB}"
    api.says(place, Endpoints(**STAMP), Profile(**STAMP, authority=WEB, exists=True))
    assert profile(WEB) == 0
    assert yaml.safe_load(capsys.readouterr().out)["exists"] is True


def test_policy_of_a_service_is_outbound_and_of_a_workload_inbound(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.says(f"linkerd-destination-1:9997/debug/v1/outbound/{WEB}", OutboundPolicy(**STAMP, authority=WEB, exists=True))
    api.says("linkerd-destination-1:9997/debug/v1/inbound/shop/web-1/8080", InboundPolicy(**STAMP))
    assert policy("svc/web", 80, output="json", cluster=SHOP) == 0
    assert json.loads(capsys.readouterr().out)["authority"] == WEB
    assert policy("po/web-1", 8080, output="json", cluster=SHOP) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "inbound-policy"


def test_metrics_are_told_apart_by_pod_and_a_silent_one_is_code_1(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["web-1:4191/metrics"] = b"up 1\n"
    assert proxy_metrics("svc/web", cluster=SHOP) == 0
    assert capsys.readouterr().out == "#\n# POD web-1 (1 of 1)\n#\nup 1\n"
    api.answers["linkerd-identity-1:9990/metrics"] = b"issuer 1\n"
    assert controller_metrics() == 1
    out = capsys.readouterr().out
    assert "# POD linkerd-identity-1 CONTAINER identity (1 of 3)\n#\nissuer 1\n" in out
    assert "# ERROR pods linkerd/linkerd-destination-1:9996: 503 connection refused" in out


def test_authz_without_a_window_asks_no_proxy(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.says(
        "linkerd-destination-1:9997/debug/v1/inbound/shop/web-1/8080",
        InboundPolicy(**STAMP, server_name="all-unauthenticated", authorizations=(DEFAULT,)),
    )
    assert authz("svc/web", time_window="0s", cluster=SHOP) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split()[:3] == ["default", "default:all-unauthenticated", "default/all-unauthenticated"]
    assert row.split()[3:] == ["-"] * 6
    assert not [request for request in api.asked if "4191" in request.url.path]


def test_a_workload_that_is_not_meshed_has_no_authorizations(api: Api) -> None:
    with pytest.raises(CommandFailed, match="none of its pods is meshed"):
        authz("po/bare-1", time_window="0s", cluster=SHOP)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("po/nobody",), "no running pods in namespace shop"),
        (("svc/nobody",), "no such service in namespace shop"),
        (("authority/x",), "no pods belong to this kind"),
        (("gizmo/x",), "'gizmo' is no kind of resource"),
        ((), "name a pod or workload"),
    ],
)
def test_what_is_not_there_is_one_line(api: Api, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(CommandFailed, match=said):
        proxy_metrics(*arguments, cluster=SHOP)


def test_kind_and_name_may_be_two_words() -> None:
    assert [str(resource) for resource in resources(("deploy", "web"), "shop")] == ["deploy/web"]
    assert [str(resource) for resource in resources(("deploy/web", "po/x"), "shop")] == ["deploy/web", "po/x"]
