"""What a connection was meant for before iptables redirected it to the proxy (`mesh.init`)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct

from mesh.proxy.config import Address

SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h; `IP6T_SO_ORIGINAL_DST` is the same number at level IPPROTO_IPV6."""


def original_destination(sock: socket.socket) -> Address | None:
    """What the client dialled before the connection was redirected to us; None where it dialled us."""
    if not hasattr(sock, "getsockopt") or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        if sock.family == socket.AF_INET:
            found = parse_original_destination(sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
        else:
            found = parse_original_destination(sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28))
    except (OSError, AttributeError):
        return None  # not redirected (ENOENT), or a system that cannot redirect
    own = sock.getsockname()
    return None if found is None or (found.host, found.port) == (own[0], own[1]) else found


def dialled(transport: asyncio.BaseTransport) -> Address | None:
    """The same of an accepted connection's transport."""
    sock = transport.get_extra_info("socket")
    return original_destination(sock) if sock is not None else None


def parse_original_destination(raw: bytes) -> Address | None:
    """A `sockaddr_in` or `sockaddr_in6`; None where it is neither."""
    if len(raw) < 8:
        return None
    (family,) = struct.unpack_from("=H", raw)
    (port,) = struct.unpack_from("!H", raw, 2)
    if family == socket.AF_INET:
        return Address(str(ipaddress.IPv4Address(raw[4:8])), port)
    if family == socket.AF_INET6 and len(raw) >= 24:
        ip = ipaddress.IPv6Address(raw[8:24])
        return Address(str(ip.ipv4_mapped or ip), port)
    return None
