"""The proxy's configuration: environment variables, read once into one frozen struct.

Names are linkerd2-proxy's where it has one (`app/src/env.rs`); ours say so. Seconds inside, Linkerd's duration text
outside. A wrong value raises `InvalidConfig` with the variable's name; nothing is guessed. No identity variable at
all disables identity: everything is plaintext then, which is for benchmarks and tests only.

One file, because a variable is read in three places (the struct, `load_config`, the reader of its format) that change
together.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.behavior.authz import CLUSTER_NETWORKS, DEFAULT_POLICIES, parse_network
from mesh.behavior.cache import INBOUND_IDLE_SECONDS, OUTBOUND_IDLE_SECONDS
from mesh.behavior.renewal import MAX_REFRESH_SECONDS, MIN_REFRESH_SECONDS
from mesh.proxy.log import InvalidFilter, LogFilter, parse_filter
from mesh.proxy.trust import InvalidAnchors, parse_anchors, read_anchors

PREFIX = "LINKERD2_PROXY_"
DEFAULT_OPAQUE_PORTS = frozenset({25, 587, 3306, 4444, 5432, 6379, 9300, 11211})
"""Linkerd's: SMTP, MySQL (and Galera), PostgreSQL, Redis, Elasticsearch, Memcached. Their servers speak first, or their
clients' first bytes look like nothing we know."""
ACCESS_LOGS = ("apache", "json")
DEFAULT_LOG = LogFilter("warn", "warn")
_DNS_NAME = re.compile(r"(?=.{1,254}$)[a-z]([a-z0-9-]{0,62})(\.[a-z0-9]([a-z0-9-]{0,62}))*\.?", re.IGNORECASE)
"""Begins with a letter, so that a mistyped address is not taken for a name."""


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
    """Its host may be a DNS name; with a dot at the end it is looked up in no search domain."""
    name: str

    def __str__(self) -> str:
        return str(Address(self.address.host.rstrip("."), self.address.port))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this proxy is and how it proves it."""

    service: ControlService
    trust_anchors: str
    """PEM; one or more."""
    local_name: str
    token_file: str
    """Read anew for every certificate: tokens rotate."""
    min_refresh: float = MIN_REFRESH_SECONDS
    max_refresh: float = MAX_REFRESH_SECONDS
    trust_anchors_file: str | None = None
    """LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS_FILE (ours): where `trust_anchors` was read, and is read again whenever it
    changes. None: it came by variable and stays."""


@dataclass(frozen=True, slots=True)
class TraceCollector:
    """Where spans go: OTLP over HTTP."""

    host: str
    """A DNS name or an address: the collector is no part of the mesh and need not have a fixed one."""
    port: int
    name: str
    """TRACE_COLLECTOR_SVC_NAME: the identity it must prove; empty: plaintext."""
    service_name: str
    """TRACE_SERVICE_NAME, `service.name` of every span; linkerd-proxy as in Linkerd."""
    attributes: Mapping[str, str]
    """TRACE_EXTRA_ATTRIBUTES: `name=value` of the resource, one a line or between commas."""


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
    """LINKERD2_PROXY_INBOUND_APP_ADDR (ours): the workload's one port, where nothing is redirected. None: connections
    are for the port that their client dialled (SO_ORIGINAL_DST), and those that dialled us get 502."""
    inbound_ips: frozenset[str] = frozenset()
    """LINKERD2_PROXY_INBOUND_IPS, comma-separated: the pod's addresses. What was meant for another is refused, so that
    nobody makes a relay of us. Empty: not checked."""
    inbound_ports: frozenset[int] = frozenset()
    """LINKERD2_PROXY_INBOUND_PORTS: ports that the pod declares; their policy is known before the first connection."""
    require_identity_ports: frozenset[int] = frozenset()
    """LINKERD2_PROXY_INBOUND_PORTS_REQUIRE_IDENTITY: where the default policy lets in nobody without an identity."""
    ingress_mode: bool = False
    """LINKERD2_PROXY_INGRESS_MODE: requests go where their `l5d-dst-override` says, whatever address was dialled."""
    bind_ip: str | None = None
    """LINKERD2_PROXY_OUTBOUND_BIND_IP (ours): source address of outgoing connections, so that a pod that is not a
    network namespace still has an address of its own."""
    identity: Identity | None = None
    destination: ControlService | None = None
    policy: ControlService | None = None
    workload: Workload | None = None
    default_policy: str = "all-unauthenticated"
    """Until the policy service has answered."""
    cluster_networks: tuple[str, ...] = CLUSTER_NETWORKS
    """LINKERD2_PROXY_POLICY_CLUSTER_NETWORKS, comma-separated: whom the `cluster-…` default policies let in."""
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
    max_destinations: int = 750
    """LINKERD2_PROXY_OUTBOUND_MAX_DESTINATIONS (ours): remembered at once, 20 KB each. Over it the one used least
    recently is forgotten early; where all are in use, requests for new names are shed."""
    max_in_flight: int = 100_000
    """Requests in each direction, beyond which new ones are shed."""
    shutdown_grace: float = 120.0
    outbound_detect_timeout: float = 10.0
    """For the first bytes of an app's connection to an address, after which it is opaque."""
    opaque_ports: frozenset[int] = DEFAULT_OPAQUE_PORTS
    """Ports whose connections are not looked at, in either direction, until the control plane says otherwise."""
    forwards: Mapping[Address, str] | None = None
    """LINKERD2_PROXY_OUTBOUND_FORWARD (ours): listeners whose connections go to an authority as if it had been dialled,
    for clients of other protocols than HTTP where nothing redirects them to the proxy."""
    inbound_accept_keepalive: float = 10.0
    inbound_connect_keepalive: float = 10.0
    outbound_accept_keepalive: float = 10.0
    outbound_connect_keepalive: float = 10.0
    """Seconds of silence before the first probe, and between probes."""
    inbound_accept_user_timeout: float = 30.0
    inbound_connect_user_timeout: float = 30.0
    outbound_accept_user_timeout: float = 30.0
    outbound_connect_user_timeout: float = 30.0
    """How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT)."""
    log: LogFilter = DEFAULT_LOG
    """LINKERD2_PROXY_LOG, a filter in Linkerd's words; can be changed at run time."""
    tap_listen: Address = Address("0.0.0.0", 4190)
    """LINKERD2_PROXY_CONTROL_LISTEN_ADDR."""
    tap_name: str = ""
    """LINKERD2_PROXY_TAP_SVC_NAME: the one identity that may tap; empty: there is no tap, as in Linkerd."""
    trace: TraceCollector | None = None
    """None: no spans, and requests' trace contexts are passed on untouched."""
    access_log: str = ""
    """LINKERD2_PROXY_ACCESS_LOG: apache or json; empty: none, for a line costs about 5 µs of a request's time."""
    flight_recorder_size: int = 256
    """LINKERD2_PROXY_FLIGHT_RECORDER_SIZE (ours): failures kept; at most 2 KB each, so 0.5 MB."""
    metrics_retain_idle: float = 600.0
    """LINKERD2_PROXY_METRICS_RETAIN_IDLE: how long a series outlives its last user."""
    shutdown_endpoint: bool = False
    """LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED: whether POST /shutdown works (Jobs ask for it); off as in Linkerd."""


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
        inbound_ips=env.ips("INBOUND_IPS"),
        inbound_ports=env.ports("INBOUND_PORTS", frozenset()),
        require_identity_ports=env.ports("INBOUND_PORTS_REQUIRE_IDENTITY", frozenset()),
        ingress_mode=env.flag("INGRESS_MODE"),
        bind_ip=env.ip("OUTBOUND_BIND_IP"),
        identity=_identity(env),
        destination=env.service("DESTINATION"),
        policy=env.service("POLICY"),
        workload=_workload(env),
        default_policy=env.choice("INBOUND_DEFAULT_POLICY", DEFAULT_POLICIES, "all-unauthenticated"),
        cluster_networks=_networks(env),
        static_endpoints=_static_endpoints(env),
        outbound_connect_timeout=env.seconds("OUTBOUND_CONNECT_TIMEOUT", 1.0),
        inbound_connect_timeout=env.seconds("INBOUND_CONNECT_TIMEOUT", 0.3),
        outbound_discovery_idle=env.seconds("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", OUTBOUND_IDLE_SECONDS),
        inbound_discovery_idle=env.seconds("INBOUND_DISCOVERY_IDLE_TIMEOUT", INBOUND_IDLE_SECONDS),
        inbound_failfast=env.seconds("INBOUND_HTTP_FAILFAST_TIMEOUT", 1.0),
        detect_timeout=env.seconds("INBOUND_DETECT_TIMEOUT", 10.0),
        pool_idle=env.seconds("OUTBOUND_HTTP1_CONNECTION_POOL_IDLE_TIMEOUT", 3.0),
        max_in_flight=env.integer("OUTBOUND_MAX_IN_FLIGHT", 100_000),
        max_destinations=env.integer("OUTBOUND_MAX_DESTINATIONS", 750),
        shutdown_grace=env.seconds("SHUTDOWN_GRACE_PERIOD", 120.0),
        outbound_detect_timeout=env.seconds("OUTBOUND_DETECT_TIMEOUT", 10.0),
        opaque_ports=env.ports("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", DEFAULT_OPAQUE_PORTS),
        forwards=_forwards(env),
        inbound_accept_keepalive=env.seconds("INBOUND_ACCEPT_KEEPALIVE", 10.0),
        inbound_connect_keepalive=env.seconds("INBOUND_CONNECT_KEEPALIVE", 10.0),
        outbound_accept_keepalive=env.seconds("OUTBOUND_ACCEPT_KEEPALIVE", 10.0),
        outbound_connect_keepalive=env.seconds("OUTBOUND_CONNECT_KEEPALIVE", 10.0),
        inbound_accept_user_timeout=env.seconds("INBOUND_ACCEPT_USER_TIMEOUT", 30.0),
        inbound_connect_user_timeout=env.seconds("INBOUND_CONNECT_USER_TIMEOUT", 30.0),
        outbound_accept_user_timeout=env.seconds("OUTBOUND_ACCEPT_USER_TIMEOUT", 30.0),
        outbound_connect_user_timeout=env.seconds("OUTBOUND_CONNECT_USER_TIMEOUT", 30.0),
        log=_log_filter(env),
        tap_listen=env.address("CONTROL_LISTEN_ADDR", "0.0.0.0:4190"),
        tap_name=env.text("TAP_SVC_NAME"),
        trace=_trace_collector(env),
        access_log=env.choice("ACCESS_LOG", ("", *ACCESS_LOGS), ""),
        flight_recorder_size=env.integer("FLIGHT_RECORDER_SIZE", 256),
        metrics_retain_idle=env.seconds("METRICS_RETAIN_IDLE", 600.0),
        shutdown_endpoint=env.flag("SHUTDOWN_ENDPOINT_ENABLED"),
    )


