"""Before the install: may this user create what it consists of, and is the place free?"""

from __future__ import annotations

from functools import partial

from mesh.commands.check.facts import Facts
from mesh.commands.check.judge import Category, Check, Verdict, error

CREATE = (
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "Service",
    "Deployment",
    "ConfigMap",
    "Secret",
)
READ = ("Secret",)
STAYS = ("Namespace", "CustomResourceDefinition")
"""Namespaces have a check of their own; CRDs may outlive an uninstall, with what users wrote."""


def place_is_free(facts: Facts) -> Verdict:
    if facts.namespace_exists:
        text = f'the "{facts.namespace}" namespace already exists'
        return error(
            text, "upgrade what is there with `gameday mesh upgrade`, or remove it with `gameday mesh uninstall`"
        )
    return None


def no_leftovers(facts: Facts) -> Verdict:
    """Objects of the whole cluster that an uninstall forgot, or that another control plane owns."""
    left = [
        ref
        for ref in facts.expected
        if not ref.namespace and ref.kind not in STAYS and ref not in facts.missing and ref.kind not in facts.unread
    ]
    if left:
        text = "\n".join(f"{ref} already exists" for ref in left)
        return error(text, "`gameday mesh uninstall | kubectl delete -f -` removes what an earlier install left")
    return None


def may(what: str, facts: Facts) -> Verdict:
    if not facts.allowed.get(what, False):
        return error(f"not authorized to {what}", "install as a cluster administrator, or ask one for this permission")
    return None


CATEGORY = Category(
    "pre-kubernetes-setup",
    (
        Check("control plane namespace does not already exist", place_is_free, needs=("namespace_exists",)),
        Check("no objects of another install exist", no_leftovers),
        *(Check(f"can create {kind}s", partial(may, f"create {kind}"), needs=("allowed",)) for kind in CREATE),
        *(Check(f"can read {kind}s", partial(may, f"get {kind}"), needs=("allowed",)) for kind in READ),
    ),
)
