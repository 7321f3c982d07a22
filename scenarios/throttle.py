"""What a throttled pod sends, as `tc qdisc tbf` counts and delays it: one rule for the wire, the embedded world's relay
and the twin.

A token bucket before one queue: a segment leaves when the bucket holds its size, and the bucket fills at the rate.
It is first in, first out over all connections of the pod. tbf drops what would wait longer than its `latency`, and TCP
sends that again; bytes are delayed and none is lost, so that the queue has no end here.
"""

from __future__ import annotations

DEFAULT_RATE = "64kbit"
BURST_BYTES = 3_000
"""Two frames, so that the rate bites at once."""
SEGMENT_BYTES = 1_448
HEADER_BYTES = 66
"""Of a segment: Ethernet 14, IPv4 20, TCP with timestamps 32. tbf counts them."""
RECORD_BYTES = 22
"""That TLS 1.3 adds to what is written at once: header 5, content type 1, tag 16."""
_UNITS = {"kbit": 1_000, "mbit": 1_000_000}


def bytes_per_second(rate: str) -> float:
    """Of a rate as tc writes it: `64kbit` is 64,000 bits."""
    return float(rate[:-4]) * _UNITS[rate[-4:]] / 8.0


def on_the_wire(size: float, waits: bool) -> float:
    """With segments' headers. What waits is sent together with what waits before it, in full segments."""
    segments = size / SEGMENT_BYTES if waits else -(-size // SEGMENT_BYTES)
    return size + HEADER_BYTES * segments


class TokenBucket:
    """The bucket alone. Time is an argument, in seconds."""

    def __init__(self, now: float, bytes_per_second: float, burst: float = BURST_BYTES) -> None:
        self._rate = bytes_per_second
        self._fills_in = burst / bytes_per_second
        self._empty_at = now - self._fills_in
        """When the bucket would have begun to fill for what it holds; later than now: what it owes."""

    def leaves_at(self, now: float, size: float) -> float:
        """When the last byte of `size` is out, behind everything that was given to it before."""
        self._empty_at = max(self._empty_at, now - self._fills_in) + size / self._rate
        return max(now, self._empty_at)
