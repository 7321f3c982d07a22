"""Who is at the other end of an accepted connection, and what may be told to them."""

from __future__ import annotations

from typing import Any


class Session:
    """One accepted connection, as policy, metrics, logs and tap see it."""

    __slots__ = (
        "informational",
        "local",
        "peer",
        "peer_identity",
        "peer_ip",
        "permit",
        "permit_generation",
        "port",
        "target",
        "tls",
        "verdict",
    )

    @property
    def local_ip(self) -> str:
        return self.local.rpartition(":")[0].strip("[]")

    def __init__(
        self,
        peer: str = "",
        local: str = "",
        *,
        target: str | None = None,
        identity: str | None = None,
        tls: bool = False,
        informational: bool = True,
    ) -> None:
        self.peer = peer
        """`ip:port` of the client."""
        self.peer_ip = peer.rpartition(":")[0].strip("[]")
        self.local = local
        """`ip:port` that the client dialled (the original destination where the connection was redirected)."""
        self.target = target
        """The same, where the connection did not mean us: it was redirected, or forwarded from a port; else None."""
        self.peer_identity = identity
        """DNS name in the client's verified certificate; None: un-meshed."""
        self.tls = tls
        self.informational = informational
        """Whether this client may see the proxy's own headers."""
        self.port: Any = None
        """Inbound: the `Port` of the app that this connection is for; None: for none that we serve."""
        self.permit: Any = None
        """What the inbound policy decided for this connection, for `permit_generation` of the policy."""
        self.permit_generation = -1
        self.verdict: Any = None
        """What it decided last, for a request that is just being let in."""
