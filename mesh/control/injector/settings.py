"""How one pod's sidecar is set up: `config.linkerd.io/*` of the pod, else of its namespace, else the install's values.

A value that cannot be used is left out, and said so: kubectl shows the warning, an event keeps it. Refusing the pod
would make a misspelt log level an outage (Linkerd ignores some of these without a word and fails the pod for others).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.values import Values
from mesh.behavior.authz import DEFAULT_POLICIES

PREFIX, ALPHA_PREFIX = "config.linkerd.io/", "config.alpha.linkerd.io/"
OPAQUE_PORTS = f"{PREFIX}opaque-ports"
_QUANTITY = re.compile(r"\d+(\.\d+)?([munkMGTPE]|[KMGTPE]i|e\d+)?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one sidecar; texts as they go into manifest and environment."""

    image: str
    version: str
    pull_policy: str
    uid: int
    gid: int | None
    log_level: str
    default_inbound_policy: str
    opaque_ports: str
    """Ports, ranges and names of container ports."""
    skip_inbound_ports: str
    skip_outbound_ports: str
    skip_subnets: str
    require_identity_ports: str
    inbound_ports: str
    """In the place of the ports that the containers declare; empty: those."""
    outbound_connect_timeout: str
    inbound_connect_timeout: str
    outbound_discovery_idle: str
    inbound_discovery_idle: str
    shutdown_grace_period: str
    wait_before_exit_seconds: int
    native: bool
    awaits: bool
    access_log: str
    shutdown_endpoint: bool
    iptables_mode: str
    requests: Mapping[str, str]
    limits: Mapping[str, str]
    init_requests: Mapping[str, str]
    init_limits: Mapping[str, str]
    warnings: tuple[str, ...] = field(default=())
    """Annotations that could not be used."""


def settings_of(values: Values, namespace: Mapping[str, str], pod: Mapping[str, str]) -> Settings:
    """The settings of a pod with these annotations."""
    settings = defaults(values)
    warnings: list[str] = []
    for name, (attribute, read) in _ANNOTATIONS.items():
        text = pod.get(name, namespace.get(name))
        if text is None:
            continue
        try:
            value = read(text.strip())
        except ValueError as error:
            warnings.append(f"{name}: {text!r} {error}; not used")
            continue
        if attribute in _RESOURCES:
            part, what = _RESOURCES[attribute]
            settings = replace(settings, **{part: {**getattr(settings, part), what: value}})  # type: ignore[arg-type]
        else:
            settings = replace(settings, **{attribute: value})  # type: ignore[arg-type]
    return replace(settings, warnings=tuple(warnings))


def defaults(values: Values) -> Settings:
    """What a pod without annotations gets."""
    proxy, init = values.proxy, values.proxy_init
    given = {"cpu": proxy.resources.cpu, "memory": proxy.resources.memory}
    of_init = {"cpu": init.resources.cpu, "memory": init.resources.memory}
    return Settings(
        image=values.image.name,
        version=values.image.version,
        pull_policy=values.image.pull_policy,
        uid=proxy.uid,
        gid=None,
        log_level=proxy.log_level,
        default_inbound_policy=proxy.default_inbound_policy,
        opaque_ports=proxy.opaque_ports,
        skip_inbound_ports=init.ignore_inbound_ports,
        skip_outbound_ports=init.ignore_outbound_ports,
        skip_subnets=init.skip_subnets,
        require_identity_ports="",
        inbound_ports="",
        outbound_connect_timeout=proxy.outbound_connect_timeout,
        inbound_connect_timeout=proxy.inbound_connect_timeout,
        outbound_discovery_idle=proxy.outbound_discovery_cache_unused_timeout,
        inbound_discovery_idle=proxy.inbound_discovery_cache_unused_timeout,
        shutdown_grace_period=proxy.shutdown_grace_period,
        wait_before_exit_seconds=proxy.wait_before_exit_seconds,
        native=proxy.native_sidecar,
        awaits=proxy.await_ready,
        access_log=proxy.access_log,
        shutdown_endpoint=proxy.enable_shutdown_endpoint,
        iptables_mode=init.iptables_mode,
        requests={what: quantity.request for what, quantity in given.items() if quantity.request},
        limits={what: quantity.limit for what, quantity in given.items() if quantity.limit},
        init_requests={what: quantity.request for what, quantity in of_init.items() if quantity.request},
        init_limits={what: quantity.limit for what, quantity in of_init.items() if quantity.limit},
    )


# ---- what annotations may say; each raises ValueError with what is wanted


