"""Facts from an API server that is played by a table of answers: real requests, real JSON, no cluster."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from lightkube import Client
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import Cluster, User

from mesh.api.values import Values, dump_values
from mesh.commands.check.checks import DEFAULT
from mesh.commands.check.cluster_facts import component_of, node_of, pod_of
from mesh.commands.check.expected import expected_objects
from mesh.commands.check.gather import Scope, gather
from mesh.commands.check.identity_facts import secret_pem
from mesh.commands.check.judge import Severity, judge
from mesh.commands.check.objects import lacks
from mesh.control.pki import create_issuer, create_key, create_trust_anchor, private_key_pem
from mesh.deploy.paths import path_of
from tests.mesh.commands.healthy import serving

SCOPE = Scope("linkerd", "linkerd-viz")
Json = dict[str, Any]
ANCHOR = create_trust_anchor()
ISSUER = create_issuer(ANCHOR)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Api:
    """An API server with a complete install. Tests take away from `objects`, or put their own answer in the way."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.logs: dict[tuple[str, str], str] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.trial: Callable[[str, Json], tuple[int, Json]] = self._trial
        for manifest in expected_objects(Values()):
            self.objects[path_of(manifest)] = json.loads(json.dumps(manifest))
        home = "/api/v1/namespaces/linkerd"
        self.objects[f"{home}/configmaps/linkerd-config"]["data"] = {"values": dump_values(Values())}
        self.objects["/api/v1/namespaces/default"] = {
            "metadata": {"labels": {"kubernetes.io/metadata.name": "default"}}
        }
        roots = self.objects[f"{home}/configmaps/linkerd-identity-trust-roots"]
        roots["data"] = {"ca-bundle.crt": ANCHOR.certificate_pem}
        self.objects[f"{home}/secrets/linkerd-identity-issuer"] = tls(ISSUER.certificate_pem, ISSUER.key_pem)
        for name in ("proxy-injector", "policy-validator"):
            self._webhook(name, home)
        self.lists: dict[str, list[Json]] = {
            f"{home}/pods": [running("linkerd-identity-1", "identity"), running("linkerd-destination-1", "policy")],
            "/apis/apps/v1/namespaces/linkerd/deployments": [deployment("linkerd-identity")],
            "/api/v1/nodes": [{"metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}}],
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases": [lease("n1", 0)],
        }

    def _webhook(self, name: str, home: str) -> None:
        authority = create_trust_anchor(name)
        secret = f"{home}/secrets/linkerd-{name}-k8s-tls"
        key = create_key()
        self.objects[secret] = tls(serving(name, authority, now=time.time(), key=key), private_key_pem(key))
        for manifest in self.objects.values():
            for webhook in manifest.get("webhooks") or []:
                if webhook["clientConfig"]["service"]["name"] == f"linkerd-{name}":
                    webhook["clientConfig"]["caBundle"] = encoded(authority.certificate_pem)

    @staticmethod
    def _trial(place: str, body: Json) -> tuple[int, Json]:
        if body["kind"] == "Pod":
            body["spec"]["initContainers"] = [{"name": "linkerd-proxy"}]
            return 201, body
        text = 'admission webhook "linkerd-policy-validator.linkerd.io" denied the request: networks[0]: not within'
        return 400, {"message": text}

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        place = request.url.path
        if place in self.refusals:
            status, text = self.refusals[place]
            return httpx2.Response(status, json={"message": text})
        if request.method == "POST":
            if place.endswith("selfsubjectaccessreviews"):
                return httpx2.Response(201, json={"status": {"allowed": True}})
            assert request.url.params["dryRun"] == "All", "a check must not write"
            status, answer = self.trial(place, json.loads(request.content))
            return httpx2.Response(status, json=answer)
        if place == "/version":
            return httpx2.Response(200, json={"gitVersion": "v1.34.4"})
        if place.endswith("/log"):
            return httpx2.Response(200, text=self._log(place.split("/")[-2], request.url.params))
        if "/proxy/" in place:
            return httpx2.Response(200, text="viz")
        if place in self.objects:
            return httpx2.Response(200, json=self.objects[place])
        if place in self.lists or place.rpartition("/")[2] in ("pods", "services", "deployments"):
            return httpx2.Response(200, json={"items": self.lists.get(place, [])})
        return httpx2.Response(404, json={"message": f"{place} not found"})

    def _log(self, pod: str, params: httpx2.QueryParams) -> str:
        """The container has just been started again: all it ever said is in its life before."""
        return self.logs.get((pod, params["container"]), "") if params["previous"] == "true" else ""

    def client(self) -> Client:
        config = KubeConfig.from_one(cluster=Cluster(server="http://fake"), user=User(token="t"))
        return Client(config, transport=httpx2.MockTransport(self.handle), trust_env=False)

    def errors(self, scope: Scope = SCOPE) -> dict[str, str]:
        results = judge(gather(self.client(), scope), DEFAULT)
        return {result.claim: result.text for result in results if result.severity is Severity.ERROR}


def tls(certificate: str, key: str) -> Json:
    return {"data": {"tls.crt": encoded(certificate), "tls.key": encoded(key)}}


def running(name: str, *containers: str, namespace: str = "linkerd") -> Json:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [{"name": c, "image": "gameday/mesh:0.1.0"} for c in containers]},
        "status": {
            "phase": "Running",
            "podIP": "10.244.0.8",
            "containerStatuses": [{"name": container, "ready": True} for container in containers],
        },
    }


