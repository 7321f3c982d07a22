"""What the first bytes of an inbound connection say, before anything is consumed or answered.

A TLS connection begins with a handshake record: type 22, major version 3. No HTTP method does. One byte is therefore
enough to tell the two apart, and a byte is what a peer that trickles its greeting gives us.
"""

from __future__ import annotations

import enum

HANDSHAKE_RECORD = 0x16


class Greeting(enum.Enum):
    TLS = "tls"
    PLAINTEXT = "plaintext"


def detect(first: bytes) -> Greeting:
    """The protocol that `first` (at least one byte) begins."""
    return Greeting.TLS if first[0] == HANDSHAKE_RECORD else Greeting.PLAINTEXT
