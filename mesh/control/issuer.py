"""The issuer directory, reloaded when its content changes.

Content is compared, not times or file-system events: Kubernetes swaps a symlink when it updates a Secret, and
Linkerd's watch for that has silently missed rotations until the issuer expired (linkerd2 #15109). A new issuer that
cannot be used is refused with one log line and a count, and the old one goes on signing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.pki import Authority, InvalidCredentials, load_issuer

POLL_SECONDS = 0.5


class IssuerDirectory:
    """The current issuer."""

    def __init__(
        self,
        directory: Path,
        anchors: list[x509.Certificate],
        log: Log,
        metrics: Metrics,
        clock: Callable[[], float],
        read: Callable[[Path], bytes] | None = None,
    ) -> None:
        self._directory = directory
        self._anchors = anchors
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._read = read if read is not None else Path.read_bytes
        self._seen: tuple[bytes, bytes] | str | None = None
        self.issuer: Authority | None = None
        metrics.counter("issuer_updates_total", "New issuers found, by result")
        metrics.gauge("issuer_cert_ttl_seconds", "Seconds left to the issuer chain's expiry", self._ttl)

    def load(self) -> None:
        """The first read. Raises InvalidCredentials."""
        content = self._content()
        self.issuer = self._make(content)
        self._seen = content

    def poll(self) -> bool:
        """Looks again; whether there is a new issuer."""
        try:
            content = self._content()
        except InvalidCredentials as error:
            return self._skip(str(error), str(error))
        if content == self._seen:
            return False
        try:
            issuer = self._make(content)
        except InvalidCredentials as error:
            return self._skip(content, str(error))
        self.issuer, self._seen = issuer, content
        self._metrics.add("issuer_updates_total", result="updated")
        self._log.info("updated identity issuer", event="IssuerUpdated", expires_in_seconds=round(self._ttl()))
        return True

    def _skip(self, seen: tuple[bytes, bytes] | str, reason: str) -> bool:
        if seen != self._seen:
            self._seen = seen
            self._metrics.add("issuer_updates_total", result="skipped")
            self._log.warn("skipping issuer update; the old issuer stays", event="IssuerUpdateSkipped", reason=reason)
        return False

    def _make(self, content: tuple[bytes, bytes]) -> Authority:
        return load_issuer(*content, self._anchors, self._clock())

    def _content(self) -> tuple[bytes, bytes]:
        contents = []
        for name in ("tls.crt", "tls.key"):
            path = self._directory / name
            try:
                contents.append(self._read(path))
            except OSError as error:
                raise InvalidCredentials(f"{path}: {error.strerror or error}") from None
        return contents[0], contents[1]

    def _ttl(self) -> float:
        return self.issuer.not_after - self._clock() if self.issuer is not None else 0.0
