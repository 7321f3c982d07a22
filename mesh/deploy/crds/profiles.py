"""linkerd.io: ServiceProfile."""

from __future__ import annotations

from typing import Any

from mesh.deploy.crds.definition import definition
from mesh.deploy.crds.schema import (
    DURATION,
    HTTP_METHODS,
    Schema,
    flag,
    int_or_text,
    listing,
    number,
    record,
    text,
    whole,
)

_NESTING = 2
"""Conditions nest without end, schemas may not refer to themselves: levels that are checked. Deeper ones are kept as
they are, and judged by the validating webhook."""


def service_profile() -> dict[str, Any]:
    spec = record(
        {
            "routes": listing(
                record(
                    {
                        "name": text("Shown by `routes` and in metrics as rt_route"),
                        "condition": _request_condition(_NESTING),
                        "isRetryable": flag("Whether failed requests may be tried again, within the retry budget"),
                        "timeout": _duration("Of the whole request, its retries included"),
                        "responseClasses": listing(
                            record(
                                {"condition": _response_condition(_NESTING), "isFailure": flag()},
                                required=["condition"],
                            )
                        ),
                    },
                    required=["name", "condition"],
                )
            ),
            "retryBudget": record(
                {
                    "retryRatio": number("Retries per request", minimum=0, maximum=1000),
                    "minRetriesPerSecond": whole(0, 2**31 - 1, "Allowed beside the ratio"),
                    "ttl": _duration("Window of the ratio, from 1s to 60s"),
                },
                required=["retryRatio", "minRetriesPerSecond", "ttl"],
            ),
            "dstOverrides": listing(
                record(
                    {
                        "authority": text("Where requests go instead, as host or host:port"),
                        # A quantity: 1, 0.5 or 500m. int-or-string would refuse 0.5.
                        "weight": {"x-kubernetes-preserve-unknown-fields": True},
                    },
                    required=["authority", "weight"],
                )
            ),
            "opaquePorts": listing(int_or_text()),
        }
    )
    return definition("linkerd.io", "ServiceProfile", "serviceprofiles", ["v1alpha1", "v1alpha2"], spec, short=["sp"])


def _duration(description: str) -> Schema:
    """Empty counts as not given."""
    return text(description, pattern=DURATION.replace("+$", "*$"))


def _request_condition(depth: int) -> Schema:
    fields: dict[str, Schema] = {
        "method": text(pattern=f"(?i)^({'|'.join(HTTP_METHODS)})$"),
        "pathRegex": text("Matches the whole path"),
    }
    return _nesting(fields, depth, _request_condition)


def _response_condition(depth: int) -> Schema:
    fields: dict[str, Schema] = {"status": record({"min": whole(100, 599), "max": whole(100, 599)})}
    return _nesting(fields, depth, _response_condition)


def _nesting(fields: dict[str, Schema], depth: int, inner: Any) -> Schema:
    deeper: Schema = {"type": "object", "minProperties": 1, "x-kubernetes-preserve-unknown-fields": True}
    member = inner(depth - 1) if depth else deeper
    fields |= {"all": listing(member, minItems=1), "any": listing(member, minItems=1), "not": member}
    return record(fields, minProperties=1)
