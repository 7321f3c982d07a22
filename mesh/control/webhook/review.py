"""AdmissionReview v1: what the API server asks of a webhook, and what it is told.

The object under review stays bytes until the one who judges it decodes what it wants. Patches are JSON Patch
(RFC 6902), the only kind that the API server takes.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from mesh.control.http import Later, Request, Response

API_VERSION = "admission.k8s.io/v1"
MAX_WARNING = 256
"""Characters of one warning; the API server cuts longer ones off."""

Patch = list[dict[str, Any]]


class GroupVersionKind(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    kind: str = ""


class AdmissionRequest(msgspec.Struct, frozen=True, rename="camel"):
    """The part of an AdmissionReview's `request` that we use."""

    uid: str
    kind: GroupVersionKind
    operation: Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
    name: str = ""
    namespace: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")
    old_object: msgspec.Raw = msgspec.Raw(b"null")
    dry_run: bool = False

    def decoded(self) -> dict[str, Any]:
        """The object as it is about to be stored; empty where there is none (DELETE)."""
        value = msgspec.json.decode(self.object)
        return value if isinstance(value, dict) else {}


class _Review(msgspec.Struct, rename="camel"):
    api_version: str
    request: AdmissionRequest


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of the object."""

    allowed: bool = True
    message: str = ""
    """Why not, for the user; kubectl prints it."""
    code: int = 403
    """HTTP status of a refusal: 403 may not, 422 is wrong."""
    patch: Patch | None = None
    warnings: tuple[str, ...] = ()
    """Printed by kubectl beside success."""


Handler = Callable[[AdmissionRequest], Answer | Awaitable[Answer]]


def respond(request: Request, handlers: Mapping[str, Handler]) -> Response | Later:
    """Answers one HTTP request: POST of a review, to the path of one of the handlers."""
    handler = handlers.get(request.path)
    if handler is None:
        return _refusal(404, f"no webhook at {request.path}")
    if request.method != "POST":
        return _refusal(405, "use POST")
    try:
        review = msgspec.json.decode(request.body, type=_Review)
    except msgspec.DecodeError as error:
        return _refusal(400, f"no AdmissionReview: {error}")
    if review.api_version != API_VERSION:
        return _refusal(400, f"AdmissionReview of {review.api_version}; this webhook speaks {API_VERSION}")
    uid, answer = review.request.uid, handler(review.request)
    return Response(200, encode(uid, answer)) if isinstance(answer, Answer) else Later(_later(uid, answer))


async def _later(uid: str, answer: Awaitable[Answer]) -> Response:
    return Response(200, encode(uid, await answer))


def encode(uid: str, answer: Answer) -> bytes:
    """The AdmissionReview that carries `answer`."""
    response: dict[str, Any] = {"uid": uid, "allowed": answer.allowed}
    if not answer.allowed:
        response["status"] = {"code": answer.code, "message": answer.message}
    if answer.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(answer.patch)).decode()
    if answer.warnings:
        response["warnings"] = [warning[:MAX_WARNING] for warning in answer.warnings]
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})


def pointer(*steps: str) -> str:
    """A JSON Pointer (RFC 6901)."""
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)


def _refusal(status: int, text: str) -> Response:
    return Response(status, msgspec.json.encode({"error": text}))
