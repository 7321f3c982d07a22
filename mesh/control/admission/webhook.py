"""The policy component's validating webhook: an AdmissionReview's object → admitted, refused with every reason, or
admitted with a warning.

What is being deleted is not judged, and neither is an update that leaves the spec of a resource as it is: one that was
stored before its rule came to be could otherwise never be rid of a finalizer.
"""

from __future__ import annotations

import msgspec

from mesh.control.admission.validation import Admission
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.webhook.keeper import VALIDATING, Place
from mesh.control.webhook.review import AdmissionRequest, Answer, Handler

WRONG = 422


def place(namespace: str) -> Place:
    """Names of its Service, Secret and configuration, which are Linkerd's."""
    return Place(
        namespace,
        "linkerd-policy-validator",
        "linkerd-policy-validator-k8s-tls",
        "linkerd-policy-validator-webhook-config",
        VALIDATING,
    )


def judge(admission: Admission, log: Log, metrics: Metrics) -> Handler:
    """The webhook's handler."""
    metrics.counter("policy_admission_total", "Resources judged, by result")

    def handle(request: AdmissionRequest) -> Answer:
        if request.operation == "DELETE":
            return Answer()
        verdict = admission.review(request.decoded())
        if verdict.errors and _says_the_same(request):
            return Answer(warnings=verdict.errors + verdict.warnings)
        metrics.add("policy_admission_total", result="refused" if verdict.errors else "admitted")
        if not verdict.errors:
            return Answer(warnings=verdict.warnings)
        name = f"{request.kind.kind} {request.namespace}/{request.name}"
        log.info("refused a resource", resource=name, reason=verdict.errors[0])
        return Answer(allowed=False, code=WRONG, message="; ".join(verdict.errors), warnings=verdict.warnings)

    return handle


class _Spec(msgspec.Struct):
    spec: msgspec.Raw = msgspec.Raw(b"null")


def _says_the_same(request: AdmissionRequest) -> bool:
    if request.operation != "UPDATE":
        return False
    try:
        before, after = (msgspec.json.decode(one, type=_Spec).spec for one in (request.old_object, request.object))
    except msgspec.DecodeError:
        return False
    return bool(msgspec.json.decode(before) == msgspec.json.decode(after))
