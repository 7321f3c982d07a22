"""One request through the outbound stack: tries, retries and timeouts, up to the answer the client gets.

    trying ── response/cause, no retry ──► done
      │ ▲
      │ └──── backoff over ──── waiting
      └────── retry granted ────►

The owner (a proxy connection or the twin) sends tries and runs timers; this machine says what comes next. Whoever owns
it calls `begin`, then exactly one of `responded`/`failed` for each try, or `expired` when a deadline passed, and acts
on the `Step` that it gets back.
"""

from __future__ import annotations

import enum
from random import Random
from typing import Final

from mesh.behavior.outcome import STATUS_OF, Cause
from mesh.behavior.routes import Route


class Step(enum.Enum):
    """What the owner does next."""

    TRY = "try"
    """Send a try now (the next one is number `attempts`)."""
    WAIT = "wait"
    """Call `resume` at `resume_at`."""
    DONE = "done"
    """The exchange is over: `status`, and `cause` where the answer is the proxy's own."""


# On Python 3.11 to read an enumeration's member is a function call, three to a request.
TRY: Final = Step.TRY
WAIT: Final = Step.WAIT
DONE: Final = Step.DONE


class Exchange:
    """The state of one request."""

    __slots__ = (
        "_rng",
        "attempts",
        "cause",
        "deadline",
        "replayable",
        "resume_at",
        "retries_granted",
        "retry_denied",
        "route",
        "status",
        "try_deadline",
    )

    def __init__(self, route: Route, now: float, rng: Random, replayable: bool = True) -> None:
        """`replayable`: the request's body is held whole and can be sent again (Linkerd: at most 64 KiB). The owner may
        change it before it settles a try: a body that still arrives cannot be replayed."""
        self.route = route
        self._rng = rng
        self.replayable = replayable
        self.attempts = 0
        self.retries_granted = 0
        self.retry_denied = False
        """Whether the last try would have been repeated, had the limit or the budget allowed it (for metrics)."""
        self.status = 0
        self.cause: Cause | None = None
        self.deadline: float | None = now + route.request_timeout if route.request_timeout is not None else None
        self.try_deadline: float | None = None
        self.resume_at = 0.0

    def begin(self, now: float) -> Step:
        """Starts a try."""
        self.attempts += 1
        route = self.route
        limit = route.response_timeout
        last = route.retry_limit is not None and self.attempts > route.retry_limit
        if route.try_timeout is not None and not last:
            limit = min(route.try_timeout, limit) if limit is not None else route.try_timeout
        self.try_deadline = now + limit if limit is not None else None
        return TRY

    def resume(self, now: float) -> Step:
        """Starts the next try, its wait being over."""
        return self.begin(now)

    def responded(self, now: float, status: int, grpc_status: int | None = None) -> Step:
        """The current try got response headers with `status`. `grpc_status`: from the headers, or from the trailers
        where the owner held the response until they came (`Route.reads_trailers`)."""
        return self._settle(now, status, None, grpc_status)

    def failed(self, now: float, cause: Cause) -> Step:
        """The current try ended without a response."""
        return self._settle(now, STATUS_OF[cause], cause)

    def expired(self, now: float) -> Step:
        """A deadline passed; the owner has dropped the current try, if there was one."""
        if self.deadline is not None and now >= self.deadline:
            self.status, self.cause = STATUS_OF[Cause.REQUEST_TIMEOUT], Cause.REQUEST_TIMEOUT
            return DONE
        return self._settle(now, STATUS_OF[Cause.RESPONSE_TIMEOUT], Cause.RESPONSE_TIMEOUT)

    def next_deadline(self) -> float | None:
        """When `expired` is due while a try is under way."""
        if self.try_deadline is None:
            return self.deadline
        if self.deadline is None:
            return self.try_deadline
        return min(self.deadline, self.try_deadline)

    def _settle(self, now: float, status: int, cause: Cause | None, grpc_status: int | None = None) -> Step:
        rule = self.route.retry
        if rule is not None and self.replayable:
            failed = cause is not None or self.route.failed(status, grpc_status)
            delay = rule.delay(now, self.attempts, failed, status, cause, self._rng, grpc_status)
            if delay is not None and (self.deadline is None or now + delay < self.deadline):
                self.retries_granted += 1
                if delay <= 0.0:
                    return self.begin(now)
                self.resume_at = now + delay
                return WAIT
            self.retry_denied = rule.wanted(failed, status, cause, grpc_status)
        self.status, self.cause = status, cause
        return DONE
