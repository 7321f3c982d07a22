"""What each control-plane component may do, as RBAC rules: the least that its code calls. Deployment renders them.

`CLUSTER` become ClusterRoles, `NAMESPACE` Roles in the control plane's namespace. Components are the service accounts
(`linkerd-identity`, `linkerd-destination`), so destination and policy, two containers of one pod, share their rules.

Secrets can be read in the control plane's own namespace only, and there by name. RBAC cannot restrict `create` by name
(there is none yet), and lists and watches by name only where the request selects `metadata.name`, as ours do.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.kube import kinds
from mesh.kube.kinds import Kind

READ = ("get", "list", "watch")

TRUST_ROOTS = "linkerd-identity-trust-roots"
"""ConfigMap with the trust anchors, and its replicas in the namespaces of injected pods."""
ISSUER = "linkerd-identity-issuer"
"""Secret with the issuer's certificate and key."""
IDENTITY_LEASE = "linkerd-identity"
"""Lease of the identity replica that replicates the trust anchors."""
POLICY_LEASE = "linkerd-policy-controller"
"""Lease of the policy replica that writes statuses."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a Role."""

    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    """Objects it is limited to; empty: all."""

    def manifest(self) -> dict[str, object]:
        """As in a Role's `rules`."""
        rule: dict[str, object] = {
            "apiGroups": list(self.groups),
            "resources": list(self.resources),
            "verbs": list(self.verbs),
        }
        if self.names:
            rule["resourceNames"] = list(self.names)
        return rule


def _rules(found: tuple[Kind, ...], verbs: tuple[str, ...], subresource: str = "") -> tuple[Rule, ...]:
    """One rule for each API group."""
    groups: dict[str, list[str]] = {}
    for kind in found:
        plural = kind.plural + subresource
        if plural not in groups.setdefault(kind.group, []):
            groups[kind.group].append(plural)
    return tuple(Rule((group,), tuple(plurals), verbs) for group, plurals in groups.items())


_EVENTS = Rule(("",), ("events",), ("create", "patch"))

CLUSTER: dict[str, tuple[Rule, ...]] = {
    "linkerd-identity": (
        Rule((kinds.TOKEN_REVIEW.group,), (kinds.TOKEN_REVIEW.plural,), ("create",)),
        _EVENTS,
        Rule(("",), ("namespaces", "pods"), READ),
        Rule(("",), ("configmaps",), (*READ, "update", "delete"), (TRUST_ROOTS,)),
        Rule(("",), ("configmaps",), ("create",)),
    ),
    "linkerd-destination": (
        *_rules((*kinds.CORE_KINDS, *kinds.MESH_KINDS, *kinds.FOREIGN_KINDS), READ),
        *_rules(
            (
                kinds.POLICY_HTTP_ROUTE,
                kinds.RATE_LIMIT_POLICY,
                kinds.EGRESS_NETWORK,
                kinds.GATEWAY_HTTP_ROUTE,
                kinds.GRPC_ROUTE,
            ),
            ("patch",),
            "/status",
        ),
    ),
}
"""Rules for the whole cluster, by service account."""

NAMESPACE: dict[str, tuple[Rule, ...]] = {
    "linkerd-identity": (
        Rule(("",), ("secrets",), READ, (ISSUER,)),
        Rule((kinds.LEASE.group,), ("leases",), ("get", "update"), (IDENTITY_LEASE,)),
        Rule((kinds.LEASE.group,), ("leases",), ("create",)),
    ),
    "linkerd-destination": (
        Rule((kinds.LEASE.group,), ("leases",), ("get", "update"), (POLICY_LEASE,)),
        Rule((kinds.LEASE.group,), ("leases",), ("create",)),
    ),
}
"""Rules for the control plane's own namespace, by service account."""
