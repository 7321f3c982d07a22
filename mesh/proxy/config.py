"""The proxy's configuration: environment variables, read once into one frozen struct.

Names are linkerd2-proxy's where it has one (`app/src/env.rs`); ours say so. Seconds inside, Linkerd's duration text
outside. A wrong value raises `InvalidConfig` with the variable's name; nothing is guessed. No identity variable at
all disables identity: everything is plaintext then, which is for benchmarks and tests only.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.behavior.cache import INBOUND_IDLE_SECONDS, OUTBOUND_IDLE_SECONDS
from mesh.behavior.renewal import MAX_REFRESH_SECONDS, MIN_REFRESH_SECONDS

PREFIX = "LINKERD2_PROXY_"
DEFAULT_POLICIES = ("all-unauthenticated", "all-authenticated", "deny")
LOG_LEVELS = ("error", "warn", "info", "debug")


class InvalidConfig(ValueError):
    """A variable is missing or wrong; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ControlService:
    """Where a part of the control plane listens, and the DNS name that its certificate must have."""

    address: Address
    name: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this proxy is and how it proves it."""

    service: ControlService
    trust_anchors: str
    """PEM."""
    local_name: str
    token_file: str
    """Read anew for every certificate: tokens rotate."""
    min_refresh: float = MIN_REFRESH_SECONDS
    max_refresh: float = MAX_REFRESH_SECONDS


@dataclass(frozen=True, slots=True)
class Workload:
    """Names this pod to the policy service."""

    namespace: str
    pod: str


@dataclass(frozen=True, slots=True)
class Config:
    """Times in seconds; Linkerd's defaults unless the field says otherwise."""

    inbound_listen: Address
    outbound_listen: Address
    admin_listen: Address
    app: Address | None = None
    """LINKERD2_PROXY_INBOUND_APP_ADDR (ours): the workload's own port; None: inbound requests get 502."""
    bind_ip: str | None = None
    """LINKERD2_PROXY_OUTBOUND_BIND_IP (ours): source address of outgoing connections, so that a pod that is not a
    network namespace still has an address of its own."""
    identity: Identity | None = None
    destination: ControlService | None = None
    policy: ControlService | None = None
    workload: Workload | None = None
    default_policy: str = "all-unauthenticated"
    """Until the policy service has answered."""
    static_endpoints: Mapping[str, tuple[str, ...]] | None = None
    """LINKERD2_PROXY_OUTBOUND_STATIC (ours, benchmarks and tests): authorities whose endpoints need no discovery."""
    outbound_connect_timeout: float = 1.0
    inbound_connect_timeout: float = 0.3
    outbound_discovery_idle: float = OUTBOUND_IDLE_SECONDS
    inbound_discovery_idle: float = INBOUND_IDLE_SECONDS
    inbound_failfast: float = 1.0
    detect_timeout: float = 10.0
    """For the first byte, and for the handshake after it."""
    pool_idle: float = 3.0
    """linkerd2-proxy's HTTP/1 pool; shorter than the 5 s that common servers keep idle connections."""
    max_in_flight: int = 100_000
    """Requests in each direction, beyond which new ones are shed."""
    shutdown_grace: float = 120.0
    log_level: str = "warn"


