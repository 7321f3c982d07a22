"""What an injected pod has that it had not: init container, proxy, volumes.

    linkerd-init     iptables, as 65534 with NET_ADMIN and NET_RAW for as long as it takes
    linkerd-proxy    the sidecar: a native one (an init container that stays), else the first container
    volumes          a token for the identity service, the trust anchors, a place for iptables' lock

Manifests are plain mappings, as the API server takes them. Containers have a read-only root file system and no
privileges; only the init container gets two capabilities, which no PodSecurity level but `privileged` allows (in
Linkerd as well; its CNI plugin is the way round it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesh.api.values import Probe, Values
from mesh.control.injector.settings import Settings
from mesh.control.names import CONTROL_PLANE_NAMESPACE, identity_name

Manifest = dict[str, Any]

PROXY, INIT = "linkerd-proxy", "linkerd-init"
ADMIN_PORT, TAP_PORT, INBOUND_PORT, OUTBOUND_PORT = 4191, 4190, 4143, 4140
INIT_UID = 65534
ANCHORS_DIR = "/var/run/linkerd/identity/trust-roots"
TOKEN_DIR = "/var/run/secrets/tokens"  # noqa: S105 – a directory
TRUST_ROOTS = "linkerd-identity-trust-roots"
VOLUMES = ("linkerd-identity-token", "linkerd-identity-trust-roots", "linkerd-proxy-init-xtables-lock")
PYTHON_INIT = "/usr/local/bin/python-init"
"""The image's Python with the file capabilities that iptables needs (mesh.Dockerfile)."""
SERVICES = {
    "IDENTITY": ("linkerd-identity", 8080, "linkerd-identity"),
    "DESTINATION": ("linkerd-dst", 8086, "linkerd-destination"),
    "POLICY": ("linkerd-policy", 8090, "linkerd-destination"),
}
"""Of the control plane: service, port, and the service account that it proves."""
TOKEN_SECONDS = 86_400


def init_container(settings: Settings) -> Manifest:
    """Redirects the pod's connections, and ends."""
    arguments = [
        *("--incoming-proxy-port", str(INBOUND_PORT), "--outgoing-proxy-port", str(OUTBOUND_PORT)),
        *("--proxy-uid", str(settings.uid)),
        *(
            "--inbound-ports-to-ignore",
            ",".join(filter(None, (str(TAP_PORT), str(ADMIN_PORT), settings.skip_inbound_ports))),
        ),
    ]
    if settings.gid is not None:
        arguments += ["--proxy-gid", str(settings.gid)]
    if settings.skip_outbound_ports:
        arguments += ["--outbound-ports-to-ignore", settings.skip_outbound_ports]
    if settings.skip_subnets:
        arguments += ["--subnets-to-ignore", settings.skip_subnets]
    arguments += ["--iptables-mode", settings.iptables_mode]
    return {
        "name": INIT,
        "image": f"{settings.image}:{settings.version}",
        "imagePullPolicy": settings.pull_policy,
        "command": [PYTHON_INIT, "-m", "mesh.init"],
        "args": arguments,
        "resources": _resources(settings.init_requests, settings.init_limits),
        "securityContext": _security(INIT_UID, INIT_UID, ("NET_ADMIN", "NET_RAW")),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": VOLUMES[2], "mountPath": "/run"}],
    }


def proxy_container(
    settings: Settings, values: Values, ports: Sequence[int], opaque: str, *, ingress: bool
) -> Manifest:
    """The sidecar. `ports`: those that the pod's containers serve; `opaque`: ports and ranges, without names."""
    proxy = values.proxy
    container: Manifest = {
        "name": PROXY,
        "image": f"{settings.image}:{settings.version}",
        "imagePullPolicy": settings.pull_policy,
        "command": ["python", "-m", "mesh.proxy"],
        "env": environment(settings, values, ports, opaque, ingress=ingress),
        "ports": [
            {"containerPort": INBOUND_PORT, "name": "linkerd-proxy", "protocol": "TCP"},
            {"containerPort": ADMIN_PORT, "name": "linkerd-admin", "protocol": "TCP"},
        ],
        "livenessProbe": _probe("/live", proxy.liveness_probe),
        "readinessProbe": _probe("/ready", proxy.readiness_probe),
        "resources": _resources(settings.requests, settings.limits),
        "securityContext": _security(settings.uid, settings.gid if settings.gid is not None else settings.uid),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": VOLUMES[0], "mountPath": TOKEN_DIR, "readOnly": True},
            {"name": VOLUMES[1], "mountPath": ANCHORS_DIR, "readOnly": True},
        ],
    }
    lifecycle: Manifest = {}
    if settings.native:
        container["restartPolicy"] = "Always"
        container["startupProbe"] = _probe("/ready", proxy.startup_probe)
    elif settings.awaits:
        lifecycle["postStart"] = {"exec": {"command": ["python", "-m", "mesh.proxy.wait", "--timeout=2m"]}}
    if settings.wait_before_exit_seconds:
        lifecycle["preStop"] = {"exec": {"command": ["/bin/sleep", str(settings.wait_before_exit_seconds)]}}
    if lifecycle:
        container["lifecycle"] = lifecycle
    return container