def _identity(env: _Environment) -> Identity | None:
    names = ("SVC_ADDR", "SVC_NAME", "TRUST_ANCHORS", "LOCAL_NAME", "TOKEN_FILE")
    given = {name: env.text(f"IDENTITY_{name}") for name in names}
    path = env.text("IDENTITY_TRUST_ANCHORS_FILE") or None
    if path is None and not any(given.values()):
        return None
    source = f"{PREFIX}IDENTITY_TRUST_ANCHORS"
    try:
        if path is not None:
            if given["TRUST_ANCHORS"]:
                raise InvalidConfig(f"{source}_FILE: give this or IDENTITY_TRUST_ANCHORS, not both")
            source = f"{source}_FILE: {path}"
            given["TRUST_ANCHORS"] = read_anchors(path).pem
        elif given["TRUST_ANCHORS"]:
            parse_anchors(given["TRUST_ANCHORS"])
    except InvalidAnchors as error:
        raise InvalidConfig(f"{source}: {error}") from None
    missing = [f"{PREFIX}IDENTITY_{name}" for name, value in given.items() if not value]
    if missing:
        raise InvalidConfig(f"{missing[0]}: missing; identity needs all of IDENTITY_{{{','.join(names)}}}, or none")
    minimum = env.seconds("IDENTITY_MIN_REFRESH", MIN_REFRESH_SECONDS)
    maximum = env.seconds("IDENTITY_MAX_REFRESH", MAX_REFRESH_SECONDS)
    if not 0 < minimum <= maximum:
        raise InvalidConfig(f"{PREFIX}IDENTITY_MIN_REFRESH: must be positive and at most IDENTITY_MAX_REFRESH")
    service = env.service("IDENTITY")
    assert service is not None
    return Identity(service, given["TRUST_ANCHORS"], given["LOCAL_NAME"], given["TOKEN_FILE"], minimum, maximum, path)


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


