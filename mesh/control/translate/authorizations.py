"""One resource at a time: what it grants or limits, in the words of the messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.api.messages import AuthorizationSpec, NetworkSpec, RateLimitOverride, RateLimitSpec
from mesh.api.resources import (
    HTTPLocalRateLimitPolicy,
    LabelSelector,
    MeshTLSAuthentication,
    NetworkRef,
    ServerAuthorization,
    TargetRef,
)
from mesh.behavior.authz import CLUSTER_NETWORKS, DEFAULT_POLICIES, parse_network
from mesh.control.names import CONTROL_PLANE_NAMESPACE, DEFAULT_CLUSTER_DOMAIN, DEFAULT_TRUST_DOMAIN, identity_name
from mesh.control.translate.problems import FieldPath

GROUP = "policy.linkerd.io"
CLUSTER_DEFAULT = DEFAULT_POLICIES[0]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What holds for the whole cluster."""

    trust_domain: str = DEFAULT_TRUST_DOMAIN
    """End of identities' names."""
    domain: str = DEFAULT_CLUSTER_DOMAIN
    """End of Services' names."""
    networks: tuple[str, ...] = CLUSTER_NETWORKS
    """For the `cluster-…` policies and for ServerAuthorizations without networks."""
    default_policy: str = CLUSTER_DEFAULT
    detect_timeout: float = 10.0
    """Seconds."""


class Unusable(Exception):
    """A resource that grants nothing, and why."""

    def __init__(self, path: FieldPath, message: str) -> None:
        super().__init__(message)
        self.path = path


def is_kind(ref: TargetRef, kind: str, group: str) -> bool:
    """Whether `ref` names that kind; case does not matter, and the core group is also written empty."""
    given = "" if ref.group.lower() == "core" else ref.group.lower()
    return ref.kind.lower() == kind.lower() and given == group


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether a resource with these labels is selected."""
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    for requirement in selector.match_expressions:
        has = requirement.key in labels
        match requirement.operator:
            case "In":
                met = has and labels[requirement.key] in requirement.values
            case "NotIn":
                met = not has or labels[requirement.key] not in requirement.values
            case "Exists":
                met = has
            case "DoesNotExist":
                met = not has
            case _:
                met = False
        if not met:
            return False
    return True


def once(known: tuple[str, ...] | None, found: tuple[str, ...], path: FieldPath) -> tuple[str, ...]:
    """`found`, where nothing of the kind was `known`. Raises Unusable."""
    if known is not None:
        raise Unusable(path, "only one MeshTLSAuthentication or ServiceAccount may be required")
    return found


def server_authorization(resource: ServerAuthorization, cluster: Cluster) -> AuthorizationSpec:
    """Raises Unusable: it lets nobody in."""
    client = resource.spec.client
    path: FieldPath = ("spec", "client")
    networks = network_specs(client.networks, (*path, "networks"))
    if not networks:
        networks = tuple(NetworkSpec(cidr=cidr) for cidr in cluster.networks)
    common = {"kind": "serverauthorization", "name": resource.metadata.name, "networks": networks}
    if client.unauthenticated:
        return AuthorizationSpec(client="unauthenticated", **common)  # type: ignore[arg-type]
    mesh_tls = client.mesh_tls
    if mesh_tls is None:
        raise Unusable(path, "lets nobody in; say unauthenticated: true or meshTLS")
    if mesh_tls.unauthenticated_tls:
        return AuthorizationSpec(client="mesh-tls", **common)  # type: ignore[arg-type]
    own = resource.metadata.namespace
    accounts = (identity_name(a.name, a.namespace or own, cluster.trust_domain) for a in mesh_tls.service_accounts)
    identities = (*mesh_tls.identities, *accounts)
    if not identities:
        raise Unusable((*path, "meshTLS"), "lets nobody in; name identities or serviceAccounts")
    return AuthorizationSpec(identities=identities, **common)  # type: ignore[arg-type]


def mesh_tls_identities(resource: MeshTLSAuthentication, cluster: Cluster) -> tuple[str, ...]:
    """The patterns of identities that it stands for."""
    names = list(resource.spec.identities)
    for ref in resource.spec.identity_refs:
        if is_kind(ref, "ServiceAccount", ""):
            names.append(identity_name(ref.name, ref.namespace or resource.metadata.namespace, cluster.trust_domain))
        elif is_kind(ref, "Namespace", ""):
            suffix = f"serviceaccount.identity.{CONTROL_PLANE_NAMESPACE}.{cluster.trust_domain}"
            names.append(f"*.{ref.name}.{suffix}")
    return tuple(names)


def network_specs(refs: Iterable[NetworkRef], path: FieldPath) -> tuple[NetworkSpec, ...]:
    """Raises Unusable where one is no network."""
    for index, ref in enumerate(refs):
        places = [("cidr", ref.cidr, ())] + [("except", text, (i,)) for i, text in enumerate(ref.except_)]
        for name, text, rest in places:
            try:
                parse_network(text)
            except ValueError:
                message = f"{text!r} is not a network; write an address or CIDR such as 10.0.0.0/8"
                raise Unusable((*path, index, name, *rest), message) from None
    return tuple(NetworkSpec(cidr=ref.cidr, except_=ref.except_) for ref in refs)


def rate_limit(policy: HTTPLocalRateLimitPolicy, cluster: Cluster) -> RateLimitSpec:
    """What the proxy is told of it."""
    spec, own = policy.spec, policy.metadata.namespace
    return RateLimitSpec(
        name=policy.metadata.name,
        total=spec.total.requests_per_second if spec.total is not None else None,
        identity=spec.identity.requests_per_second if spec.identity is not None else None,
        overrides=tuple(
            RateLimitOverride(
                requests_per_second=override.requests_per_second,
                identities=tuple(
                    identity_name(ref.name, ref.namespace or own, cluster.trust_domain) for ref in override.client_refs
                ),
            )
            for override in spec.overrides
        ),
    )
