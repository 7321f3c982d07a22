"""Values of an install: what `gameday mesh install --set` changes, and what the running mesh reads back.

    install ─► ConfigMap linkerd-config, key `values` (YAML) ─► injector, check, upgrade: `load_values(text)`

Names are those of Linkerd's Helm chart where it has the same thing (`proxy.logLevel`, `proxyInit.ignoreInboundPorts`,
`webhookFailurePolicy`, …), so that a user's values file is at home here. Certificates and keys are not among them: a
ConfigMap is no place for a key.

This stands in `mesh.api` because the injector reads it and may import nothing that is deployed. Reading is lenient
about fields it does not know (an older injector meets newer values in the middle of an upgrade) and strict about those
that it does. What a *user* writes is checked by `mesh.deploy.values`, field by field, with suggestions.
"""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

VERSION = "0.1.0"
"""Of the mesh: the image's tag and the `linkerd.io/proxy-version` of injected pods. pyproject.toml says the same."""

CONFIG_MAP = "linkerd-config"
CONFIG_KEY = "values"


class InvalidValues(ValueError):
    """Values that cannot be used; the text names the field, what it may be, and the nearest known name."""


class Section(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base: camelCase on the wire, as in Helm."""


class Quantity(Section, frozen=True, kw_only=True):
    """What a container asks for and may use; empty: not said. Kubernetes quantities: 100m, 250Mi."""

    request: str = ""
    limit: str = ""


class Resources(Section, frozen=True, kw_only=True):
    """Unset by default as in Linkerd: a small cluster must be able to schedule the mesh. --ha sets them."""

    cpu: Quantity = Quantity()
    memory: Quantity = Quantity()


class Component(Section, frozen=True, kw_only=True):
    """What every part of the control plane has."""

    resources: Resources = Resources()


class Image(Section, frozen=True, kw_only=True):
    """One image serves control plane, sidecar and init container: a node pulls it once."""

    name: str = "gameday/mesh"
    """Repository, with registry where it is not the node's default."""
    version: str = VERSION
    """Tag. Never `latest`: a node that has an old `latest` keeps it."""
    pull_policy: str = "IfNotPresent"
    """Always, IfNotPresent or Never. IfNotPresent lets an image that was loaded into kind be used."""


class Issuer(Section, frozen=True, kw_only=True):
    """What identity signs leaves with, and for how long."""

    issuance_lifetime: str = "24h"
    """Duration; life of a leaf. Linkerd's. Drills scale it down to seconds; nothing else about certificates changes."""
    clock_skew_allowance: str = "20s"
    """Duration; a leaf is valid this much earlier and later, for nodes whose clocks differ. Linkerd's."""
    min_refresh: str = "10s"
    """Duration; proxies and control plane ask for no new leaf before. Linkerd's. Drills scale it with the life."""
    external: bool = False
    """The Secret linkerd-identity-issuer is somebody else's (cert-manager, step): install neither makes nor removes it.
    Linkerd's `--identity-external-issuer`."""


class Identity(Component, frozen=True, kw_only=True):
    issuer: Issuer = Issuer()
    external_ca: bool = msgspec.field(name="externalCA", default=False)
    """The ConfigMap linkerd-identity-trust-roots is somebody else's (trust-manager): install does not make it."""


class Injector(Component, frozen=True, kw_only=True):
    """The mutating webhook."""

    timeout_seconds: int = 10
    """Seconds that the API server waits for it. Linkerd's; Kubernetes allows 1 to 30."""
    excluded_namespaces: tuple[str, ...] = ("kube-system", "cert-manager")
    """Namespaces whose pods never wait for the injector, beside the mesh's own: what the cluster itself needs to come
    up must not depend on it (linkerd2 #6530). Linkerd's two."""


class Probe(Section, frozen=True, kw_only=True):
    """How the kubelet asks the proxy's admin port. Times in seconds."""

    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    failure_threshold: int = 3


class Proxy(Section, frozen=True, kw_only=True):
    """Defaults of the sidecar; annotations `config.linkerd.io/*` of a namespace or pod say otherwise."""

    uid: int = 2102
    """User the sidecar runs as; its own traffic is told from the app's by it. Linkerd's."""
    log_level: str = "warn,linkerd=info"
    """Filter as of RUST_LOG. Linkerd's, less the parts that only its proxy has."""
    resources: Resources = Resources()
    default_inbound_policy: str = "all-unauthenticated"
    """Who may call a port that no Server selects. Linkerd's: injection must not cut off un-meshed clients."""
    opaque_ports: str = "25,587,3306,4444,5432,6379,9300,11211"
    """Ports and ranges, comma-separated, never looked into: protocols whose server speaks first, or that look like
    nothing else. Linkerd's."""
    outbound_connect_timeout: str = "1s"
    """Duration. Linkerd's."""
    inbound_connect_timeout: str = "100ms"
    """Duration; the app is in the same pod. Linkerd's chart."""
    outbound_discovery_cache_unused_timeout: str = "5s"
    """Duration; an idle destination is forgotten after it. Linkerd's."""
    inbound_discovery_cache_unused_timeout: str = "90s"
    """Duration. Linkerd's."""
    shutdown_grace_period: str = "120s"
    """Duration; open connections may end within it after SIGTERM. Linkerd's."""
    wait_before_exit_seconds: int = 0
    """Seconds of sleep in preStop, for load balancers that are slow to notice. Only without native sidecars."""
    native_sidecar: bool = True
    """An init container with `restartPolicy: Always`: it starts before the app, ends after it, and Jobs end. Needs
    Kubernetes 1.29. Linkerd's default since 2.20."""
    await_ready: bool = msgspec.field(name="await", default=True)
    """Without native sidecars: the app's containers start only once the proxy is ready."""
    access_log: str = ""
    """apache, json, or empty for none."""
    enable_shutdown_endpoint: bool = False
    """POST /shutdown on the admin port, from loopback. Off as in Linkerd."""
    startup_probe: Probe = Probe(period_seconds=1, failure_threshold=120)
    """Of native sidecars: two minutes until the first certificate. Linkerd's."""
    liveness_probe: Probe = Probe(initial_delay_seconds=10)
    readiness_probe: Probe = Probe(initial_delay_seconds=2)


class ProxyInit(Section, frozen=True, kw_only=True):
    """The init container that redirects a pod's traffic to its sidecar."""

    ignore_inbound_ports: str = "4567,4568"
    """Ports and ranges, comma-separated, that are not redirected. Linkerd's (Galera's replication)."""
    ignore_outbound_ports: str = "4567,4568"
    """The same for connections that the pod opens."""
    skip_subnets: str = ""
    """Source networks, comma-separated, whose connections are not redirected inbound."""
    iptables_mode: str = "nft"
    """nft, or legacy for nodes whose kernel has no nf_tables. nft as Linkerd."""
    log_level: str = "info"
    """debug, info, warn or error."""
    resources: Resources = Resources()


class Viz(Component, frozen=True, kw_only=True):
    """stat, top, tap, edges, routes and the dashboard, in the namespace linkerd-viz."""

    enabled: bool = True
    """On: without it nothing tells whether the mesh works. It needs one pod."""
    scrape_interval: str = "5s"
    """Duration between two looks at each proxy's metrics; what `stat` shows is at most this old."""


class NetworkPolicies(Section, frozen=True, kw_only=True):
    """What may reach the mesh's own pods, and what they may reach. They say nothing about users' pods."""

    enabled: bool = True
    """Off where the network plugin is known to mishandle them, or others write them."""
    api_server_ports: str = "443,6443"
    """Ports, comma-separated, on which the API server is reached: its Service's, and its own behind that."""


class Values(Section, frozen=True, kw_only=True):
    """Every value of an install."""

    version: str = VERSION
    """Of what wrote these values, set by install and upgrade. An upgrade moves the image's tag on where it was this."""
    image: Image = Image()
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in linkerd and linkerd-viz for a private registry."""
    trust_domain: str = msgspec.field(name="identityTrustDomain", default="cluster.local")
    """DNS name; the end of every identity. Changing it renames every workload: all proxies must restart."""
    cluster_domain: str = "cluster.local"
    """DNS name; the end of Services' names in this cluster."""
    cluster_networks: str = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8"
    """CIDRs, comma-separated, of pods, Services and nodes: whom the `cluster-…` policies let in, and what is not
    egress. Linkerd's: all private networks."""
    high_availability: bool = False
    """Several replicas on different nodes and zones, disruption budgets. Set by --ha, together with `HA`."""
    controller_replicas: int = 1
    """Pods of each part of the control plane."""
    controller_log_level: str = "info"
    """debug, info, warn or error."""
    webhook_failure_policy: str = "Ignore"
    """Ignore: with the injector down, pods start without a sidecar. Fail: they do not start. Linkerd's default; --ha
    sets Fail."""
    node_selector: dict[str, str] = msgspec.field(default_factory=lambda: {"kubernetes.io/os": "linux"})
    """Labels of nodes that may run the mesh's own pods."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Taints that the mesh's own pods put up with, as in a pod's spec."""
    identity: Identity = Identity()
    destination: Component = Component()
    """The container that streams endpoints and profiles."""
    policy_controller: Component = Component()
    """The container beside it that streams policy, admits policy resources and writes the status of routes."""
    proxy_injector: Injector = Injector()
    proxy: Proxy = Proxy()
    proxy_init: ProxyInit = ProxyInit()
    viz: Viz = Viz()
    network_policies: NetworkPolicies = NetworkPolicies()
    install_gateway_api: bool = msgspec.field(name="installGatewayAPI", default=False)
    """HTTPRoute and GRPCRoute of gateway.networking.k8s.io. Off: the cluster's gateway brings its own, and two owners
    of one CRD undo each other."""


HA: dict[str, Any] = {
    "highAvailability": True,
    "controllerReplicas": 3,
    "webhookFailurePolicy": "Fail",
    "identity": {"resources": {"cpu": {"request": "100m"}, "memory": {"request": "64Mi", "limit": "250Mi"}}},
    "destination": {"resources": {"cpu": {"request": "100m"}, "memory": {"request": "64Mi", "limit": "250Mi"}}},
    "policyController": {"resources": {"cpu": {"request": "100m"}, "memory": {"request": "64Mi", "limit": "250Mi"}}},
    "proxyInjector": {"resources": {"cpu": {"request": "100m"}, "memory": {"request": "64Mi", "limit": "250Mi"}}},
    "viz": {"resources": {"cpu": {"request": "100m"}, "memory": {"request": "64Mi", "limit": "500Mi"}}},
    "proxy": {"resources": {"cpu": {"request": "100m"}, "memory": {"request": "48Mi", "limit": "250Mi"}}},
}
"""What --ha changes: Linkerd's values-ha.yaml, with more memory asked for, as these processes are Python."""


def load_values(text: str) -> Values:
    """The values in `linkerd-config`.

    Raises:
        InvalidValues: not YAML, or a known field has a value of another type.
    """
    try:
        return msgspec.convert(yaml.safe_load(text) or {}, Values)
    except yaml.YAMLError as error:
        raise InvalidValues(f"{CONFIG_MAP}: not YAML ({' '.join(str(error).split())})") from None
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise InvalidValues(f"{CONFIG_MAP}: {where.strip('`').removeprefix('$.') or 'values'}: {message}") from None


def dump_values(values: Values) -> str:
    """YAML that `load_values` reads back. Every field is written: a new default does not change an old install."""
    return yaml.safe_dump(msgspec.to_builtins(values), sort_keys=True, width=120)
