"""What is wrong with values beyond their types: the field, and one sentence that says what it may be.

The rules are those of whoever reads the value in the end (proxy, control plane, Kubernetes): a mistake must show when
the user writes it, not as a pod that does not start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.values import Values
from mesh.behavior.authz import DEFAULT_POLICIES, parse_network
from mesh.control.log import LEVELS
from mesh.control.names import is_dns_name, is_label
from mesh.control.translate.annotations import suggestion
from mesh.proxy.log import InvalidFilter, parse_filter

Rule = Callable[[Any], str | None]

_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(@sha256:[0-9a-f]{64})?")


def problems_of(values: Values) -> Iterator[tuple[str, str]]:
    """Every mistake, in the order of the table below."""
    mapping = msgspec.to_builtins(values)
    for name, rule in _RULES.items():
        for field, value in _at(mapping, name):
            if (message := rule(value)) is not None:
                yield field, message
    if values.proxy.uid in (0, 65534):
        yield "proxy.uid", f"{values.proxy.uid} is not the sidecar's alone: its own traffic could not be told apart"


# ---- rules: None, or what is wrong


def _duration(text: str) -> str | None:
    try:
        seconds = parse_duration(text)
    except InvalidDuration as error:
        return str(error)
    return None if 0 < seconds < 1e9 else f"{text!r} must be longer than zero, and less than thirty years"


def _one_of(*known: str) -> Rule:
    def rule(text: str) -> str | None:
        if text in known:
            return None
        return f"{text!r} is not one of {', '.join(filter(None, known))}" + suggestion(text, known)

    return rule


def _between(low: int, high: int) -> Rule:
    return lambda number: None if low <= number <= high else f"{number} is not from {low} to {high}"


def _ports(text: str) -> str | None:
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        numbers = [first, last] if dash else [first]
        if not all(n.isascii() and n.isdigit() and 1 <= int(n) <= 65_535 for n in numbers):
            return f"{part!r} is neither a port (1..65535) nor a range such as 8000-8010"
        if int(numbers[0]) > int(numbers[-1]):
            return f"{part!r} is a range that ends before it begins"
    return None


def _single_ports(text: str) -> str | None:
    if "-" in text or not text.strip():
        return f"{text!r} is not a list of ports such as 443,6443"
    return _ports(text)


def _networks(text: str) -> str | None:
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            parse_network(part)
        except ValueError:
            return f"{part!r} is not a network; write CIDRs such as 10.0.0.0/8,fd00::/8"
    return None


def _some_networks(text: str) -> str | None:
    return _networks(text) if text.strip() else "must name a network; without one, nobody is in the cluster"


def _quantity(text: str) -> str | None:
    if not text or _QUANTITY.fullmatch(text):
        return None
    return f"{text!r} is not a quantity such as 100m, 0.5 or 250Mi"


def _filter(text: str) -> str | None:
    try:
        parse_filter(text)
    except InvalidFilter as error:
        return str(error)
    return None


def _matching(pattern: re.Pattern[str], what: str) -> Rule:
    return lambda text: None if pattern.fullmatch(text) else f"{text!r} is not {what}"


def _named(check: Callable[[str], bool], what: str) -> Rule:
    return lambda text: None if check(text) else f"{text!r} is not {what}"


_RULES: dict[str, Rule] = {
    "image.name": _matching(_IMAGE, "an image's name such as registry.example/mesh"),
    "image.version": _matching(_TAG, "an image's tag"),
    "image.pullPolicy": _one_of("Always", "IfNotPresent", "Never"),
    "imagePullSecrets.*": _named(is_dns_name, "the name of a Secret"),
    "identityTrustDomain": _named(is_dns_name, "a DNS name"),
    "clusterDomain": _named(is_dns_name, "a DNS name"),
    "clusterNetworks": _some_networks,
    "controllerReplicas": _between(1, 100),
    "controllerLogLevel": _one_of(*LEVELS),
    "webhookFailurePolicy": _one_of("Ignore", "Fail"),
    "identity.issuer.issuanceLifetime": _duration,
    "identity.issuer.clockSkewAllowance": _duration,
    "identity.issuer.minRefresh": _duration,
    "proxyInjector.timeoutSeconds": _between(1, 30),
    "proxyInjector.excludedNamespaces.*": _named(is_label, "a namespace's name"),
    "proxy.uid": _between(0, 2**31 - 1),
    "proxy.logLevel": _filter,
    "proxy.defaultInboundPolicy": _one_of(*DEFAULT_POLICIES),
    "proxy.opaquePorts": _ports,
    "proxy.outboundConnectTimeout": _duration,
    "proxy.inboundConnectTimeout": _duration,
    "proxy.outboundDiscoveryCacheUnusedTimeout": _duration,
    "proxy.inboundDiscoveryCacheUnusedTimeout": _duration,
    "proxy.shutdownGracePeriod": _duration,
    "proxy.waitBeforeExitSeconds": _between(0, 3600),
    "proxy.accessLog": _one_of("", "apache", "json"),
    **{
        f"proxy.{probe}Probe.{field}": _between(low, 3600)
        for probe in ("startup", "liveness", "readiness")
        for field, low in (
            ("initialDelaySeconds", 0),
            ("periodSeconds", 1),
            ("timeoutSeconds", 1),
            ("failureThreshold", 1),
        )
    },
    "proxyInit.ignoreInboundPorts": _ports,
    "proxyInit.ignoreOutboundPorts": _ports,
    "proxyInit.skipSubnets": _networks,
    "proxyInit.iptablesMode": _one_of("nft", "legacy"),
    "proxyInit.logLevel": _one_of(*LEVELS),
    "viz.scrapeInterval": _duration,
    "networkPolicies.apiServerPorts": _single_ports,
    **{
        f"{part}.resources.{what}.{bound}": _quantity
        for part in ("identity", "destination", "policyController", "proxyInjector", "proxy", "proxyInit", "viz")
        for what in ("cpu", "memory")
        for bound in ("request", "limit")
    },
}


def _at(mapping: Any, name: str) -> list[tuple[str, Any]]:
    """The values that `name` stands for; `*` is every item of a list."""
    found: list[tuple[str, Any]] = [("", mapping)]
    for step in name.split("."):
        if step == "*":
            found = [(f"{field}[{i}]", item) for field, items in found for i, item in enumerate(items)]
        else:
            found = [(f"{field}.{step}" if field else step, value[step]) for field, value in found]
    return found