def _networks(env: _Environment) -> tuple[str, ...]:
    text = env.text("POLICY_CLUSTER_NETWORKS")
    networks = tuple(part.strip() for part in text.split(",") if part.strip())
    for network in networks:
        try:
            parse_network(network)
        except ValueError:
            message = f"{network!r} is not a network; write CIDRs such as 10.0.0.0/8,fd00::/8"
            raise InvalidConfig(f"{PREFIX}POLICY_CLUSTER_NETWORKS: {message}") from None
    return networks or CLUSTER_NETWORKS


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


def _log_filter(env: _Environment) -> LogFilter:
    try:
        return parse_filter(env.text("LOG") or "warn")
    except InvalidFilter as error:
        raise InvalidConfig(f"{PREFIX}LOG: {error}") from None


def _trace_collector(env: _Environment) -> TraceCollector | None:
    text = env.text("TRACE_COLLECTOR_SVC_ADDR")
    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= 65535:
        raise InvalidConfig(f"{PREFIX}TRACE_COLLECTOR_SVC_ADDR: {text!r} is not host:port")
    attributes = {}
    for item in env.text("TRACE_EXTRA_ATTRIBUTES").replace("\n", ",").split(","):
        name, equals, value = item.strip().partition("=")
        if item.strip() and not (equals and name):
            raise InvalidConfig(f"{PREFIX}TRACE_EXTRA_ATTRIBUTES: {item.strip()!r} is not name=value")
        if name:
            attributes[name.strip()] = value.strip().strip('"')
    service = env.text("TRACE_SERVICE_NAME") or "linkerd-proxy"
    return TraceCollector(host.strip("[]"), int(port), env.text("TRACE_COLLECTOR_SVC_NAME"), service, attributes)