def _text(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("is not a whole number")
    return int(text)


def _uid(text: str) -> int:
    if _number(text) == 0:
        raise ValueError("is root, which the proxy must not be")
    return int(text)


def _duration(text: str) -> str:
    try:
        parse_duration(text)
    except InvalidDuration:
        raise ValueError("is not a duration; write 1s, 250ms, 2m") from None
    return text


def _quantity(text: str) -> str:
    if _QUANTITY.fullmatch(text) is None:
        raise ValueError("is not a quantity; write 100m, 250Mi")
    return text


def _truth(text: str) -> bool:
    if text not in ("true", "false", "1", "0", "t", "f", "T", "F", "True", "False", "TRUE", "FALSE"):
        raise ValueError("is neither true nor false")
    return text[0] in "1tT"


def _enabled(text: str) -> bool:
    if text not in ("enabled", "disabled"):
        raise ValueError("is neither enabled nor disabled")
    return text == "enabled"


def _one_of(*known: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError(f"is not one of {', '.join(known)}")
        return text

    return read


def _ports(text: str) -> str:
    """Ports and ranges between commas; empty is none."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        first, dash, last = part.partition("-")
        numbers = [first, last] if dash else [first]
        if not all(number.isdecimal() and 1 <= int(number) <= 65535 for number in numbers) or (
            dash and int(first) > int(last)
        ):
            raise ValueError(f"names {part!r}, which is no port of 1-65535 and no range")
    return ",".join(parts)


def _named_ports(text: str) -> str:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    _ports(",".join(part for part in parts if _PORT_NAME.fullmatch(part) is None))
    return ",".join(parts)


def _subnets(text: str) -> str:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        try:
            ip_network(part)
        except ValueError:
            raise ValueError(f"names {part!r}, which is no network; write 10.0.0.0/8") from None
    return ",".join(parts)


_RESOURCES = {
    "cpu_request": ("requests", "cpu"),
    "cpu_limit": ("limits", "cpu"),
    "memory_request": ("requests", "memory"),
    "memory_limit": ("limits", "memory"),
    "storage_request": ("requests", "ephemeral-storage"),
    "storage_limit": ("limits", "ephemeral-storage"),
}

_ANNOTATIONS: dict[str, tuple[str, Callable[[str], object]]] = {
    f"{PREFIX}proxy-image": ("image", _text),
    f"{PREFIX}proxy-version": ("version", _text),
    f"{PREFIX}image-pull-policy": ("pull_policy", _one_of("Always", "IfNotPresent", "Never")),
    f"{PREFIX}proxy-uid": ("uid", _uid),
    f"{PREFIX}proxy-gid": ("gid", _uid),
    f"{PREFIX}proxy-log-level": ("log_level", _text),
    f"{PREFIX}default-inbound-policy": ("default_inbound_policy", _one_of(*DEFAULT_POLICIES)),
    OPAQUE_PORTS: ("opaque_ports", _named_ports),
    f"{PREFIX}skip-inbound-ports": ("skip_inbound_ports", _ports),
    f"{PREFIX}skip-outbound-ports": ("skip_outbound_ports", _ports),
    f"{PREFIX}skip-subnets": ("skip_subnets", _subnets),
    f"{PREFIX}proxy-require-identity-inbound-ports": ("require_identity_ports", _ports),
    f"{PREFIX}pod-inbound-ports": ("inbound_ports", _ports),
    f"{PREFIX}proxy-outbound-connect-timeout": ("outbound_connect_timeout", _duration),
    f"{PREFIX}proxy-inbound-connect-timeout": ("inbound_connect_timeout", _duration),
    f"{PREFIX}proxy-outbound-discovery-cache-unused-timeout": ("outbound_discovery_idle", _duration),
    f"{PREFIX}proxy-inbound-discovery-cache-unused-timeout": ("inbound_discovery_idle", _duration),
    f"{PREFIX}shutdown-grace-period": ("shutdown_grace_period", _duration),
    f"{ALPHA_PREFIX}proxy-wait-before-exit-seconds": ("wait_before_exit_seconds", _number),
    f"{ALPHA_PREFIX}proxy-enable-native-sidecar": ("native", _truth),
    f"{PREFIX}proxy-enable-native-sidecar": ("native", _truth),
    f"{PREFIX}proxy-await": ("awaits", _enabled),
    f"{PREFIX}access-log": ("access_log", _one_of("apache", "json")),
    f"{PREFIX}proxy-admin-shutdown": ("shutdown_endpoint", _enabled),
    f"{PREFIX}proxy-cpu-request": ("cpu_request", _quantity),
    f"{PREFIX}proxy-cpu-limit": ("cpu_limit", _quantity),
    f"{PREFIX}proxy-memory-request": ("memory_request", _quantity),
    f"{PREFIX}proxy-memory-limit": ("memory_limit", _quantity),
    f"{PREFIX}proxy-ephemeral-storage-request": ("storage_request", _quantity),
    f"{PREFIX}proxy-ephemeral-storage-limit": ("storage_limit", _quantity),
}
"""By annotation: the setting, and how its text is read. Names are Linkerd's (`pkg/k8s/labels.go`)."""
