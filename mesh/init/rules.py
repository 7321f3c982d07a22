"""The iptables rules of a meshed pod, as input of iptables-restore.

    inbound    PREROUTING ─► PROXY_INIT_REDIRECT: ignored ports and source networks as they are, other TCP to 4143
    outbound   OUTPUT ─► PROXY_INIT_OUTPUT: the proxy's own traffic, loopback and ignored ports as they are, other TCP
                         to 4140

Chains, order and comments are those of Linkerd's proxy-init (`pkg/iptables`). The proxy finds where a redirected
connection was going by SO_ORIGINAL_DST.

All of it is one table for one `iptables-restore --noflush`, which the kernel takes in whole or not at all; Linkerd runs
one `iptables` for each rule, so a pod whose init container is killed half-way has half of them. A declared chain is
emptied first, and jumps to ours that are there already (`existing`) go in the same transaction: the result is the same
however often it runs. What others put into the table stays.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

REDIRECT_CHAIN = "PROXY_INIT_REDIRECT"
OUTPUT_CHAIN = "PROXY_INIT_OUTPUT"
MULTIPORT_MAX = 15
"""Ports of one multiport match; a range counts twice (iptables-extensions(8))."""
MAX_PORT = 65535

PortRange = tuple[int, int]
"""First and last port, both in it."""


class InvalidRules(ValueError):
    """A port, range or network that is none; the text is for the user."""


@dataclass(frozen=True, slots=True)
class RedirectConfig:
    """What is redirected where."""

    inbound_port: int = 4143
    """The proxy's, for connections from outside the pod."""
    outbound_port: int = 4140
    """The proxy's, for connections of the app."""
    proxy_uid: int = 2102
    """User of the proxy: what it sends is not redirected, or it would go round for ever."""
    proxy_gid: int | None = None
    """The same for a group; None: no such rule."""
    ignored_inbound: tuple[PortRange, ...] = ((4190, 4191),)
    """Ports of the pod that are reached directly. The proxy's own tap and admin ports always are."""
    ignored_outbound: tuple[PortRange, ...] = ()
    """Ports elsewhere that the app reaches directly."""
    ignored_subnets: tuple[str, ...] = ()
    """Networks of clients whose connections are not redirected; IPv4 and IPv6 mixed."""


def parse_ports(text: str) -> tuple[PortRange, ...]:
    """`25,4190-4191` as ranges, in order, without overlaps; empty text is none.

    Raises:
        InvalidRules: something in it is neither a port nor a range of ports.
    """
    found: list[PortRange] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidRules(f"{part!r} is neither a port nor a range of ports")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= MAX_PORT:
            raise InvalidRules(f"{part!r} is not within 1-{MAX_PORT}")
        found.append((low, high))
    return merged(found)


def merged(ranges: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The same ports in as few ranges as it takes, in order."""
    result: list[PortRange] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], high))
        else:
            result.append((low, high))
    return tuple(result)


def parse_subnets(text: str) -> tuple[str, ...]:
    """`10.0.0.0/8,fd00::/8` as networks; a bare address is a network of one.

    Raises:
        InvalidRules: something in it is no network.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(str(ip_network(part)))
        except ValueError:
            raise InvalidRules(f"{part!r} is not a network; write CIDRs such as 10.0.0.0/8,fd00::/8") from None
    return tuple(found)


def multiport_groups(ranges: Iterable[PortRange]) -> list[str]:
    """The ranges as arguments of `--dports`, each within what one rule can hold."""
    groups: list[list[str]] = []
    room = 0
    for low, high in ranges:
        size = 1 if low == high else 2
        if size > room:
            groups.append([])
            room = MULTIPORT_MAX
        groups[-1].append(str(low) if low == high else f"{low}:{high}")
        room -= size
    return [",".join(group) for group in groups]


def restore_input(config: RedirectConfig, *, ipv6: bool = False, existing: str = "") -> str:
    """Input of `iptables-restore --noflush` (with `ipv6`, of ip6tables-restore) that makes the nat table redirect.

    `existing`: what `iptables-save -t nat` says now.
    """
    lines = ["*nat", f":{REDIRECT_CHAIN} - [0:0]", f":{OUTPUT_CHAIN} - [0:0]"]
    lines += _old_jumps(existing)
    lines += _redirect_rules(config, ipv6)
    lines.append(_rule("PREROUTING", f"-j {REDIRECT_CHAIN}", "install-proxy-init-prerouting"))
    lines += _output_rules(config)
    lines.append(_rule("OUTPUT", f"-j {OUTPUT_CHAIN}", "install-proxy-init-output"))
    lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def _redirect_rules(config: RedirectConfig, ipv6: bool) -> list[str]:
    rules = [
        _rule(REDIRECT_CHAIN, f"-p tcp -m multiport --dports {ports} -j RETURN", f"ignore-port-{ports}")
        for ports in multiport_groups(config.ignored_inbound)
    ]
    family = IPv6Network if ipv6 else IPv4Network
    rules += [
        _rule(REDIRECT_CHAIN, f"-s {subnet} -j RETURN", f"ignore-subnet-{subnet}")
        for subnet in config.ignored_subnets
        if isinstance(ip_network(subnet), family)
    ]
    to_port = f"-p tcp -j REDIRECT --to-ports {config.inbound_port}"
    return [*rules, _rule(REDIRECT_CHAIN, to_port, "redirect-all-incoming-to-proxy-port")]


def _output_rules(config: RedirectConfig) -> list[str]:
    rules = [_rule(OUTPUT_CHAIN, f"-m owner --uid-owner {config.proxy_uid} -j RETURN", "ignore-proxy-user-id")]
    if config.proxy_gid is not None:
        group = f"-m owner --gid-owner {config.proxy_gid} -j RETURN"
        rules.append(_rule(OUTPUT_CHAIN, group, "ignore-proxy-group-id"))
    rules.append(_rule(OUTPUT_CHAIN, "-o lo -j RETURN", "ignore-loopback"))
    rules += [
        _rule(OUTPUT_CHAIN, f"-p tcp -m multiport --dports {ports} -j RETURN", f"ignore-port-{ports}")
        for ports in multiport_groups(config.ignored_outbound)
    ]
    to_port = f"-p tcp -j REDIRECT --to-ports {config.outbound_port}"
    return [*rules, _rule(OUTPUT_CHAIN, to_port, "redirect-all-outgoing-to-proxy-port")]


def _rule(chain: str, what: str, comment: str) -> str:
    match, _, target = what.rpartition("-j ")
    return f"-A {chain} {match}-m comment --comment proxy-init/{comment} -j {target}"


def _old_jumps(existing: str) -> list[str]:
    """Deletes each jump to our chains that a former run left. `iptables-save` prints a rule as it can be given back."""
    found = []
    for line in existing.splitlines():
        words = shlex.split(line) if line.startswith("-A ") else []
        if len(words) < 4 or words[1] not in ("PREROUTING", "OUTPUT") or "-j" not in words:
            continue
        if words[words.index("-j") + 1 :][:1] in ([REDIRECT_CHAIN], [OUTPUT_CHAIN]):
            found.append(line.replace("-A", "-D", 1))
    return found
