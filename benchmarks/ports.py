"""Ports for programs that must be told theirs before they start.

To bind port 0, close and pass the number on is a bet: until the program listens, the kernel may give the same number
to any connection that leaves this machine, and with thousands of connections it does. These ports lie below the range
that the kernel takes from (32768-60999 on Linux, 49152-65535 on macOS), and no port is given twice by one process.
"""

from __future__ import annotations

import os
import socket

FIRST, LAST = 10_000, 32_000
_TOOK = {"next": FIRST + os.getpid() * 397 % (LAST - FIRST)}  # processes side by side start far apart


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on.

    Raises:
        OSError: every port of the range is taken.
    """
    for _ in range(LAST - FIRST):
        port = _TOOK["next"]
        _TOOK["next"] = port + 1 if port + 1 < LAST else FIRST
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port on {host} between {FIRST} and {LAST}")


def free_ports(count: int) -> list[int]:
    """So many different ones, on 127.0.0.1."""
    return [free_port() for _ in range(count)]