def _forwards(env: _Environment) -> Mapping[Address, str] | None:
    text = env.text("OUTBOUND_FORWARD")
    if not text:
        return None
    variable = f"{PREFIX}OUTBOUND_FORWARD"
    example = 'write {"127.0.0.1:15432": "db.shop.svc.cluster.local:5432"}'
    try:
        parsed = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise InvalidConfig(f"{variable}: {error}; {example}") from None
    for authority in parsed.values():
        host, _, port = authority.rpartition(":")
        if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise InvalidConfig(f"{variable}: {authority!r} is not host:port; {example}")
    return {parse_address(listen, variable): authority for listen, authority in parsed.items()}


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


def parse_service_address(text: str, variable: str) -> Address:
    """`ip:port`, `[ip6]:port` or `name:port`.

    Raises:
        InvalidConfig: it is none of them; `variable` is named.
    """
    host, _, port = text.rpartition(":")
    if _DNS_NAME.fullmatch(host) is None or not port.isdecimal() or not 1 <= int(port) <= 65535:
        return parse_address(text, variable)
    return Address(host, int(port))


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

    def ips(self, name: str) -> frozenset[str]:
        """Addresses between commas, each in its shortest form."""
        found = set()
        for part in filter(None, (part.strip() for part in self.text(name).split(","))):
            try:
                found.add(str(ipaddress.ip_address(part)))
            except ValueError:
                raise InvalidConfig(f"{PREFIX}{name}: {part!r} is not an IP address") from None
        return frozenset(found)

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

    def flag(self, name: str) -> bool:
        text = self.text(name).lower()
        if text not in ("", "true", "false", "1", "0"):
            raise InvalidConfig(f"{PREFIX}{name}: {text!r} is neither true nor false")
        return text in ("true", "1")

    def ports(self, name: str, default: frozenset[int]) -> frozenset[int]:
        """Comma-separated ports and ranges: `25,587,8000-8010`; `none` for no port at all."""
        text = self.text(name).strip()
        if not text:
            return default
        if text == "none":
            return frozenset()
        found: set[int] = set()
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()):
                raise InvalidConfig(f"{PREFIX}{name}: {part!r} is neither a port nor a range")
            low, high = int(first), int(last or first)
            if not 1 <= low <= high <= 65535:
                raise InvalidConfig(f"{PREFIX}{name}: {part!r} is not within 1-65535")
            found.update(range(low, high + 1))
        return frozenset(found)

    def choice(self, name: str, known: tuple[str, ...], default: str) -> str:
        text = self.text(name) or default
        if text not in known:
            raise InvalidConfig(f"{PREFIX}{name}: {text!r} is not one of {', '.join(filter(None, known))}")
        return text

    def service(self, name: str) -> ControlService | None:
        text = self.text(f"{name}_SVC_ADDR")
        if not text:
            return None
        address = parse_service_address(text, f"{PREFIX}{name}_SVC_ADDR")
        tls_name = self.text(f"{name}_SVC_NAME")
        if not tls_name:
            raise InvalidConfig(f"{PREFIX}{name}_SVC_NAME: missing; it is the TLS name of {name}_SVC_ADDR")
        return ControlService(address, tls_name)
