"""Our mesh around the proxies that are measured: a control plane of its own process, and the manifests it reads.

Everything that a mesh has on is on: discovery, an HTTPRoute with rules, retries and timeouts armed, failure accrual,
and for the workload a Server that only an AuthorizationPolicy opens. The same manifests serve all rows and harnesses.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chain import NAMES, NAMESPACE
from benchmarks.machine import Command
from benchmarks.ports import free_ports
from mesh.control.names import component_name

FEATURES = (
    "discovery, HTTPRoute of three rules, retries (5xx, twice, with timeouts) and failure accrual armed, peak-EWMA"
    " balancing, all metrics and a scrape each second, a Server with an AuthorizationPolicy"
)
COMPONENTS = ("identity", "destination", "policy")
ANNOTATIONS = {
    "retry.linkerd.io/http": "5xx",
    "retry.linkerd.io/grpc": "unavailable",
    "retry.linkerd.io/limit": "2",
    "retry.linkerd.io/timeout": "10s",
    "timeout.linkerd.io/request": "60s",
    "balancer.linkerd.io/failure-accrual": "consecutive",
}


@dataclass(frozen=True, slots=True)
class Pod:
    """A replica of the application. `inbound`: `ip:port` of its proxy; None: it has none."""

    name: str
    address: str
    port: int
    inbound: str | None


class Mesh:
    """Addresses and files of one control plane. `directory` holds the credentials (`chain.write_credentials`)."""

    def __init__(self, directory: Path, *, leaf_lifetime: str = "24h", min_refresh: str = "10s") -> None:
        self.directory = directory
        self._ports = dict(zip(COMPONENTS, free_ports(len(COMPONENTS)), strict=True))
        self._leaf_lifetime, self._min_refresh = leaf_lifetime, min_refresh
        self._registry = directory / "registry"
        self._registry.mkdir()

    def control(self) -> Command:
        """identity, destination and policy in one process; listening means that it serves."""
        argv = [sys.executable, "-m", "mesh.control", "all", "--log-level", "error"]
        for component, admin in zip(COMPONENTS, free_ports(len(COMPONENTS)), strict=True):
            argv += [f"--{component}-listen", f"127.0.0.1:{self._ports[component]}"]
            argv += [f"--{component}-admin", f"127.0.0.1:{admin}"]
        argv += ["--trust-anchors", str(self.directory / "anchor.pem"), "--issuer", str(self.directory / "issuer")]
        argv += ["--token-key", str(self.directory / "token.pub")]
        argv += ["--leaf-lifetime", self._leaf_lifetime, "--clock-skew", "1s"]
        for component in ("destination", "policy"):
            argv += [f"--{component}-token", str(self.directory / f"{component}.token")]
        return Command([*argv, "--registry", str(self._registry)], self._ports["policy"])

    def proxy(
        self, place: str, *, inbound: int, outbound: int, admin: int, app: int, module: str = "mesh.proxy"
    ) -> Command:
        """The proxy of pod `place`; it listens on every address of the machine, as in a pod."""
        values = {
            "INBOUND_LISTEN_ADDR": f"0.0.0.0:{inbound}",
            "OUTBOUND_LISTEN_ADDR": f"127.0.0.1:{outbound}",
            "ADMIN_LISTEN_ADDR": f"127.0.0.1:{admin}",
            "INBOUND_APP_ADDR": f"127.0.0.1:{app}",
            "SHUTDOWN_GRACE_PERIOD": "1s",
            "POLICY_WORKLOAD": json.dumps({"ns": NAMESPACE, "pod": place}),
            "IDENTITY_TRUST_ANCHORS": (self.directory / "anchor.pem").read_text(),
            "IDENTITY_LOCAL_NAME": NAMES[place],
            "IDENTITY_TOKEN_FILE": str(self.directory / f"{place}.token"),
            "IDENTITY_MIN_REFRESH": self._min_refresh,
        }
        for component, port in self._ports.items():
            values[f"{component.upper()}_SVC_ADDR"] = f"127.0.0.1:{port}"
            values[f"{component.upper()}_SVC_NAME"] = component_name(component)
        environment = {f"LINKERD2_PROXY_{name}": value for name, value in values.items()}
        listen = outbound if place == "a" else inbound
        return Command([sys.executable, "-m", module], listen, environment)

    # ---- what its registry says

    def write_service(self, pods: Sequence[Pod], *, protocol: str = "unknown", request_timeout: str = "60s") -> None:
        """The whole application: Service, route, pods and who may call them. `protocol`: the Server's."""
        annotations = {**ANNOTATIONS, "timeout.linkerd.io/request": request_timeout}
        ports = [{"port": 80, "name": "http"}]
        self._write("namespace", "v1", "Namespace", NAMESPACE)
        self._write("service", "v1", "Service", "app", {"ports": ports}, annotations=annotations)
        for place in NAMES:
            self._write_pod(place, place, {"linkerd.io/proxy-version": "bench"})
        for pod in pods:
            if pod.inbound is not None:
                mark = {"linkerd.io/proxy-version": "bench", "gameday.dev/inbound-address": pod.inbound}
                self._write_pod(pod.name, "b", mark)
        self.write_endpoints(pods)
        rules = [
            {"matches": [{"path": {"type": "PathPrefix", "value": path}}], "timeouts": {"request": "10s"}}
            for path in ("/orders", "/carts/", "/")
        ]
        parent = {"group": "core", "kind": "Service", "name": "app", "port": 80}
        route = {"parentRefs": [parent], "rules": rules}
        self._write("route", "policy.linkerd.io/v1beta3", "HTTPRoute", "app", route, annotations=annotations)
        self.write_policy(pods[0].port if pods else 80, protocol=protocol)

    def write_endpoints(self, pods: Sequence[Pod]) -> None:
        """Which pods are ready; a slice for each port."""
        by_port: dict[int, list[Pod]] = {}
        for pod in pods:
            by_port.setdefault(pod.port, []).append(pod)
        for port, members in by_port.items():
            endpoints = [
                {"addresses": [pod.address]} | ({"targetRef": {"kind": "Pod", "name": pod.name}} if pod.inbound else {})
                for pod in members
            ]
            rest = {"addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": port}]}
            label = {"kubernetes.io/service-name": "app"}
            self._write(f"slice-{port}", "discovery.k8s.io/v1", "EndpointSlice", f"app-{port}", None, label, rest=rest)

    def write_policy(self, port: int, *, protocol: str = "unknown", extra_identities: Sequence[str] = ()) -> None:
        """The port is closed but to proxy a, and to this machine's un-meshed clients where the port is opaque."""
        version = "policy.linkerd.io/v1beta3"
        server = {"podSelector": {"matchLabels": {"app": "app"}}, "port": port, "proxyProtocol": protocol}
        self._write("server", version, "Server", "app", server)
        clients = {"identities": [NAMES["a"], *extra_identities]}
        self._write("clients", "policy.linkerd.io/v1alpha1", "MeshTLSAuthentication", "clients", clients)
        near = {"networks": [{"cidr": "127.0.0.0/8"}]}
        self._write("near", "policy.linkerd.io/v1alpha1", "NetworkAuthentication", "near", near)
        kind, name = ("NetworkAuthentication", "near") if protocol == "opaque" else ("MeshTLSAuthentication", "clients")
        group = "policy.linkerd.io"
        policy = {
            "targetRef": {"group": group, "kind": "Server", "name": "app"},
            "requiredAuthenticationRefs": [{"group": group, "kind": kind, "name": name}],
        }
        self._write("authorization", "policy.linkerd.io/v1alpha1", "AuthorizationPolicy", "app", policy)

    def _write_pod(self, name: str, account: str, annotations: dict[str, str]) -> None:
        labels = {"app": "app"} if account == "b" else {}
        spec = {"serviceAccountName": account, "containers": []}
        rest = {"status": {"podIP": "127.0.0.1"}}
        self._write(f"pod-{name}", "v1", "Pod", name, spec, labels, annotations, rest)

    def _write(
        self,
        file: str,
        version: str,
        kind: str,
        name: str,
        spec: dict[str, Any] | None = None,
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
        rest: dict[str, Any] | None = None,
    ) -> None:
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels or {}, "annotations": annotations or {}}
        manifest = {"apiVersion": version, "kind": kind, "metadata": metadata, **(rest or {})}
        if spec is not None:
            manifest["spec"] = spec
        temporary = self._registry / f".{file}.tmp"
        temporary.write_text(json.dumps(manifest))
        os.replace(temporary, self._registry / f"{file}.json")
