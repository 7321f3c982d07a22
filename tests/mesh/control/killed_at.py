"""A component of the control plane that is killed at one step, by SIGKILL, as the kernel would:

    python -m tests.mesh.control.killed_at "signed, not answered" mesh.control identity --kubernetes ...

The step is cut into the real program: a function of it, before or after which the process ends, the first time or a
later one. Whatever it has written by then stays, whatever it had only in mind is gone.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import runpy
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FLUSH_SECONDS = 0.05
"""For bytes that are to be on the wire by then."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Cut:
    """Before or after the nth call of a function."""

    module: str
    function: str
    """`name`, or `Class.name`."""
    after: bool = False
    nth: int = 1

    def arm(self) -> None:
        owner: Any = importlib.import_module(self.module)
        *path, name = self.function.split(".")
        for step in path:
            owner = getattr(owner, step)
        original, calls = getattr(owner, name), 0

        def due() -> bool:
            nonlocal calls
            calls += 1
            return calls == self.nth

        def plain(*args: Any, **named: Any) -> Any:
            now = due()
            if now and not self.after:
                die()
            result = original(*args, **named)
            if now:
                die()
            return result

        async def later(*args: Any, **named: Any) -> Any:
            now = due()
            if now and not self.after:
                die()
            result = await original(*args, **named)
            if now:
                die()
            return result

        setattr(owner, name, later if inspect.iscoroutinefunction(original) else plain)


def _answer_cut_after(share: float) -> Callable[[], None]:
    """The answer to a request for a certificate breaks off, or is all that comes."""

    def arm() -> None:
        from mesh.control import http

        write = http.Connection._write

        def cut(self: http.Connection, data: bytes) -> None:
            if b'"leaf"' not in data:
                write(self, data)
                return
            write(self, data[: int(len(data) * share)])
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, die)

        http.Connection._write = cut  # type: ignore[method-assign]

    return arm


def _signed_by_the_second_issuer() -> None:
    from mesh.control import identity

    grant, first = identity.grant, []

    def cut(request: Any, key: Any, account: Any, issuer: Any, *rest: Any) -> Any:
        first.append(issuer.certificate)
        result = grant(request, key, account, issuer, *rest)
        if issuer.certificate != first[0]:
            die()
        return result

    identity.grant = cut


def _webhook_timing(*, due_at_look: int | None) -> None:
    """Looks often. The certificate, which is old, is due from a certain look on; None: never."""
    from mesh.control.webhook import certificate, keeper

    keeper.LOOK_SECONDS, keeper.SETTLE_SECONDS = 0.3, 0.6
    share, problem, looks = certificate.RENEW_LEFT, keeper.problem, 0

    def judge(*args: Any, **named: Any) -> str:
        nonlocal looks
        looks += 1
        certificate.RENEW_LEFT = share if due_at_look is not None and looks >= due_at_look else 0.0
        return problem(*args, **named)

    keeper.problem = judge


def _webhook(function: str, *, after: bool = False, nth: int = 1) -> Callable[[], None]:
    def arm() -> None:
        _webhook_timing(due_at_look=3)
        Cut("mesh.control.webhook.keeper", function, after, nth).arm()

    return arm


LEAF: dict[str, Callable[[], None]] = {
    "request received": Cut("mesh.control.identity", "_decode").arm,
    "request examined": Cut("mesh.control.identity", "examine", after=True).arm,
    "TokenReview answered": Cut("mesh.control.token_review", "TokenReviews.ask", after=True).arm,
    "signed, not answered": Cut("mesh.control.identity", "grant", after=True).arm,
    "answer half sent": _answer_cut_after(0.5),
    "answer sent": _answer_cut_after(1.0),
}
"""Of the renewal of a proxy's certificate, in identity."""

ISSUER: dict[str, Callable[[], None]] = {
    "Secret updated, not heard of": Cut("mesh.control.issuer_secret", "_read", nth=2).arm,
    "heard of, not loaded": Cut("mesh.control.issuer", "Issuers._make", nth=2).arm,
    "loaded, own certificate of the old one": Cut("mesh.control.identity", "Identity.certify_itself", nth=2).arm,
    "own certificate of the new one": Cut("mesh.control.identity", "Identity.certify_itself", after=True, nth=2).arm,
    "first certificate signed, not answered": _signed_by_the_second_issuer,
}
"""Of the renewal of the issuer, in identity. The first time of each is the start."""

WEBHOOK: dict[str, Callable[[], None]] = {
    "due, nothing made": _webhook("Keeper._issue"),
    "made, not written": _webhook("issue", after=True),
    "Secret written, not trusted": _webhook("Keeper._issue", after=True),
    "caBundle patched, not served": _webhook("Keeper._trust", after=True, nth=3),
    "settled, not served": _webhook("load_chain", nth=2),
    "served": _webhook("load_chain", after=True, nth=2),
}
"""Of the renewal of a webhook's certificate: it looks twice at one that is good, and then that is due."""


def _quick_lease() -> None:
    from mesh.kube import lease

    lease.LeaseTiming.__init__.__defaults__ = (2.0, 1.0, 0.2)  # type: ignore[misc]


def _leader(function: str, *, after: bool = False, nth: int = 1) -> Callable[[], None]:
    def arm() -> None:
        _quick_lease()
        Cut(*function.split(":"), after=after, nth=nth).arm()

    return arm


_WRITE = "mesh.control.trust_bundle:TrustBundle._write"
LEADER: dict[str, Callable[[], None]] = {
    "lease read, not taken": _leader("mesh.kube.lease:Election._manifest"),
    "lease taken, nothing copied": _leader(_WRITE),
    "one of three copied": _leader(_WRITE, after=True),
    "lease about to be renewed": _leader("mesh.kube.lease:Election._manifest", nth=3),
    "anchors changed, nothing copied": _leader(_WRITE, nth=4),
    "anchors changed, one of three copied": _leader(_WRITE, after=True, nth=4),
    "anchors changed, all copied": _leader(_WRITE, after=True, nth=6),
}
"""Of a leader's life, in identity, which copies the trust anchors into three namespaces."""

UNTOUCHED: dict[str, Callable[[], None]] = {
    "leader: quick lease": _quick_lease,
    "webhook: never due": lambda: _webhook_timing(due_at_look=None),
    "webhook: due at once": lambda: _webhook_timing(due_at_look=1),
}
"""Not killed."""

POINTS = LEAF | ISSUER | WEBHOOK | LEADER | UNTOUCHED


if __name__ == "__main__":
    point, program = sys.argv[1:3]
    POINTS[point]()
    sys.argv = [program, *sys.argv[3:]]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