def environment(
    settings: Settings, values: Values, ports: Sequence[int], opaque: str, *, ingress: bool
) -> list[Manifest]:
    """What the proxy reads (`mesh.proxy.config`). What only the kubelet knows comes by the Downward API."""
    found: list[Manifest] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for name, path in (
            ("_pod_name", "metadata.name"),
            ("_pod_ns", "metadata.namespace"),
            ("_pod_ips", "status.podIPs"),
            ("_pod_sa", "spec.serviceAccountName"),
        )
    ]
    domain = values.trust_domain
    texts = {
        "LOG": settings.log_level,
        "ACCESS_LOG": settings.access_log,
        "ADMIN_LISTEN_ADDR": f"0.0.0.0:{ADMIN_PORT}",
        "CONTROL_LISTEN_ADDR": f"0.0.0.0:{TAP_PORT}",
        "OUTBOUND_LISTEN_ADDR": f"127.0.0.1:{OUTBOUND_PORT}",
        "INBOUND_LISTEN_ADDR": f"0.0.0.0:{INBOUND_PORT}",
        "INBOUND_IPS": "$(_pod_ips)",
        "INBOUND_PORTS": ",".join(str(port) for port in ports) or "none",
        "INBOUND_DEFAULT_POLICY": settings.default_inbound_policy,
        "INBOUND_PORTS_REQUIRE_IDENTITY": settings.require_identity_ports,
        "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION": opaque or "none",
        "INBOUND_CONNECT_TIMEOUT": settings.inbound_connect_timeout,
        "INBOUND_DISCOVERY_IDLE_TIMEOUT": settings.inbound_discovery_idle,
        "OUTBOUND_CONNECT_TIMEOUT": settings.outbound_connect_timeout,
        "OUTBOUND_DISCOVERY_IDLE_TIMEOUT": settings.outbound_discovery_idle,
        "SHUTDOWN_GRACE_PERIOD": settings.shutdown_grace_period,
        "SHUTDOWN_ENDPOINT_ENABLED": "true" if settings.shutdown_endpoint else "",
        "INGRESS_MODE": "true" if ingress else "",
        "POLICY_WORKLOAD": '{"ns":"$(_pod_ns)", "pod":"$(_pod_name)"}',
        "POLICY_CLUSTER_NETWORKS": values.cluster_networks,
        "IDENTITY_LOCAL_NAME": identity_name("$(_pod_sa)", "$(_pod_ns)", domain),
        "IDENTITY_TRUST_ANCHORS_FILE": f"{ANCHORS_DIR}/ca-bundle.crt",
        "IDENTITY_MIN_REFRESH": values.identity.issuer.min_refresh,
        "IDENTITY_TOKEN_FILE": f"{TOKEN_DIR}/linkerd-identity-token",
        "TAP_SVC_NAME": identity_name("viz", "linkerd-viz", domain) if values.viz.enabled else "",
    }
    for name, (service, port, account) in SERVICES.items():
        # With its last dot, so that none of the pod's search domains is tried first.
        texts[f"{name}_SVC_ADDR"] = f"{service}.{CONTROL_PLANE_NAMESPACE}.svc.{values.cluster_domain}.:{port}"
        texts[f"{name}_SVC_NAME"] = identity_name(account, CONTROL_PLANE_NAMESPACE, domain)
    found += [{"name": f"LINKERD2_PROXY_{name}", "value": text} for name, text in texts.items() if text]
    return found


def volumes() -> list[Manifest]:
    """The three of them."""
    token = {
        "path": "linkerd-identity-token",
        "expirationSeconds": TOKEN_SECONDS,
        "audience": "identity.l5d.io",
    }
    return [
        {"name": VOLUMES[0], "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": VOLUMES[1], "configMap": {"name": TRUST_ROOTS}},
        {"name": VOLUMES[2], "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]


def _probe(path: str, probe: Probe) -> Manifest:
    found: Manifest = {
        "httpGet": {"path": path, "port": ADMIN_PORT},
        "periodSeconds": probe.period_seconds,
        "timeoutSeconds": probe.timeout_seconds,
        "failureThreshold": probe.failure_threshold,
    }
    if probe.initial_delay_seconds:
        found["initialDelaySeconds"] = probe.initial_delay_seconds
    return found


def _resources(requests: Mapping[str, str], limits: Mapping[str, str]) -> Manifest:
    found = {"requests": dict(requests), "limits": dict(limits)}
    return {name: amounts for name, amounts in found.items() if amounts}


def _security(uid: int, gid: int, capabilities: Sequence[str] = ()) -> Manifest:
    allowed: Manifest = {"drop": ["ALL"]}
    if capabilities:
        allowed["add"] = list(capabilities)
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": allowed,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": gid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
