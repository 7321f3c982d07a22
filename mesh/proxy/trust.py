"""Whom this proxy trusts: a bundle of trust anchors, from a variable or from a file that may change at any time.

    file ──► stat (every 3 s) ──► changed? ──► parse_anchors ──► new bundle ──► whoever asked `on_change`
                                                     └── broken: logged, counted, the old bundle stays

Linkerd bakes the bundle into each pod at injection, so that rotating a trust anchor restarts the whole data plane
twice. Here the file of a mounted ConfigMap does: Kubernetes swaps the `..data` link, the file behind the same path
becomes another one, and inode and time tell. Polling costs one system call and needs no inotify, whose watches follow
the link's old target.

A bundle is taken whole or not at all. One that is cut short in the middle (a file written in place) does not parse, and
is looked at again until it does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from mesh.proxy.metrics import Registry

POLL_SECONDS = 3.0

log = logging.getLogger("identity")


class InvalidAnchors(ValueError):
    """No bundle of trust anchors; the text says why."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """A bundle that OpenSSL has read."""

    pem: str
    count: int
    earliest_expiry: float
    """Unix seconds."""


def parse_anchors(pem: str) -> Anchors:
    """Reads a bundle.

    Raises:
        InvalidAnchors: it cannot be read to its end, or has no CA in it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise InvalidAnchors(f"not a PEM bundle: {getattr(error, 'reason', None) or error}") from None
    authorities = context.get_ca_certs()
    if not authorities:
        raise InvalidAnchors("no certificate in it is a CA")
    expiries = [ssl.cert_time_to_seconds(str(authority["notAfter"])) for authority in authorities]
    return Anchors(pem, len(authorities), min(expiries))


def read_anchors(path: str) -> Anchors:
    """The bundle in a file.

    Raises:
        InvalidAnchors: no file, or no bundle in it.
    """
    try:
        with open(path, encoding="ascii") as file:
            return parse_anchors(file.read())
    except OSError as error:
        raise InvalidAnchors(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidAnchors("not a PEM bundle: not ASCII") from None


class TrustBundle:
    """The anchors now in force. `path` None: they never change."""

    def __init__(self, pem: str, path: str | None, registry: Registry) -> None:
        """Raises InvalidAnchors."""
        self._path = path
        self._seen: object = None
        """What the file looked like when it was last read."""
        self._complaint = ""
        self._changed: list[Callable[[], None]] = []
        self._count = registry.gauges("control_identity_trust_anchors", "Trust anchors in force.").counter()
        self._expiry = registry.gauges(
            "control_identity_trust_anchors_expiration_timestamp_seconds", "Unix second at which the first expires."
        ).counter()
        reloads = registry.counters(
            "control_identity_trust_anchors_reloads_total", "Times that the file of trust anchors was found changed."
        )
        self._ok = reloads.counter({"result": "ok"})
        self._error = reloads.counter({"result": "error"})
        self._take(parse_anchors(pem))

    @property
    def pem(self) -> str:
        return self._anchors.pem

    def on_change(self, callback: Callable[[], None]) -> None:
        """`callback` runs after each change."""
        self._changed.append(callback)

    async def watch(self) -> None:
        """Follows the file. Cancel the task to stop."""
        while self._path is not None:
            self.look()
            await asyncio.sleep(POLL_SECONDS)

    def look(self) -> None:
        """Takes the file's bundle where it is another one."""
        assert self._path is not None
        try:
            status = os.stat(self._path)
            stamp: object = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError as error:
            stamp = error.errno
        if stamp == self._seen and not self._complaint:
            return
        try:
            anchors = read_anchors(self._path)
        except InvalidAnchors as error:
            complaint = f"{stamp} {error}"
            if complaint != self._complaint:
                self._error.value += 1
                log.error("trust anchors in %s: %s; those of before stay in force", self._path, error)
            self._complaint = complaint
            return
        self._seen, self._complaint = stamp, ""
        if anchors.pem == self.pem:
            return
        self._ok.value += 1
        self._take(anchors)
        log.warning("trust anchors in %s: %d now in force", self._path, anchors.count)
        for callback in self._changed:
            callback()

    def _take(self, anchors: Anchors) -> None:
        self._anchors = anchors
        self._count.value = anchors.count
        self._expiry.value = anchors.earliest_expiry
