"""Kubernetes says whom a token speaks for: a TokenReview with the audience `identity.l5d.io`.

Linkerd tries again without an audience for old clusters; this mesh does not: such a token is good at the API server
too, and whoever holds it could be anybody that the pod ever sent it to. Answers are not kept: a deleted pod's token
ends with it. At most `AT_ONCE` reviews are open; a rollout of hundreds of pods waits its turn and the loop stays free.
"""

from __future__ import annotations

import asyncio

import msgspec

from mesh.control.tokens import AUDIENCE, NotAuthenticated, ServiceAccount, VerifierUnavailable, service_account_of
from mesh.kube.api import Api, ApiFailed
from mesh.kube.kinds import TOKEN_REVIEW

AT_ONCE = 16
REVIEW_SECONDS = 4.0
"""Below the five seconds that a proxy waits for its certificate."""


class _User(msgspec.Struct):
    username: str = ""


class _Status(msgspec.Struct):
    authenticated: bool = False
    user: _User = msgspec.field(default_factory=_User)
    audiences: list[str] | None = None
    error: str = ""


class _Review(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


class TokenReviews:
    """A `RemoteVerifier`."""

    def __init__(self, api: Api, audience: str = AUDIENCE) -> None:
        self._api = api
        self._audience = audience
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def ask(self, token: str) -> ServiceAccount:
        """The service account that `token` speaks for.

        Raises:
            NotAuthenticated: the API server does not know it, or it is meant for another audience.
            InvalidToken: it speaks for something else than a service account.
            VerifierUnavailable: the API server does not answer, or not to us.
        """
        review = {
            "apiVersion": TOKEN_REVIEW.api_version,
            "kind": TOKEN_REVIEW.name,
            "spec": {"token": token, "audiences": [self._audience]},
        }
        try:
            async with asyncio.timeout(REVIEW_SECONDS), self._turns:
                answer = await self._api.request("POST", TOKEN_REVIEW.path(), body=review)
            status = msgspec.json.decode(answer, type=_Review).status
        except (ApiFailed, TimeoutError, msgspec.DecodeError) as error:
            raise VerifierUnavailable(f"token review failed: {error or 'timed out'}") from None
        if not status.authenticated:
            raise NotAuthenticated(f"token is not valid: {status.error or 'the API server does not know it'}")
        if self._audience not in (status.audiences or ()):
            raise NotAuthenticated(f"token is not meant for {self._audience}")
        return service_account_of(status.user.username)
