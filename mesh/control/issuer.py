"""The issuer, taken up anew when its content changes: from a directory, or from a Secret (`issuer_secret.py`).

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


Content = tuple[bytes, bytes]
"""tls.crt and tls.key."""
Tell = Callable[[str, str], None]
"""Takes an event's reason and its text."""


class Issuers:
    """The current issuer."""

    def __init__(
        self,
        read: Callable[[], Content],
        anchors: list[x509.Certificate],
        log: Log,
        metrics: Metrics,
        clock: Callable[[], float],
        tell: Tell = lambda reason, text: None,
    ) -> None:
        """`read` raises InvalidCredentials where there is no issuer."""
        self._content = read
        self._anchors = anchors
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._tell = tell
        self._seen: Content | str | None = None
        self.issuer: Authority | None = None
        metrics.counter("issuer_updates_total", "New issuers found, by result")
        metrics.gauge("issuer_cert_ttl_seconds", "Seconds left to the issuer chain's expiry", self._ttl)

    def load(self) -> None:
        """The first read. Raises InvalidCredentials."""
        content = self._content()
        self.issuer = self._make(content)
        self._seen = content

    def trust(self, anchors: list[x509.Certificate]) -> None:
        """Other trust anchors: an issuer that was refused may be good now."""
        self._anchors = anchors
        self._seen = None

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
        self._seen = content
        if (
            self.issuer is not None
            and issuer.certificate == self.issuer.certificate
            and issuer.chain == self.issuer.chain
        ):
            return False
        self.issuer = issuer
        self._metrics.add("issuer_updates_total", result="updated")
        self._log.info("updated identity issuer", event="IssuerUpdated", expires_in_seconds=round(self._ttl()))
        self._tell("IssuerUpdated", "Updated identity issuer")
        return True

    def _skip(self, seen: Content | str, reason: str) -> bool:
        if seen == self._seen:
            return False
        self._seen = seen
        self._metrics.add("issuer_updates_total", result="skipped")
        if self.issuer is None:
            self._log.error("issuer cannot be used; no certificates are issued", reason=reason)
            self._tell("IssuerValidationFailed", reason)
        else:
            self._log.warn("skipping issuer update; the old issuer stays", event="IssuerUpdateSkipped", reason=reason)
            self._tell("IssuerUpdateSkipped", f"Skipping issuer update: {reason}")
        return False

    def _make(self, content: Content) -> Authority:
        return load_issuer(*content, self._anchors, self._clock())

    def _ttl(self) -> float:
        return self.issuer.not_after - self._clock() if self.issuer is not None else 0.0


class IssuerDirectory(Issuers):
    """The issuer in a directory's `tls.crt` and `tls.key`."""

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
        self._read = read if read is not None else Path.read_bytes
        super().__init__(self._files, anchors, log, metrics, clock)

    def _files(self) -> Content:
        contents = []
        for name in ("tls.crt", "tls.key"):
            path = self._directory / name
            try:
                contents.append(self._read(path))
            except OSError as error:
                raise InvalidCredentials(f"{path}: {error.strerror or error}") from None
        return contents[0], contents[1]