def load_config(environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration in `environment`.

    Raises:
        InvalidConfig: a variable is missing or wrong.
    """
    env = _Environment(environment)
    return Config(
        inbound_listen=env.address("INBOUND_LISTEN_ADDR", "0.0.0.0:4143"),
        outbound_listen=env.address("OUTBOUND_LISTEN_ADDR", "127.0.0.1:4140"),
        admin_listen=env.address("ADMIN_LISTEN_ADDR", "0.0.0.0:4191"),
        app=env.optional_address("INBOUND_APP_ADDR"),
        bind_ip=env.ip("OUTBOUND_BIND_IP"),
        identity=_identity(env),
        destination=env.service("DESTINATION"),
        policy=env.service("POLICY"),
        workload=_workload(env),
        default_policy=env.choice("INBOUND_DEFAULT_POLICY", DEFAULT_POLICIES, "all-unauthenticated"),
        static_endpoints=_static_endpoints(env),
        outbound_connect_timeout=env.seconds("OUTBOUND_CONNECT_TIMEOUT", 1.0),
        inbound_connect_timeout=env.seconds("INBOUND_CONNECT_TIMEOUT", 0.3),
        outbound_discovery_idle=env.seconds("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", OUTBOUND_IDLE_SECONDS),
        inbound_discovery_idle=env.seconds("INBOUND_DISCOVERY_IDLE_TIMEOUT", INBOUND_IDLE_SECONDS),
        inbound_failfast=env.seconds("INBOUND_HTTP_FAILFAST_TIMEOUT", 1.0),
        detect_timeout=env.seconds("INBOUND_DETECT_TIMEOUT", 10.0),
        pool_idle=env.seconds("OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", 3.0),
        max_in_flight=env.integer("OUTBOUND_MAX_IN_FLIGHT", 100_000),
        shutdown_grace=env.seconds("SHUTDOWN_GRACE_PERIOD", 120.0),
        log_level=_log_level(env),
    )


def _identity(env: _Environment) -> Identity | None:
    names = ("SVC_ADDR", "SVC_NAME", "TRUST_ANCHORS", "LOCAL_NAME", "TOKEN_FILE")
    given = {name: env.text(f"IDENTITY_{name}") for name in names}
    if not any(given.values()):
        return None
    missing = [f"{PREFIX}IDENTITY_{name}" for name, value in given.items() if not value]
    if missing:
        raise InvalidConfig(f"{missing[0]}: missing; identity needs all of IDENTITY_{{{','.join(names)}}}, or none")
    minimum = env.seconds("IDENTITY_MIN_REFRESH", MIN_REFRESH_SECONDS)
    maximum = env.seconds("IDENTITY_MAX_REFRESH", MAX_REFRESH_SECONDS)
    if not 0 < minimum <= maximum:
        raise InvalidConfig(f"{PREFIX}IDENTITY_MIN_REFRESH: must be positive and at most IDENTITY_MAX_REFRESH")
    if "-----BEGIN CERTIFICATE-----" not in given["TRUST_ANCHORS"]:
        raise InvalidConfig(f"{PREFIX}IDENTITY_TRUST_ANCHORS: no PEM certificate in it")
    service = env.service("IDENTITY")
    assert service is not None
    return Identity(service, given["TRUST_ANCHORS"], given["LOCAL_NAME"], given["TOKEN_FILE"], minimum, maximum)


class _WorkloadText(msgspec.Struct, frozen=True):
    ns: str
    pod: str


def _workload(env: _Environment) -> Workload | None:
    text = env.text("POLICY_WORKLOAD")
    if not text:
        return None
    try:
        parsed = msgspec.json.decode(text, type=_WorkloadText)
    except msgspec.DecodeError as error:
        raise InvalidConfig(f'{PREFIX}POLICY_WORKLOAD: {error}; write {{"ns":"shop","pod":"cart-0"}}') from None
    return Workload(parsed.ns, parsed.pod)


def _static_endpoints(env: _Environment) -> Mapping[str, tuple[str, ...]] | None:
    text = env.text("OUTBOUND_STATIC")
    if not text:
        return None
    variable = f"{PREFIX}OUTBOUND_STATIC"
    try:
        parsed = msgspec.json.decode(text, type=dict[str, tuple[str, ...]])
    except msgspec.DecodeError as error:
        raise InvalidConfig(f'{variable}: {error}; write {{"host:port": ["ip:port"]}}') from None
    for endpoints in parsed.values():
        for endpoint in endpoints:
            parse_address(endpoint.partition("=")[0], variable)
    return parsed


def _log_level(env: _Environment) -> str:
    # Linkerd's filters (`warn,linkerd=info`) are accepted; the most talkative part of one decides.
    text = env.text("LOG") or "warn"
    levels = [part.rpartition("=")[2].strip().lower() for part in text.split(",")]
    for level in levels:
        if level not in LOG_LEVELS:
            raise InvalidConfig(f"{PREFIX}LOG: {level!r} is no log level; known: {', '.join(LOG_LEVELS)}")
    return max(levels, key=LOG_LEVELS.index)


def parse_address(text: str, variable: str) -> Address:
    """`ip:port` or `[ip6]:port`.

    Raises:
        InvalidConfig: it is neither; `variable` is named.
    """
    host, colon, port = text.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
        if not colon or not 0 <= number <= 65535:
            raise ValueError
    except ValueError:
        raise InvalidConfig(f"{variable}: {text!r} is not ip:port") from None
    return Address(str(ip), number)


class _Environment:
    """Typed reads; every complaint names the variable."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        return self._values.get(PREFIX + name, "")

    def address(self, name: str, default: str) -> Address:
        return parse_address(self.text(name) or default, PREFIX + name)

    def optional_address(self, name: str) -> Address | None:
        text = self.text(name)
        return parse_address(text, PREFIX + name) if text else None

    def ip(self, name: str) -> str | None:
        text = self.text(name)
        if not text:
            return None
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            raise InvalidConfig(f"{PREFIX}{name}: {text!r} is not an IP address") from None

    def seconds(self, name: str, default: float) -> float:
        text = self.text(name)
        if not text:
            return default
        try:
            return parse_duration(text)
        except InvalidDuration as error:
            raise InvalidConfig(f"{PREFIX}{name}: {error}") from None

    def integer(self, name: str, default: int) -> int:
        text = self.text(name)
        if not text:
            return default
        if not text.isdecimal() or int(text) < 1:
            raise InvalidConfig(f"{PREFIX}{name}: {text!r} is not a positive whole number")
        return int(text)

    def choice(self, name: str, known: tuple[str, ...], default: str) -> str:
        text = self.text(name) or default
        if text not in known:
            raise InvalidConfig(f"{PREFIX}{name}: {text!r} is not one of {', '.join(known)}")
        return text

    def service(self, name: str) -> ControlService | None:
        address = self.optional_address(f"{name}_SVC_ADDR")
        if address is None:
            return None
        tls_name = self.text(f"{name}_SVC_NAME")
        if not tls_name:
            raise InvalidConfig(f"{PREFIX}{name}_SVC_NAME: missing; it is the TLS name of {name}_SVC_ADDR")
        return ControlService(address, tls_name)
