"""A chain of proxies: its places, and the credentials of both ends.

one hop     client ─► a ─► app                        plaintext
two hops    client ─► a ═ mTLS, TLS 1.3 ═► b ─► app    both ends verify against one trust anchor, P-256 leaves
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.control.names import component_name, identity_name
from mesh.control.pki import (
    create_issuer,
    create_key,
    create_trust_anchor,
    issue_leaf,
    private_key_pem,
    to_pem,
    write_issuer_dir,
)
from mesh.control.tokens import TokenSigner

if TYPE_CHECKING:
    from benchmarks.mesh import Mesh

NAMESPACE = "bench"
NAMES = {place: identity_name(place, NAMESPACE) for place in ("a", "b")}
"""TLS names of the two ends."""
TOKEN_SECONDS = 24 * 3600.0


class Wire(enum.Enum):
    """What client and app speak; between two proxies each peer speaks what it speaks."""

    HTTP1 = "HTTP/1.1"
    HTTP2 = "HTTP/2"
    TCP = "TCP"


@dataclass(frozen=True, slots=True)
class Node:
    """One place in a chain."""

    place: str
    listen: int
    upstream: int
    wire: Wire
    tls_in: bool
    tls_out: bool
    directory: Path
    """Holds the credentials and takes the configuration file."""
    admin: int = 0
    """Port for our proxy's metrics."""
    mesh: Mesh | None = None
    """The control plane of our proxy."""

    def file(self, name: str, text: str) -> str:
        path = self.directory / f"{self.place}-{name}"
        path.write_text(text)
        return str(path)

    @property
    def anchor(self) -> str:
        return str(self.directory / "anchor.pem")

    @property
    def credentials(self) -> str:
        """Leaf, issuer and key in one PEM file."""
        return str(self.directory / f"{self.place}.pem")


def write_credentials(directory: Path) -> None:
    """Trust anchor, issuer, leaves for both ends of a peer's chain, and tokens with which ours ask for their own."""
    anchor = create_trust_anchor()
    issuer = create_issuer(anchor)
    (directory / "anchor.pem").write_text(anchor.certificate_pem)
    write_issuer_dir(directory / "issuer", issuer, anchor)
    signer = TokenSigner.generate()
    (directory / "token.pub").write_text(signer.public_pem)
    expires = time.time() + TOKEN_SECONDS
    for component in ("destination", "policy"):
        _, namespace = component_name(component).split(".")[:2]
        (directory / f"{component}.token").write_text(signer.sign(namespace, f"linkerd-{component}", expires))
    for place, name in NAMES.items():
        key = create_key()
        leaf = issue_leaf(issuer, name, key.public_key(), now=time.time())
        text = to_pem(leaf) + issuer.certificate_pem + private_key_pem(key)
        (directory / f"{place}.pem").write_text(text)
        (directory / f"{place}.token").write_text(signer.sign(NAMESPACE, place, expires))
