"""Where a part of the control plane is: its DNS name as addresses, looked up in a thread, away from the loop.

A lookup serves everybody who wants to connect within `FRESH_SECONDS` of it: each watch has a connection of its own, and
when the control plane restarts all of them come at once. Whoever gets the addresses gets them in an order of its own,
so that clients spread over replicas and a dead one costs one try. Where DNS does not answer, the last addresses are
used: a Service keeps its address for as long as it lives, and the mesh must not depend on DNS more than it has to.

Rejected: a resolver of our own on the loop (a second opinion about /etc/resolv.conf and /etc/hosts).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from random import Random

FRESH_SECONDS = 5.0
"""CoreDNS tells clients to remember a Service for as long."""
PATIENCE_SECONDS = 1.0
"""How long a lookup may take where older addresses are at hand."""

LookUp = Callable[[str, int], Awaitable[list[str]]]

log = logging.getLogger("control")


class Resolver:
    """The addresses of one host name; of a literal address, itself."""

    def __init__(self, host: str, port: int, rng: Random, look_up: LookUp | None = None) -> None:
        """`host` is looked up as it is: with a dot at its end, in no search domain."""
        self._host = host
        self._port = port
        self._rng = rng
        self._look_up = look_up if look_up is not None else _look_up
        self._known: list[str] = [host] if _is_literal(host) else []
        self._literal = bool(self._known)
        self._fresh_until = 0.0
        self._lookup: asyncio.Task[list[str]] | None = None

    async def addresses(self) -> list[str]:
        """At least one, in the order in which to try them.

        Raises:
            OSError: the name has never been found.
        """
        if not self._literal and asyncio.get_running_loop().time() >= self._fresh_until:
            await self._refresh()
        found = list(self._known)
        self._rng.shuffle(found)
        return found

    def failed(self) -> None:
        """Nobody answered at any of the addresses: the next one who asks has them looked up anew."""
        self._fresh_until = 0.0

    async def _refresh(self) -> None:
        task = self._lookup
        if task is None:
            task = self._lookup = asyncio.get_running_loop().create_task(self._run())
            task.add_done_callback(self._done)
        try:
            # Shielded: it is everybody's, whoever of them gives up.
            async with asyncio.timeout(PATIENCE_SECONDS if self._known else None):
                await asyncio.shield(task)
        except OSError as error:  # TimeoutError is one
            if not self._known:
                raise
            log.warning("%s is not found (%s); using %s", self._host, error or "no answer", ", ".join(self._known))

    async def _run(self) -> list[str]:
        found = await self._look_up(self._host, self._port)
        if not found:
            raise OSError(f"{self._host} has no address")
        self._known = found
        self._fresh_until = asyncio.get_running_loop().time() + FRESH_SECONDS
        return found

    def _done(self, task: asyncio.Task[list[str]]) -> None:
        self._lookup = None
        if not task.cancelled():
            task.exception()  # whoever waited has it


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _look_up(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
