"""Who may call this workload. For now the default policy of the port; policy resources will be matched here.

Until the policy service answers, and while it is away, the default from our own environment or the last answer applies,
as in Linkerd.
"""

from __future__ import annotations

from mesh.api.messages import InboundPolicy, WatchMessage


class PortPolicy:
    """The inbound policy of the one port that this proxy serves."""

    def __init__(self, default_policy: str) -> None:
        self.default_policy = default_policy

    def apply(self, message: WatchMessage) -> None:
        """Takes in a message of the inbound watch."""
        if isinstance(message, InboundPolicy):
            self.default_policy = message.default_policy

    def allows(self, client_identity: str | None) -> bool:
        """Whether a client of that identity (None: un-meshed) may send a request. An unknown policy denies."""
        if self.default_policy in ("all-authenticated", "cluster-authenticated"):
            return client_identity is not None
        return self.default_policy in ("all-unauthenticated", "cluster-unauthenticated", "audit")
