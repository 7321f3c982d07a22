"""Flags → one frozen struct for each component, files read and checked.

python -m mesh.control identity     --listen … --admin … --trust-anchors … --issuer … --token-key …
python -m mesh.control destination  --listen … --admin … --trust-anchors … --registry … --identity-addr … --token …
python -m mesh.control policy       (as destination)
python -m mesh.control all          --<component>-listen … --<component>-admin …, and the rest once

With --kubernetes the truth comes from the API server: the issuer from its Secret, tokens by TokenReview, resources by
watches; --issuer, --token-key and --registry are then not given. Credentials are the pod's own, or --kubeconfig's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cryptography import x509

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.behavior.authz import CLUSTER_NETWORKS, DEFAULT_POLICIES, parse_network
from mesh.behavior.renewal import MIN_REFRESH_SECONDS
from mesh.control.log import LEVELS
from mesh.control.names import (
    CONTROL_PLANE_NAMESPACE,
    DEFAULT_CLUSTER_DOMAIN,
    DEFAULT_TRUST_DOMAIN,
    component_name,
    is_dns_name,
    is_label,
)
from mesh.control.pki import InvalidCredentials, load_certificates
from mesh.control.renewal import IdentityAddress
from mesh.control.tokens import InvalidTokenKey, TokenVerifier
from mesh.control.translate.authorizations import Cluster

COMPONENTS = ("identity", "destination", "policy")


class InvalidFlags(Exception):
    """A flag, or the file that it names, cannot be used."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What every component has."""

    component: str
    listen: Address
    admin: Address
    local_name: str


@dataclass(frozen=True, slots=True)
class KubernetesConfig:
    """Where the API server is, and what is ours there."""

    controller_namespace: str
    kubeconfig: str | None
    """None: the pod's service account."""


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    server: ServerConfig
    issuer: Path | None
    """None on Kubernetes, where it is a Secret."""
    verifier: TokenVerifier | None
    """None on Kubernetes, where the API server verifies."""
    leaf_lifetime: float
    """Seconds; Linkerd's 24 h, less in drills."""
    clock_skew: float
    """Seconds added at both ends of a leaf's life; Linkerd's 20 s."""


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    server: ServerConfig
    registry: Path | None
    """None on Kubernetes."""
    identity: IdentityAddress
    token: Path
    cluster: Cluster
    """What holds for inbound ports of the whole cluster."""
    min_refresh: float
    """Seconds; least time between two attempts to renew the own leaf."""
    admission: Address | None = None
    """Where the policy component's validating webhook listens; None: nowhere."""


@dataclass(frozen=True, slots=True)
class Config:
    """One process: the components it runs."""

    trust_domain: str
    anchors: list[x509.Certificate]
    anchors_path: Path
    log_level: str
    identity: IdentityConfig | None
    discoveries: tuple[DiscoveryConfig, ...]
    kubernetes: KubernetesConfig | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidFlags(f"{message} (see python -m mesh.control --help)")


def parse(arguments: Sequence[str]) -> Config:
    """Raises InvalidFlags; prints and exits 0 for --help."""
    flags = _parser().parse_args(arguments)
    components = COMPONENTS if flags.component == "all" else (flags.component,)
    anchors = _anchors(flags.trust_anchors)
    if not is_dns_name(flags.trust_domain):
        raise InvalidFlags(f"--trust-domain: {flags.trust_domain!r} is not a DNS name")
    if not is_label(flags.controller_namespace):
        raise InvalidFlags(f"--controller-namespace: {flags.controller_namespace!r} is not a namespace name")
    _check_source(flags, components)
    identity = _identity(flags) if "identity" in components else None
    discoveries = tuple(_discovery(flags, name) for name in components if name != "identity")
    kubernetes = KubernetesConfig(flags.controller_namespace, flags.kubeconfig) if flags.kubernetes else None
    return Config(flags.trust_domain, anchors, flags.trust_anchors, flags.log_level, identity, discoveries, kubernetes)


