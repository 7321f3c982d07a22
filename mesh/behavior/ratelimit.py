"""HTTPLocalRateLimitPolicy: how many requests per second one inbound proxy lets through.

A bucket holds as many tokens as its rate and gains that many a second: a second's worth may come at once, and after a
quiet second it is full again. Linkerd's generic cell rate algorithm decides the same from one number, the time at which
the bucket will be full; rejected, since sums of 1/rate on top of a large clock lose whole tokens at high rates.

Order, as in linkerd2-proxy:

    total ──► the override that names the client, and nothing after it
        └───► the client's own bucket; all clients without an identity share one

A request that a later bucket refuses has spent its token in `total`: what is limited there is what arrives.

Own buckets are many and must not grow for ever. One that nobody touched for a second is full and need not be
remembered, so buckets live in two generations: those of this period and those of the one before; touched ones move to
the younger, and each period the older are dropped. That loses nothing. Within a period at most MAX_IDENTITIES have a
bucket of their own; further ones share one.
"""

from __future__ import annotations

from mesh.api.messages import RateLimitSpec

PERIOD_SECONDS = 1.0
"""What a full bucket holds is a second's worth."""
WHOLE = 1.0 - 1e-6
"""A token, less what rounding may have taken from it."""
MAX_IDENTITIES = 10_000
TOTAL, OVERRIDE, IDENTITY = "total", "override", "identity"
"""Which limit refused: the metrics' `ratelimit_scope`."""

_UNIDENTIFIED = ""
_FURTHER = "*"
"""Keys of shared buckets; neither is an identity."""


class Bucket:
    """`rate` requests per second, and at most that many at once. It begins full."""

    __slots__ = ("_at", "_level", "_rate")

    def __init__(self, rate: int) -> None:
        self._rate = float(rate)
        self._level = self._rate
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        """Spends a token; False where there is none."""
        level = self._level + (now - self._at) * self._rate if now > self._at else self._level
        if level > self._rate:
            level = self._rate
        self._at = now
        if level < WHOLE:
            self._level = level
            return False
        self._level = level - 1.0
        return True


class IdentityBuckets:
    """A bucket of `rate` for each identity, in bounded memory."""

    __slots__ = ("_limit", "_old", "_rate", "_since", "_young")

    def __init__(self, rate: int, limit: int = MAX_IDENTITIES) -> None:
        self._rate = rate
        self._limit = limit
        self._young: dict[str, Bucket] = {}
        self._old: dict[str, Bucket] = {}
        self._since = float("-inf")

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def take(self, identity: str | None, now: float) -> bool:
        """Spends a token of that identity's bucket; False where there is none."""
        if now - self._since >= PERIOD_SECONDS:
            # After two periods without a request the young ones are as old as that, too.
            self._old = self._young if now - self._since < 2 * PERIOD_SECONDS else {}
            self._young = {}
            self._since = now
        key = identity or _UNIDENTIFIED
        bucket = self._young.get(key)
        if bucket is None:
            bucket = self._remember(key)
        return bucket.take(now)

    def _remember(self, key: str) -> Bucket:
        young = self._young
        if len(young) >= self._limit and key != _UNIDENTIFIED:
            key = _FURTHER
        bucket = young.get(key) or self._old.pop(key, None) or Bucket(self._rate)
        young[key] = bucket
        return bucket


class RateLimiter:
    """The limits of one port."""

    __slots__ = ("_overrides", "_own", "_total", "spec")

    def __init__(self, spec: RateLimitSpec) -> None:
        self.spec = spec
        self._total = Bucket(spec.total) if spec.total else None
        self._own = IdentityBuckets(spec.identity) if spec.identity else None
        self._overrides: dict[str, Bucket] = {}
        for override in spec.overrides:
            if override.requests_per_second > 0:
                shared = Bucket(override.requests_per_second)
                for identity in override.identities:
                    self._overrides.setdefault(identity, shared)

    def refuses(self, identity: str | None, now: float) -> str | None:
        """None where the request may pass, else which limit it exceeds (TOTAL, OVERRIDE or IDENTITY)."""
        if self._total is not None and not self._total.take(now):
            return TOTAL
        if identity is not None and (override := self._overrides.get(identity)) is not None:
            return None if override.take(now) else OVERRIDE
        if self._own is not None and not self._own.take(identity, now):
            return IDENTITY
        return None
