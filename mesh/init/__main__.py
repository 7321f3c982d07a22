"""`python -m mesh.init`: redirects the pod's connections and ends. Flags are those of Linkerd's proxy-init.

Runs as 65534 with NET_ADMIN and NET_RAW. Exit codes: 0 redirected, 1 the kernel or its tools would not, 2 wrong flags.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mesh.init.apply import IF_INET6, VARIANTS, ApplyFailed, Run, apply, has_ipv6, run_command
from mesh.init.rules import InvalidRules, RedirectConfig, merged, parse_ports, parse_subnets

OWN_PORTS = ((4190, 4191),)
"""The proxy's tap and admin ports: reached directly, whatever the flags say."""


def parse(arguments: Sequence[str]) -> tuple[RedirectConfig, str]:
    """What to redirect, and the variant of iptables to try first. Ends the program on wrong flags."""
    flags = argparse.ArgumentParser(prog="python -m mesh.init", description="Redirects a pod's TCP to its proxy.")
    flags.add_argument("--incoming-proxy-port", type=int, default=4143, metavar="PORT")
    flags.add_argument("--outgoing-proxy-port", type=int, default=4140, metavar="PORT")
    flags.add_argument("--proxy-uid", type=int, default=2102, metavar="UID")
    flags.add_argument("--proxy-gid", type=int, default=None, metavar="GID")
    flags.add_argument("--inbound-ports-to-ignore", default="", metavar="PORTS", help="such as 25,8000-8010")
    flags.add_argument("--outbound-ports-to-ignore", default="", metavar="PORTS")
    flags.add_argument("--subnets-to-ignore", default="", metavar="CIDRS", help="of clients; such as 10.0.0.0/8")
    flags.add_argument("--iptables-mode", choices=VARIANTS, default="nft", help="tried first; then the other")
    given = flags.parse_args(arguments)
    try:
        config = RedirectConfig(
            inbound_port=given.incoming_proxy_port,
            outbound_port=given.outgoing_proxy_port,
            proxy_uid=given.proxy_uid,
            proxy_gid=given.proxy_gid,
            ignored_inbound=merged((*OWN_PORTS, *parse_ports(given.inbound_ports_to_ignore))),
            ignored_outbound=parse_ports(given.outbound_ports_to_ignore),
            ignored_subnets=parse_subnets(given.subnets_to_ignore),
        )
    except InvalidRules as error:
        flags.error(str(error))
    return config, given.iptables_mode


def main(arguments: Sequence[str] | None = None, run: Run = run_command) -> int:
    """The program."""
    config, prefer = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        used = [f"IPv4 ({apply(config, prefer=prefer, ipv6=False, run=run)})"]
        if _pod_has_ipv6():
            used.append(f"IPv6 ({apply(config, prefer=prefer, ipv6=True, run=run)})")
    except ApplyFailed as error:
        print(
            f"mesh.init: the pod's connections cannot be redirected: {error}; the container needs NET_ADMIN and "
            "NET_RAW, and the node's kernel nf_tables or ip_tables with REDIRECT, owner and multiport",
            file=sys.stderr,
        )
        return 1
    print(
        f"mesh.init: redirected {' and '.join(used)}: inbound to {config.inbound_port}, outbound to "
        f"{config.outbound_port} except of user {config.proxy_uid}"
    )
    return 0


def _pod_has_ipv6() -> bool:
    try:
        with open(IF_INET6, encoding="ascii") as file:
            return has_ipv6(file.read())
    except OSError:
        return False  # a kernel without IPv6


if __name__ == "__main__":
    sys.exit(main())
