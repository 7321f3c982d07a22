"""When a proxy asks for its next certificate.

After every attempt, good or bad, it sleeps 70 % of the life that is left, clamped (linkerd2-proxy
`proxy/identity-client/src/certify.rs`). With a 24 h leaf and the issuer away, attempts fall at 16.8 h, 21.8 h, 23.4 h,
… and then every `minimum`. An expired leaf leaves zero life, so the rule itself keeps asking every `minimum` seconds
for ever; that the request is then *accepted* is what heals this mesh after expiry, since the request carries a
token and not the expired certificate.
"""

from __future__ import annotations

RENEW_AT_SHARE = 0.7
MIN_REFRESH_SECONDS = 10.0
MAX_REFRESH_SECONDS = 86_400.0


def next_attempt_delay(
    now: float, expires_at: float | None, minimum: float = MIN_REFRESH_SECONDS, maximum: float = MAX_REFRESH_SECONDS
) -> float:
    """Seconds to sleep after an attempt that ended at `now`; `expires_at` None means that no leaf was ever issued."""
    remaining = max(0.0, expires_at - now) if expires_at is not None else 0.0
    return min(max(remaining * RENEW_AT_SHARE, minimum), maximum)
