"""Annotations of a pod and its namespace → `InboundPolicy`: who may call a workload's port."""

from __future__ import annotations

from mesh.api.messages import InboundPolicy
from mesh.api.resources import Namespace, Pod
from mesh.behavior.authz import default_inbound_policy
from mesh.control.translate.annotations import suggestion
from mesh.control.translate.problems import Complain, annotation, ignore_problems

DEFAULT_INBOUND_POLICY = "config.linkerd.io/default-inbound-policy"
POLICIES = (
    "all-unauthenticated",
    "all-authenticated",
    "cluster-unauthenticated",
    "cluster-authenticated",
    "deny",
    "audit",
)
CLUSTER_DEFAULT = POLICIES[0]


def inbound_policy_message(
    pod: Pod | None,
    namespace: Namespace | None,
    version: int,
    published_at: float,
    complain: Complain = ignore_problems,
) -> InboundPolicy:
    """The pod's annotation, else its namespace's, else the cluster's default.

    A pod that the registry does not know gets the default: its proxy asks before its Pod object may have arrived.
    """
    for resource in (pod, namespace):
        value = resource.metadata.annotations.get(DEFAULT_INBOUND_POLICY) if resource is not None else None
        if value is None:
            continue
        if value in POLICIES:
            return default_inbound_policy(value, version=version, published_at=published_at)
        complain(
            annotation(DEFAULT_INBOUND_POLICY),
            f"{value!r} is not one of {', '.join(POLICIES)}" + suggestion(value, POLICIES),
        )
    return default_inbound_policy(CLUSTER_DEFAULT, version=version, published_at=published_at)