def deployment(name: str, ready: int = 1) -> Json:
    return {"metadata": {"name": name}, "spec": {"replicas": 1}, "status": {"readyReplicas": ready}}


def lease(node: str, ahead_seconds: float) -> Json:
    return {
        "metadata": {"name": node, "managedFields": [{"time": "2026-08-01T10:00:00Z"}]},
        "spec": {"renewTime": f"2026-08-01T10:0{int(ahead_seconds // 60)}:{ahead_seconds % 60:09.6f}Z"},
    }


def test_a_complete_install_is_healthy() -> None:
    assert Api().errors() == {}


def test_a_webhook_s_key_of_another_certificate_is_found() -> None:
    api = Api()
    secret = api.objects["/api/v1/namespaces/linkerd/secrets/linkerd-proxy-injector-k8s-tls"]
    secret["data"]["tls.key"] = encoded(private_key_pem(create_key()))
    text = api.errors()["proxy-injector webhook has valid cert"]
    assert text == "Secret linkerd-proxy-injector-k8s-tls: tls.key is not the key of tls.crt"


@pytest.mark.parametrize(
    ("gone", "claim"),
    [
        ("/customresourcedefinitions/servers.policy.linkerd.io", "control plane CustomResourceDefinitions exist"),
        ("/clusterrolebindings/linkerd-linkerd-destination", "control plane ClusterRoleBindings exist"),
        ("/roles/linkerd-identity", "control plane ClusterRoles exist"),
        ("/services/linkerd-dst", "all other objects of the control plane exist"),
        ("/deployments/linkerd-identity", "control plane replica sets are ready"),
        ("/configmaps/linkerd-config", "'linkerd-config' config map exists"),
        ("/secrets/linkerd-identity-issuer", "certificate config is valid"),
        ("/services/viz", "viz objects exist"),
    ],
)
def test_each_object_that_is_gone_is_missed(gone: str, claim: str) -> None:
    api = Api()
    (place,) = [place for place in api.objects if place.endswith(gone)]
    del api.objects[place]
    assert claim in api.errors()


def test_a_role_that_lost_a_rule_is_named_with_the_rule() -> None:
    api = Api()
    (role,) = [o for place, o in api.objects.items() if place.endswith("/clusterroles/linkerd-linkerd-identity")]
    role["rules"] = [rule for rule in role["rules"] if "tokenreviews" not in rule["resources"]]
    text = api.errors()["control plane ClusterRoles exist"]
    assert text == "ClusterRole linkerd-linkerd-identity: does not grant create tokenreviews"


