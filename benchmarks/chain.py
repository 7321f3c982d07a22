"""A chain of proxies: its places, and the credentials of both ends.

one hop     client ─► a ─► app                        plaintext
two hops    client ─► a ═ mTLS, TLS 1.3 ═► b ─► app    both ends verify against one trust anchor, P-256 leaves
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import Command, free_ports
from mesh.control.names import identity_name
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

NAMES = {place: identity_name(place, "bench") for place in ("a", "b")}
"""TLS names of the two ends."""


@dataclass(frozen=True, slots=True)
class Node:
    """One place in a chain."""

    place: str
    listen: int
    upstream: int
    tls_in: bool
    tls_out: bool
    directory: Path
    """Holds the credentials and takes the configuration file."""
    identity_port: int = 0

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


def identity_service(directory: Path) -> Command:
    listen, admin = free_ports(2)
    argv = [sys.executable, "-m", "mesh.control", "identity", "--listen", f"127.0.0.1:{listen}"]
    argv += ["--admin", f"127.0.0.1:{admin}", "--trust-anchors", str(directory / "anchor.pem")]
    argv += ["--issuer", str(directory / "issuer"), "--token-key", str(directory / "token.pub")]
    return Command(argv, listen)


def write_credentials(directory: Path) -> None:
    """Trust anchor, issuer, and for both ends a leaf (the peers) and a token (our proxy asks for its leaf itself)."""
    anchor = create_trust_anchor()
    issuer = create_issuer(anchor)
    (directory / "anchor.pem").write_text(anchor.certificate_pem)
    write_issuer_dir(directory / "issuer", issuer, anchor)
    signer = TokenSigner.generate()
    (directory / "token.pub").write_text(signer.public_pem)
    for place, name in NAMES.items():
        key = create_key()
        leaf = issue_leaf(issuer, name, key.public_key(), now=time.time())
        text = to_pem(leaf) + issuer.certificate_pem + private_key_pem(key)
        (directory / f"{place}.pem").write_text(text)
        (directory / f"{place}.token").write_text(signer.sign("bench", place, time.time() + 3600))
