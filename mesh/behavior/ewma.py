"""Peak-EWMA: an endpoint's latency estimate that believes bad news at once and good news slowly.

A sample above the estimate replaces it; one below moves it down with time constant `decay`. Without samples the
estimate decays toward zero, so that an endpoint that was slow is tried again. The cost that balancing compares is the
estimate times (requests in flight + 1). Status codes play no part: a fast 503 makes an endpoint look cheap, in Linkerd
and here (tower `peak_ewma.rs`). Where that is not wanted, `penalize-failures` has `biased` say how long such an
answer counts to have taken.
"""

from __future__ import annotations

import math

from mesh.api.messages import LoadBiasSpec

DEFAULT_RTT_SECONDS = 0.030
DECAY_SECONDS = 10.0


class PeakEwma:
    """Latency estimate of one endpoint, seconds."""

    __slots__ = ("_decay", "_estimate", "_updated_at", "pending")

    def __init__(self, now: float, default_rtt: float = DEFAULT_RTT_SECONDS, decay: float = DECAY_SECONDS) -> None:
        self._estimate = default_rtt
        self._updated_at = now
        self._decay = decay
        self.pending = 0

    def observe(self, now: float, rtt: float) -> None:
        """A response took `rtt` seconds."""
        if self._estimate < rtt:
            self._estimate = rtt
        else:
            keep = math.exp(-max(0.0, now - self._updated_at) / self._decay)
            self._estimate = self._estimate * keep + rtt * (1.0 - keep)
        self._updated_at = now

    def cost(self, now: float) -> float:
        """What balancing compares. Reading decays the estimate, as tower does: an idle endpoint becomes attractive."""
        elapsed = now - self._updated_at
        if elapsed > 0.0:
            self._estimate *= math.exp(-elapsed / self._decay)
            self._updated_at = now
        return self._estimate * (self.pending + 1)


def biased(rtt: float, failed: bool, pushback: float | None, bias: LoadBiasSpec) -> float:
    """The latency to observe for an answer: at least the penalty if it was a failure or rate-limited (`pushback` is not
    None), at least what it asked for with Retry-After, up to the ceiling (linkerd2-proxy's load biaser)."""
    if pushback is None:
        return max(rtt, bias.penalty_seconds) if failed else rtt
    return max(rtt, bias.penalty_seconds, min(pushback, bias.max_retry_after_seconds))