def test_an_injector_that_fails_open_is_found_by_its_trial() -> None:
    api = Api()
    api.trial = lambda place, body: (201, body) if body["kind"] == "Pod" else Api._trial(place, body)
    text = api.errors()["proxy-injector webhook does its work (dry run)"]
    assert text.startswith("a pod in default annotated linkerd.io/inject=enabled came back without a linkerd-proxy")


def test_an_injector_that_cannot_be_called_is_quoted() -> None:
    api = Api()
    said = 'failed calling webhook "linkerd-proxy-injector.linkerd.io": x509: certificate signed by unknown authority'
    api.trial = lambda place, body: (500, {"message": said}) if body["kind"] == "Pod" else Api._trial(place, body)
    assert said in api.errors()["proxy-injector webhook does its work (dry run)"]


def test_a_trial_that_is_refused_for_another_reason_says_nothing_of_the_webhook() -> None:
    api = Api()
    api.trial = lambda place, body: (403, {"message": "pods is forbidden: exceeded quota"})
    assert not [claim for claim in api.errors() if "dry run" in claim]


def test_no_trial_where_the_webhook_does_not_look() -> None:
    api = Api()
    api.trial = lambda place, body: (201, body)
    api.objects["/api/v1/namespaces/default"]["metadata"]["labels"] = {
        "config.linkerd.io/admission-webhooks": "disabled"
    }
    assert not [claim for claim in api.errors() if "dry run" in claim]


def test_what_is_refused_is_unknown_and_the_rest_is_learned() -> None:
    api = Api()
    place = "/api/v1/namespaces/linkerd/secrets/linkerd-identity-issuer"
    api.refusals[place] = (403, "secrets is forbidden")
    facts = gather(api.client(), SCOPE)
    assert facts.unknown == {"issuer_pem": "secrets is forbidden"}
    assert facts.anchors_pem == ANCHOR.certificate_pem
    assert facts.pods


def test_a_kind_that_may_not_be_read_leaves_the_others_judged() -> None:
    api = Api()
    for place in api.objects:
        if "/clusterroles/" in place:
            api.refusals[place] = (403, "clusterroles is forbidden")
    facts = gather(api.client(), SCOPE)
    assert facts.unread == {"ClusterRole": "clusterroles is forbidden"}
    assert facts.missing == frozenset()


def test_an_install_before_the_namespace_exists_asks_for_permissions() -> None:
    api = Api()
    api.objects = {}
    facts = gather(api.client(), Scope("linkerd", "linkerd-viz", pre=True))
    assert not facts.namespace_exists
    assert facts.allowed["create ClusterRole"]
    assert len(facts.missing) == len(facts.expected) > 40


def test_a_node_s_clock_is_told_by_its_lease() -> None:
    node = {"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.0.0/24"}}
    found = node_of(node, lease("n1", 90.5))
    assert (found.ahead_seconds, found.networks) == (90.0, ("10.244.0.0/24",))
    assert node_of(node, None).ahead_seconds is None


def test_a_native_sidecar_counts_as_a_container() -> None:
    pod = running("web-1", "app", namespace="shop")
    pod["spec"]["initContainers"] = [
        {"name": "linkerd-init"},
        {"name": "linkerd-proxy", "restartPolicy": "Always", "image": "gameday/mesh:0.0.9"},
    ]
    pod["status"]["initContainerStatuses"] = [{"name": "linkerd-proxy", "ready": False, "state": {}}]
    found = pod_of(pod)
    assert found.containers == {"app": True, "linkerd-proxy": False}
    assert not found.ready


def test_why_a_pod_does_not_come_up_is_read_from_its_containers() -> None:
    pod = running("linkerd-destination-1", "policy")
    pod["status"]["containerStatuses"] = [
        {
            "name": "policy",
            "ready": False,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 2, "reason": "Error"}},
        }
    ]
    assert pod_of(pod).trouble == "container policy: CrashLoopBackOff (last exit code 2, Error)"