def _check_source(flags: argparse.Namespace, components: tuple[str, ...]) -> None:
    """Either the API server or files say what is true, never both."""
    wanted = ["issuer", "token_key"] * ("identity" in components) + ["registry"] * (components != ("identity",))
    for name in wanted:
        flag = f"--{name.replace('_', '-')}"
        given = getattr(flags, name) is not None
        if given and flags.kubernetes:
            raise InvalidFlags(f"{flag}: takes no part with --kubernetes; leave one of them out")
        if not given and not flags.kubernetes:
            raise InvalidFlags(f"{flag}: is required without --kubernetes (see python -m mesh.control --help)")
    if getattr(flags, "admission_listen", None) is not None and not flags.kubernetes:
        raise InvalidFlags("--admission-listen: needs --kubernetes")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m mesh.control", description="Control plane of the mesh.")
    commands = parser.add_subparsers(dest="component", required=True, parser_class=_Parser)
    for name in (*COMPONENTS, "all"):
        command = commands.add_parser(name)
        together = name == "all"
        for component in COMPONENTS if together else (name,):
            prefix = f"--{component}-" if together else "--"
            for what in ("listen", "admin"):
                flag = f"{prefix}{what}"
                command.add_argument(flag, dest=f"{component}_{what}", required=True, type=_address, metavar="IP:PORT")
            command.add_argument(
                f"{prefix}local-name", dest=f"{component}_name", metavar="NAME", help="TLS name of its certificate"
            )
        command.add_argument("--trust-domain", default=DEFAULT_TRUST_DOMAIN)
        command.add_argument("--trust-anchors", required=True, type=Path, metavar="FILE", help="PEM")
        command.add_argument("--log-level", choices=LEVELS, default="info")
        command.add_argument("--kubernetes", action="store_true", help="read from the API server")
        command.add_argument("--kubeconfig", metavar="FILE", help="instead of the pod's service account")
        command.add_argument("--controller-namespace", default=CONTROL_PLANE_NAMESPACE, metavar="NAMESPACE")
        if name in ("identity", "all"):
            command.add_argument("--issuer", type=Path, metavar="DIR", help="ca.crt, tls.crt, tls.key")
            command.add_argument("--token-key", type=Path, metavar="FILE", help="Ed25519 public key, PEM")
            command.add_argument("--leaf-lifetime", type=_duration, default=86_400.0, metavar="DURATION", help="24h")
            command.add_argument("--clock-skew", type=_duration, default=20.0, metavar="DURATION", help="20s")
        if name != "identity":
            command.add_argument("--cluster-domain", default=DEFAULT_CLUSTER_DOMAIN, help="end of Services' names")
            command.add_argument("--cluster-networks", type=_networks, default=CLUSTER_NETWORKS, metavar="CIDR,…")
            command.add_argument("--default-inbound-policy", choices=DEFAULT_POLICIES, default=DEFAULT_POLICIES[0])
            command.add_argument("--registry", type=Path, metavar="DIR")
            command.add_argument("--identity-addr", required=not together, type=_address, metavar="IP:PORT")
            if not together:
                command.add_argument("--identity-name", metavar="NAME", help="TLS name of identity's certificate")
            for component in ("destination", "policy") if together else (name,):
                flag = f"--{component}-token" if together else "--token"
                command.add_argument(flag, dest=f"{component}_token", required=True, type=Path, metavar="FILE")
            if name != "destination":
                command.add_argument("--admission-listen", type=_address, metavar="IP:PORT", help="validating webhook")
            command.add_argument("--min-refresh", type=_duration, default=MIN_REFRESH_SECONDS, metavar="DURATION")
    return parser


def _identity(flags: argparse.Namespace) -> IdentityConfig:
    if flags.leaf_lifetime <= 0:
        raise InvalidFlags("--leaf-lifetime: must be longer than zero")
    if flags.kubernetes:
        return IdentityConfig(_server(flags, "identity"), None, None, flags.leaf_lifetime, flags.clock_skew)
    if not flags.issuer.is_dir():
        raise InvalidFlags(f"--issuer: {flags.issuer} is not a directory")
    try:
        verifier = TokenVerifier.from_pem(_read(flags.token_key, "--token-key"))
    except InvalidTokenKey as error:
        raise InvalidFlags(f"--token-key: {flags.token_key}: {error}") from None
    return IdentityConfig(_server(flags, "identity"), flags.issuer, verifier, flags.leaf_lifetime, flags.clock_skew)


def _discovery(flags: argparse.Namespace, component: str) -> DiscoveryConfig:
    if flags.registry is not None and not flags.registry.is_dir():
        raise InvalidFlags(f"--registry: {flags.registry} is not a directory")
    token: Path = getattr(flags, f"{component}_token")
    _read(token, "--token")
    if not is_dns_name(flags.cluster_domain):
        raise InvalidFlags(f"--cluster-domain: {flags.cluster_domain!r} is not a DNS name")
    if flags.min_refresh <= 0:
        raise InvalidFlags("--min-refresh: must be longer than zero")
    address: Address = flags.identity_addr or flags.identity_listen
    given = getattr(flags, "identity_name", None)
    name = given or component_name("identity", flags.trust_domain, flags.controller_namespace)
    identity = IdentityAddress(address.host, address.port, name)
    cluster = Cluster(flags.trust_domain, flags.cluster_domain, flags.cluster_networks, flags.default_inbound_policy)
    admission = flags.admission_listen if component == "policy" else None
    return DiscoveryConfig(
        _server(flags, component), flags.registry, identity, token, cluster, flags.min_refresh, admission
    )


def _server(flags: argparse.Namespace, component: str) -> ServerConfig:
    # On Kubernetes policy runs beside destination, in its pod and so with its service account.
    account = "destination" if flags.kubernetes and component == "policy" else component
    default = component_name(account, flags.trust_domain, flags.controller_namespace)
    name = getattr(flags, f"{component}_name") or default
    if not is_dns_name(name):
        raise InvalidFlags(f"--local-name: {name!r} is not a DNS name")
    return ServerConfig(component, getattr(flags, f"{component}_listen"), getattr(flags, f"{component}_admin"), name)


def _anchors(path: Path) -> list[x509.Certificate]:
    try:
        return load_certificates(_read(path, "--trust-anchors"), str(path))
    except InvalidCredentials as error:
        raise InvalidFlags(f"--trust-anchors: {error}") from None


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidFlags(f"{flag}: {path}: {error.strerror or error}") from None


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not IP:PORT")
    return Address(host.strip("[]"), int(port))


def _networks(text: str) -> tuple[str, ...]:
    networks = tuple(part.strip() for part in text.split(","))
    for network in networks:
        try:
            parse_network(network)
        except ValueError:
            message = f"{network!r} is not a network; write CIDRs such as 10.0.0.0/8,fd00::/8"
            raise argparse.ArgumentTypeError(message) from None
    return networks


def _duration(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except InvalidDuration as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not math.isfinite(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is too long")
    return seconds
