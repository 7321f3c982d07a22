"""What the checks judge: everything that was learned about a cluster, as plain values.

A fact that could not be learned (no permission, no answer) is named in `Facts.unknown` with the reason; checks that
need it say so instead of guessing. Nothing here knows Kubernetes' API: a test writes the facts that it wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.values import Values
from mesh.commands.cluster import LINKERD_NAMESPACE, VIZ_NAMESPACE

CLOCK_SKEW_SECONDS = 20.0
"""`identity.issuer.clockSkewAllowance`, Linkerd's default: what a leaf tolerates of clocks that differ."""


class Ref(NamedTuple):
    """One object of the cluster."""

    kind: str
    name: str
    namespace: str = ""
    """Empty: of the cluster."""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    name: str
    ahead_seconds: float | None = None
    """Its clock minus the API server's; None: no lease to tell it by."""
    networks: tuple[str, ...] = ()
    """Its podCIDRs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A deployment of the control plane or of an extension."""

    name: str
    wanted: int = 1
    ready: int = 1
    message: str = ""
    """What Kubernetes says of a rollout that does not get on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of the control plane, of an extension or of the data plane."""

    name: str
    namespace: str = LINKERD_NAMESPACE
    phase: str = "Running"
    containers: Mapping[str, bool] = field(default_factory=dict)
    """Readiness by name; sidecars among the init containers included."""
    trouble: str = ""
    """Why it does not get ready: `container policy: CrashLoopBackOff: …`, `Unschedulable: 0/1 nodes …`."""
    unschedulable: bool = False
    proxy_version: str = ""
    """Annotation `linkerd.io/proxy-version`; empty: not meshed."""
    trust_root_sha256: str = ""
    """Annotation: SHA-256 of the bundle that the injector gave it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    """Named container ports."""
    image_version: str = ""
    """Tag of the mesh's image in it."""
    ip: str = ""
    bypassing: tuple[str, ...] = ()
    """Containers with the proxy's own user id: interception takes their connections for the proxy's."""

    @property
    def place(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def ready(self) -> bool:
        return self.phase == "Running" and all(self.containers.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """What a data-plane proxy says of itself."""

    pod: Pod
    metrics: Mapping[str, float] | None = None
    """Those without labels that checks read; None: the admin port did not answer."""
    unreachable: str = ""
    """Why it did not."""
    chain_pem: str = ""
    """The certificates that it shows in a handshake now, leaf first; empty: no handshake was had."""
    handshake: str = ""
    """Why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    name: str
    namespace: str
    selector: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[int, int | str] = field(default_factory=dict)
    """Port → target port."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """One admission webhook: who is called, and which certificates vouch for it."""

    name: str
    """As people call it: `proxy-injector`."""
    configured: bool = True
    ca_bundle_pem: str = ""
    """Of the webhook configuration."""
    serving_pem: str = ""
    """Certificates in the Secret that the server serves from; empty: no such Secret, or nothing in it."""
    secret: str = ""
    key_matches: bool = True
    hosts: tuple[str, ...] = ()
    """Names by which the API server calls it."""
    failure_policy: str = "Ignore"
    trial: str | None = None
    """What came of calling it (a dry run): empty: it did its work; else what went wrong. None: not tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The certificate that one server of the control plane shows in a handshake now."""

    component: str
    """Container, or `policy-validator`."""
    pod: str
    chain_pem: str = ""
    """Leaf first; empty: no handshake was had."""
    problem: str = ""
    """Why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A replica of the trust anchors in a namespace with meshed pods."""

    namespace: str
    pem: str | None
    """None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Viz:
    """The viz extension, where it is installed."""

    components: tuple[Component, ...] = ()
    pods: tuple[Pod, ...] = ()
    missing: tuple[Ref, ...] = ()
    answer: str | None = None
    """What asking its API came to: empty: it answers; None: not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything known of one cluster at one time."""

    now: float
    """Unix seconds, of this machine."""
    client_version: str
    namespace: str = LINKERD_NAMESPACE
    viz_namespace: str = VIZ_NAMESPACE
    data_namespace: str | None = None
    """The one to which the data-plane checks are limited."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Name of a field here, or `node_clocks` → why it could not be learned."""

    unreachable: str = ""
    """Why the API does not answer; empty: it does."""
    kubernetes_version: str = ""
    api_ahead_seconds: float | None = None
    """The API server's clock minus ours."""
    nodes: tuple[Node, ...] = ()
    allowed: Mapping[str, bool] = field(default_factory=dict)
    """`create ClusterRole` → whether we may."""

    namespace_exists: bool = True
    values: Values | None = None
    """Install values of ConfigMap linkerd-config; None: there is none."""
    values_problem: str = ""
    """Why they cannot be read."""
    expected: tuple[Ref, ...] = ()
    """What an install with these values has."""
    missing: frozenset[Ref] = frozenset()
    """What of it there is not."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Kinds of which we may not know whether they are there → why."""
    altered: Mapping[Ref, str] = field(default_factory=dict)
    """RBAC objects that say less than they were installed with → what is gone."""
    components: tuple[Component, ...] = ()
    pods: tuple[Pod, ...] = ()
    """Of the control plane."""
    pod_ips: Mapping[str, str] = field(default_factory=dict)
    """Address → pod, of all pods that have one of their own."""
    service_ips: Mapping[str, str] = field(default_factory=dict)

    anchors_pem: str | None = None
    """ConfigMap linkerd-identity-trust-roots; None: there is none."""
    issuer_pem: str | None = None
    """`tls.crt` of Secret linkerd-identity-issuer; None: there is none."""
    issuer_key_matches: bool = True
    """Whether `tls.key` is that certificate's."""
    webhooks: tuple[Webhook, ...] = ()
    served: tuple[Served, ...] = ()
    """By every ready server of the control plane."""

    proxies: tuple[Proxy, ...] = ()
    """Of the data plane."""
    services: tuple[Service, ...] = ()
    """In namespaces with meshed pods."""
    data_pods: tuple[Pod, ...] = ()
    """All pods in those namespaces, meshed or not."""
    unmeshed: tuple[str, ...] = ()
    """Running pods, `namespace/name`, that the injector would have given a proxy and that have none."""
    bundles: tuple[Bundle, ...] = ()
    data_namespace_exists: bool = True
    viz: Viz | None = None
    """None: not installed."""

    @property
    def clock_skew_seconds(self) -> float:
        """How far clocks may differ."""
        try:
            return parse_duration((self.values or Values()).identity.issuer.clock_skew_allowance)
        except InvalidDuration:
            return CLOCK_SKEW_SECONDS