def test_a_container_that_ends_is_quoted_with_its_last_words() -> None:
    api = Api()
    pod = running("linkerd-destination-1", "policy")
    pod["status"]["containerStatuses"][0] = {
        "name": "policy",
        "ready": False,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 2, "reason": "Error"}},
    }
    api.lists["/api/v1/namespaces/linkerd/pods"] = [pod]
    api.logs["linkerd-destination-1", "policy"] = "starting\n--listen: 0.0.0.0:x is not IP:PORT\n\n"
    text = api.errors()["control plane pods are ready"]
    assert text.endswith("(last exit code 2, Error); policy says: --listen: 0.0.0.0:x is not IP:PORT")


def test_a_stuck_rollout_is_quoted() -> None:
    stuck = deployment("linkerd-identity", ready=0)
    stuck["status"]["conditions"] = [{"type": "Progressing", "status": "False", "message": "deadline exceeded"}]
    assert component_of(stuck).message == "deadline exceeded"


def test_a_secret_with_another_key_is_noticed() -> None:
    certificate, matches = secret_pem(tls(ISSUER.certificate_pem, private_key_pem(create_key())))
    assert (certificate, matches) == (ISSUER.certificate_pem, False)
    assert secret_pem(tls(ISSUER.certificate_pem, ISSUER.key_pem)) == (ISSUER.certificate_pem, True)
    assert secret_pem(None) == (None, True)


def test_what_a_binding_lacks_is_named() -> None:
    binding = {"kind": "RoleBinding", "roleRef": {"name": "r"}, "subjects": [{"kind": "ServiceAccount", "name": "a"}]}
    assert lacks(binding, {**binding, "subjects": []}) == "does not bind ServiceAccount /a"
    assert lacks(binding, {**binding, "roleRef": {"name": "other"}}) == "binds other, not r"
    assert lacks(binding, binding) == ""


def test_a_rule_that_was_widened_is_fine() -> None:
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
    wider = {"apiGroups": ["*"], "resources": ["pods", "services"], "verbs": ["*"]}
    role = {"kind": "Role", "rules": [rule]}
    assert lacks(role, {"kind": "Role", "rules": [wider]}) == ""
    narrower = {**rule, "resourceNames": ["one"]}
    assert lacks(role, {"kind": "Role", "rules": [narrower]}) == "does not grant get,list pods"


def test_pods_that_the_injector_would_have_taken_and_did_not_are_found() -> None:
    api = Api()
    asking = {"metadata": {"name": "shop", "annotations": {"linkerd.io/inject": "enabled"}}}
    api.lists["/api/v1/namespaces"] = [asking, {"metadata": {"name": "default"}}]
    ended, refusing = running("job", "app", namespace="shop"), running("out", "app", namespace="shop")
    ended["status"]["phase"] = "Succeeded"
    refusing["metadata"]["annotations"] = {"linkerd.io/inject": "disabled"}
    others = [running("cart", "app", namespace="default"), running("web", "app", "linkerd-proxy", namespace="shop")]
    api.lists["/api/v1/pods"] = [running("cart", "app", namespace="shop"), *others, ended, refusing]
    facts = gather(api.client(), replace(SCOPE, proxies=True))
    assert facts.unmeshed == ("shop/cart",)


def test_containers_with_the_proxys_user_id_are_found() -> None:
    def pod(of_pod: int | None, **users: int) -> dict[str, Any]:
        made = running("cart", namespace="shop")
        made["spec"]["securityContext"] = {"runAsUser": of_pod} if of_pod is not None else None
        made["spec"]["containers"] = [{"name": "app"}, {"name": "log"}]
        made["spec"]["initContainers"] = [
            {"name": "migrate"},
            {"name": "linkerd-proxy", "restartPolicy": "Always", "securityContext": {"runAsUser": 2102}},
        ]
        for container in made["spec"]["containers"]:
            if container["name"] in users:
                container["securityContext"] = {"runAsUser": users[container["name"]]}
        return made

    assert pod_of(pod(None)).bypassing == ()
    assert pod_of(pod(None, app=2102, log=1)).bypassing == ("app",)
    assert pod_of(pod(2102, log=1)).bypassing == ("app",)  # what ran before the proxy did not bypass it
