"""The admission webhooks: their configuration, the certificates on both sides, and a trial of each.

A trial is a dry run through the API server, which calls the webhook as for any object and stores nothing: a pod that
asks to be injected, and a policy that must be refused. It is the only question whose answer says that the whole way
works: Service, network, TLS, the server and its permissions.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from mesh.api.resources import LabelSelector
from mesh.commands.check.facts import Webhook
from mesh.commands.check.identity_facts import secret_pem
from mesh.commands.check.reader import Json, Reader, Refused
from mesh.control.translate.authorizations import selects
from mesh.deploy.paths import path_of

PROXY = "linkerd-proxy"
TRIAL_NAME = "gameday-mesh-check"
TRIAL_NAMESPACE = "default"
"""Every cluster has it, and nothing stays in it."""
_KINDS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def learn(reader: Reader, namespace: str, expected: list[Json]) -> tuple[Webhook, ...]:
    """One for each webhook configuration that the install has. Raises Unlearned."""
    trials = {"proxy-injector": _try_injector, "policy-validator": _try_validator}
    found = []
    for manifest in expected:
        if manifest["kind"] not in _KINDS:
            continue
        service = manifest["webhooks"][0]["clientConfig"]["service"]["name"]
        name = service.removeprefix("linkerd-")
        actual = reader.get(path_of(manifest))
        if actual is None or not actual.get("webhooks"):
            found.append(Webhook(name=name, configured=False))
            continue
        secret = f"{service}-k8s-tls"
        serving, key_matches = secret_pem(reader.get(f"/api/v1/namespaces/{namespace}/secrets/{secret}"))
        trial = trials.get(name)
        webhook = actual["webhooks"][0]
        found.append(
            Webhook(
                name=name,
                ca_bundle_pem=_text(webhook["clientConfig"].get("caBundle")),
                serving_pem=serving or "",
                secret=secret,
                key_matches=key_matches,
                hosts=(f"{service}.{namespace}.svc",),
                failure_policy=webhook.get("failurePolicy", "Fail"),
                trial=trial(reader, TRIAL_NAMESPACE) if trial is not None and _looks_there(reader, webhook) else None,
            )
        )
    return tuple(found)


def _looks_there(reader: Reader, webhook: Json) -> bool:
    """Whether the webhook's selector has it look at the namespace of the trial at all."""
    labels = ((reader.get(f"/api/v1/namespaces/{TRIAL_NAMESPACE}") or {}).get("metadata") or {}).get("labels") or {}
    try:
        selector = msgspec.convert(webhook.get("namespaceSelector") or {}, LabelSelector)
    except msgspec.ValidationError:
        return False
    return selects(selector, labels)


def _try_injector(reader: Reader, namespace: str) -> str | None:
    container = {
        "name": "app",
        "image": "gameday.dev/check",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": TRIAL_NAME, "annotations": {"linkerd.io/inject": "enabled"}},
        "spec": {"containers": [container]},
    }
    try:
        answer = reader.request("POST", f"/api/v1/namespaces/{namespace}/pods", {"dryRun": "All"}, pod)
    except Refused as error:
        # Refused for another reason (a quota, PodSecurity, no permission) says nothing about the webhook.
        return str(error) if _about_webhook(error) else None
    spec = answer["spec"]
    names = {container["name"] for container in [*spec["containers"], *(spec.get("initContainers") or [])]}
    if PROXY in names:
        return ""
    return f"a pod in {namespace} annotated linkerd.io/inject=enabled came back without a {PROXY}"


def _try_validator(reader: Reader, namespace: str) -> str | None:
    policy = {
        "apiVersion": "policy.linkerd.io/v1alpha1",
        "kind": "NetworkAuthentication",
        "metadata": {"name": TRIAL_NAME},
        "spec": {"networks": [{"cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"]}]},
    }
    place = f"/apis/policy.linkerd.io/v1alpha1/namespaces/{namespace}/networkauthentications"
    try:
        reader.request("POST", place, {"dryRun": "All"}, policy)
    except Refused as error:
        if "denied the request" in str(error):
            return ""
        return str(error) if _about_webhook(error) else None
    return "a NetworkAuthentication whose exception is outside of its network was accepted"


def _about_webhook(error: Refused) -> bool:
    return "failed calling webhook" in str(error)


def _text(encoded: str | None) -> str:
    try:
        return base64.b64decode(encoded or "", validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return ""
