"""What the validating webhook answers: field and reason for the wrong, silence for the right."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml

from mesh.api.resources import Server
from mesh.control.admission import Admission, validate
from mesh.control.admission.webhook import judge
from mesh.control.http import Request, Response
from mesh.control.metrics import Metrics
from mesh.control.webhook.review import respond
from tests.mesh.control.builders import silent_log

SERVER = """
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: cart, namespace: shop}
spec: {podSelector: {matchLabels: {app: cart}}, port: http}
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop, annotations: {retry.linkerd.io/http: 5xx}}
spec:
  parentRefs: [{group: "", kind: Service, name: cart, port: 80}]
  rules: [{matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: cart, port: 80, weight: 1}]}]
"""


def _object(text: str, *changes: tuple[str, str]) -> Any:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return yaml.safe_load(text)


@pytest.mark.parametrize("text", [SERVER, ROUTE])
def test_a_good_resource_is_admitted(text: str) -> None:
    assert validate(_object(text)) == []


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        (SERVER, "port: http", "port: 99999", "spec.port: 99999 is not a port (1..65535)"),
        (SERVER, "port: http", "port: [1]", "spec.port: expected"),
        (SERVER, "port: http", "proxyProtocol: HTTP", "spec: object missing required field port"),
        (SERVER, "{app: cart}", "{app: 1}", "spec.podSelector.matchLabels.app: expected text"),
        (SERVER, "podSelector: {matchLabels: {app: cart}}", "accessPolicy: deny", "spec: podSelector is missing"),
        (ROUTE, "value: /", "value: x", "spec.rules[0].matches[0].path.value"),
        (ROUTE, "port: 80}]\n  rules", "port: 0}]\n  rules", "spec.parentRefs[0].port: 0 is not a port"),
        (
            "apiVersion: policy.linkerd.io/v1alpha1\nkind: MeshTLSAuthentication\n"
            "metadata: {name: a, namespace: shop}\nspec: {identities: [cart]}",
            "[cart]",
            "[Not_A_Name]",
            "spec.identities[0]: 'Not_A_Name' is no identity",
        ),
        (
            "apiVersion: policy.linkerd.io/v1alpha1\nkind: HTTPLocalRateLimitPolicy\n"
            "metadata: {name: a, namespace: s}\nspec: "
            "{targetRef: {group: policy.linkerd.io, kind: Server, name: x}, total: {requestsPerSecond: 5}}",
            "requestsPerSecond: 5",
            "requestsPerSecond: 0",
            "spec.total.requestsPerSecond: must be greater than 0",
        ),
        (
            "apiVersion: linkerd.io/v1alpha2\nkind: ServiceProfile\n"
            "metadata: {name: cart.shop.svc.cluster.local, namespace: shop}\n"
            "spec: {routes: [{name: r, condition: {pathRegex: /a}}]}",
            "pathRegex: /a",
            "pathRegex: '('",
            "spec.routes[0].condition.pathRegex",
        ),
        (
            "apiVersion: policy.linkerd.io/v1alpha1\nkind: EgressNetwork\nmetadata: {name: a, namespace: s}\n"
            "spec: {trafficPolicy: Allow}",
            "Allow",
            "allow",
            "spec.trafficPolicy: 'allow' is neither Allow nor Deny",
        ),
        (
            "apiVersion: workload.linkerd.io/v1beta1\nkind: ExternalWorkload\nmetadata: {name: a, namespace: s}\n"
            "spec: {meshTLS: {identity: a.b, serverName: a.b}, workloadIPs: [{ip: 192.0.2.1}], ports: [{port: 80}]}",
            "port: 80",
            "port: 80000",
            "spec.ports[0].port: 80000 is not a port",
        ),
    ],
)
def test_a_wrong_resource_is_refused_with_field_and_reason(text: str, old: str, new: str, expected: str) -> None:
    assert validate(_object(text)) == []
    errors = validate(_object(text, (old, new)))
    assert errors, "refused"
    assert any(error.startswith(expected) for error in errors), errors


def test_a_misspelt_annotation_is_admitted_with_a_warning() -> None:
    verdict = Admission().review(_object(ROUTE, ("retry.linkerd.io/http", "retry.linkerd.io/htp")))
    assert verdict.errors == ()
    assert "retry.linkerd.io/htp" in verdict.warnings[0]
    assert "did you mean" in verdict.warnings[0]


def test_routes_of_other_controllers_and_other_kinds_are_none_of_our_business() -> None:
    theirs = _object(ROUTE, ('group: "", kind: Service', "kind: Gateway"), ("value: /", "value: x"))
    assert validate(theirs) == []
    del theirs["spec"]["parentRefs"][0]["kind"]  # the default is Gateway
    assert validate(theirs) == []
    assert validate({"apiVersion": "apps/v1", "kind": "Deployment", "spec": 3}) == []
    assert validate({"apiVersion": "example.com/v1", "kind": "Server", "spec": {"port": 0}}) == []
    assert validate({}) == []


def test_a_name_that_the_server_will_make_up_is_no_mistake() -> None:
    assert validate(_object(SERVER, ("name: cart, ", "generateName: cart-, "))) == []
    assert validate(_object(SERVER, ("name: cart, ", "")))[0].startswith("metadata:")


def test_nulls_are_as_left_out() -> None:
    value = _object(SERVER)
    value["spec"] |= {"accessPolicy": None, "externalWorkloadSelector": None}
    value["metadata"] |= {"labels": None, "annotations": None, "creationTimestamp": None}
    assert validate(value) == []


def test_a_second_server_for_the_same_port_of_the_same_pods_is_refused() -> None:
    stored = msgspec.convert(_object(SERVER), Server)
    admission = Admission(lambda: [stored])
    assert admission.validate(_object(SERVER)) == [], "an update of itself"
    twin = _object(SERVER, ("name: cart,", "name: other,"))
    assert admission.validate(twin) == [
        "spec: Server cart already has this port of these pods; change that one",
    ]
    assert admission.validate({**twin, "metadata": {"name": "other", "namespace": "web"}}) == []
    assert admission.validate(_object(SERVER, ("name: cart,", "name: other,"), ("port: http", "port: admin"))) == []


# ---- the webhook


def _ask(operation: str, value: Any, before: Any = None) -> Any:
    body = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u1",
            "kind": {"group": "policy.linkerd.io", "version": "v1beta3", "kind": "Server"},
            "operation": operation,
            "name": "cart",
            "namespace": "shop",
            "object": value,
            "oldObject": before,
        },
    }
    handlers = {"/": judge(Admission(), silent_log()[0], Metrics())}
    response = respond(Request("POST", "/", msgspec.json.encode(body)), handlers)
    assert isinstance(response, Response)
    return msgspec.json.decode(response.body)["response"]


def test_a_refusal_names_every_mistake_and_is_a_422() -> None:
    wrong = _object(SERVER, ("port: http", "port: 0, proxyProtocol: HTTPS"))
    answer = _ask("CREATE", wrong)
    assert answer["allowed"] is False
    assert answer["status"]["code"] == 422
    assert "spec.port: 0 is not a port" in answer["status"]["message"]
    assert "spec.proxyProtocol: 'HTTPS' is not one of" in answer["status"]["message"]


def test_what_was_stored_wrong_can_still_be_labelled_and_deleted_but_not_changed_to_another_wrong() -> None:
    wrong = _object(SERVER, ("port: http", "port: 0"))
    labelled = {**wrong, "metadata": {**wrong["metadata"], "finalizers": []}}
    answer = _ask("UPDATE", labelled, wrong)
    assert answer["allowed"]
    assert "0 is not a port" in answer["warnings"][0]
    assert _ask("DELETE", None, wrong)["allowed"]
    assert not _ask("UPDATE", _object(SERVER, ("port: http", "port: 70000")), wrong)["allowed"]
