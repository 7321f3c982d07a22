"""The control plane's trust anchors, from a file that may change: a mounted ConfigMap.

The file's bytes are compared every few seconds (see `issuer.py` for why no file-system events). A bundle is taken whole
or not at all; one that cannot be read leaves the old one in force. Whoever verifies with the anchors asks for
`on_change`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from mesh.control.log import Log
from mesh.control.pki import InvalidCredentials, load_certificates

POLL_SECONDS = 3.0

Trust = Callable[[list[x509.Certificate]], None]


class TrustAnchors:
    """The bundle in force."""

    def __init__(self, path: Path, certificates: list[x509.Certificate], log: Log) -> None:
        self.certificates = certificates
        self._path = path
        self._log = log
        self._complaint = ""
        self._changed: list[Trust] = []

    def on_change(self, trust: Trust) -> None:
        self._changed.append(trust)

    async def watch(self) -> None:
        """Follows the file until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.poll()

    def poll(self) -> bool:
        """Looks again; whether there are other anchors."""
        try:
            found = load_certificates(self._path.read_bytes(), str(self._path))
        except (InvalidCredentials, OSError) as error:
            if str(error) != self._complaint:
                self._log.error("trust anchors cannot be read; the old ones stay in force", reason=error)
            self._complaint = str(error)
            return False
        self._complaint = ""
        if found == self.certificates:
            return False
        self.certificates = found
        self._log.info("trust anchors changed", count=len(found))
        for trust in self._changed:
            trust(found)
        return True
