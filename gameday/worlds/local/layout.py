"""The processes of an embedded world, as data: command line, environment, how to tell that each is ready.

control/identity, control/destination, control/policy
<service>-<n>/app, <service>-<n>/proxy        for each replica
<service>-<n>/wire                            of services that a network-throttle will hit
loadgen-0/proxy                               the load generator's pod has a proxy and no app of ours
"""

from __future__ import annotations

import os
import string
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chaos.world import ControlComponent, PodAddress
from gameday.worlds.local.addresses import AddressPlan
from mesh.api.durations import format_duration
from mesh.control.names import component_name, identity_name
from mesh.control.pki import create_issuer, create_trust_anchor, write_issuer_dir
from mesh.control.tokens import TokenSigner
from scenarios.model import AppService, Scenario

LOAD_SERVICE, LOAD_NAMESPACE = "loadgen", "load"
CONTROL_NAMESPACE = "linkerd"
TOKEN_LIFETIME_SECONDS = 86_400.0
COMPONENTS = ("identity", "destination", "policy")


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process to run."""

    name: str
    pod: str | None
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready_url: str | None
    """GET it: 200 means ready. None: `ready_tcp` is tried instead."""
    ready_tcp: str | None = None
    folder: Path | None = None
    """Where it runs; None: where the run was started."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that the supervisor runs."""

    control: dict[str, ControlComponent]
    pods: tuple[PodAddress, ...]
    processes: tuple[ProcessSpec, ...]
    services: dict[str, AppService]


def lay_out(scenario: Scenario, run_dir: Path, plan: AddressPlan, seed: int) -> Layout:
    """Plans all processes, and writes what they read: trust anchors, issuer, token key and tokens."""
    pki = Pki(run_dir / "pki")
    control = {
        name: ControlComponent(address=address, admin=admin, process=f"control/{name}")
        for name in COMPONENTS
        for address, admin in [plan.control(name)]
    }
    processes = [_control_process(name, control, scenario, run_dir, pki) for name in COMPONENTS]
    throttled = {str(f.targets["service"]) for f in scenario.faults if f.kind == "network-throttle"}
    pods: list[PodAddress] = []
    for service in scenario.app.services:
        for replica in range(service.replicas):
            wired = service.name in throttled and service.meshed
            behind = plan.pod(len(pods), service.port).behind_wire
            pod = _pod(plan, len(pods), service.name, service.namespace, replica, service, wired)
            pods.append(pod)
            processes.append(_app_process(service, pod, scenario, seed * 1000 + len(pods)))
            if service.meshed:
                listen = behind if wired else pod.inbound
                processes.append(_proxy_process(pod, service.service_account, control, scenario, pki, listen))
            if wired:
                processes.append(_wire_process(pod, behind))
    load = _pod(plan, len(pods), LOAD_SERVICE, LOAD_NAMESPACE, 0, None)
    pods.append(load)
    processes.append(_proxy_process(load, LOAD_SERVICE, control, scenario, pki, load.inbound))
    return Layout(control, tuple(pods), tuple(processes), {service.name: service for service in scenario.app.services})


class Pki:
    """Trust anchor, issuer and tokens of one run, in a folder that only this user may read."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        anchor = create_trust_anchor()
        self.anchors_pem = anchor.certificate_pem
        self.anchors = folder / "trust-anchors.pem"
        self.anchors.write_text(self.anchors_pem)
        self.issuer = folder / "issuer"
        write_issuer_dir(self.issuer, create_issuer(anchor), anchor)
        self._signer = TokenSigner.generate()
        self.token_key = folder / "token-key.pub.pem"
        self.token_key.write_text(self._signer.public_pem)

    def token(self, namespace: str, account: str) -> Path:
        """A token file for a service account."""
        path = self._folder / f"token-{namespace}-{account}"
        path.write_text(self._signer.sign(namespace, account, time.time() + TOKEN_LIFETIME_SECONDS))
        path.chmod(0o600)
        return path


def _pod(
    plan: AddressPlan,
    index: int,
    service: str,
    namespace: str,
    replica: int,
    spec: AppService | None,
    wired: bool = False,
) -> PodAddress:
    name = f"{service}-{replica}"
    ports = plan.pod(index, spec.port if spec is not None else 0)
    meshed = spec is None or spec.meshed
    processes = ([f"{name}/app"] if spec is not None else []) + ([f"{name}/proxy"] if meshed else [])
    processes += [f"{name}/wire"] if wired else []
    return PodAddress(
        name=name,
        service=service,
        namespace=namespace,
        ip=ports.ip,
        app=ports.app if spec is not None else None,
        inbound=ports.inbound,
        outbound=ports.outbound,
        proxy_admin=ports.proxy_admin if meshed else None,
        workload_admin=ports.workload_admin if spec is not None and spec.command is None else None,
        processes=tuple(processes),
        wire_admin=ports.wire_admin if wired else None,
    )


def _control_process(
    name: str, control: Mapping[str, ControlComponent], scenario: Scenario, run_dir: Path, pki: Pki
) -> ProcessSpec:
    component = control[name]
    command = [sys.executable, "-m", "mesh.control", name]
    command += ["--listen", component.address, "--admin", component.admin, "--trust-anchors", str(pki.anchors)]
    settings = scenario.identity
    if name == "identity":
        command += ["--issuer", str(pki.issuer), "--token-key", str(pki.token_key)]
        command += ["--leaf-lifetime", format_duration(settings.leaf_lifetime)]
        command += ["--clock-skew", format_duration(settings.clock_skew)]
    else:
        command += ["--registry", str(run_dir / "registry"), "--identity-addr", control["identity"].address]
        command += ["--token", str(pki.token(CONTROL_NAMESPACE, f"linkerd-{name}"))]
        command += ["--min-refresh", format_duration(settings.min_refresh)]
    return ProcessSpec(component.process, None, tuple(command), {}, f"http://{component.admin}/ready")


def _app_process(service: AppService, pod: PodAddress, scenario: Scenario, seed: int) -> ProcessSpec:
    assert pod.app is not None
    host, _, port = pod.app.rpartition(":")
    environment = {"HOST": host, "PORT": port}
    if pod.proxy_admin is not None:
        environment |= {"http_proxy": f"http://{pod.outbound}", "HTTP_PROXY": f"http://{pod.outbound}"}
    name = f"{pod.name}/app"
    if service.command is not None:
        command = tuple(string.Template(part).safe_substitute(environment) for part in service.command)
        url = f"http://{pod.app}{service.health_path}" if service.health_path else None
        tools = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        folder = scenario.app.source.parent
        return ProcessSpec(name, pod.name, command, environment | {"PATH": tools}, url, pod.app, folder)
    assert pod.workload_admin is not None
    command = (sys.executable, "-m", "scenarios.workload", "--app", str(scenario.app.source), "--service", service.name)
    command += ("--listen", pod.app, "--admin", pod.workload_admin, "--seed", str(seed))
    return ProcessSpec(name, pod.name, command, environment, f"http://{pod.workload_admin}/ready")


def _proxy_process(
    pod: PodAddress, account: str, control: Mapping[str, ControlComponent], scenario: Scenario, pki: Pki, listen: str
) -> ProcessSpec:
    assert pod.proxy_admin is not None
    settings = scenario.identity
    values = {
        "INBOUND_LISTEN_ADDR": listen,
        "OUTBOUND_LISTEN_ADDR": pod.outbound,
        "ADMIN_LISTEN_ADDR": pod.proxy_admin,
        "OUTBOUND_BIND_IP": pod.ip,
        "IDENTITY_TRUST_ANCHORS": pki.anchors_pem,
        "IDENTITY_LOCAL_NAME": identity_name(account, pod.namespace),
        "IDENTITY_TOKEN_FILE": str(pki.token(pod.namespace, account)),
        "IDENTITY_MIN_REFRESH": format_duration(settings.min_refresh),
        "IDENTITY_MAX_REFRESH": format_duration(settings.max_refresh),
        "POLICY_WORKLOAD": msgspec.json.encode({"ns": pod.namespace, "pod": pod.name}).decode(),
        # The supervisor's patience on shutdown is shorter than Kubernetes'; a drill must not wait for idle connections.
        "SHUTDOWN_GRACE_PERIOD": "2s",
        "LOG": "warn",
    }
    if pod.app is not None:
        values["INBOUND_APP_ADDR"] = pod.app
    for name in COMPONENTS:
        values[f"{name.upper()}_SVC_ADDR"] = control[name].address
        values[f"{name.upper()}_SVC_NAME"] = component_name(name)
    environment = {f"LINKERD2_PROXY_{key}": value for key, value in values.items()}
    command = (sys.executable, "-m", "mesh.proxy")
    return ProcessSpec(f"{pod.name}/proxy", pod.name, command, environment, f"http://{pod.proxy_admin}/ready")


def _wire_process(pod: PodAddress, behind: str) -> ProcessSpec:
    command = [sys.executable, "-m", "gameday.worlds.local.wire"]
    command += ["--listen", pod.inbound, "--to", behind, "--admin", str(pod.wire_admin)]
    return ProcessSpec(f"{pod.name}/wire", pod.name, tuple(command), {}, f"http://{pod.wire_admin}/ready")
