"""Faults that a workload takes on its admin port: below the mesh's retry layer, where they belong.

    PUT /faults {"errorRate": 0.5, "status": 503, "latencySeconds": 0.3, "freeze": false, "route": "POST /charge"}

A PUT replaces what was there; without `route` it holds for all routes. DELETE lifts everything.
"""

from __future__ import annotations

from typing import Annotated

import msgspec


class Faults(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What is injected now. The defaults are no fault."""

    error_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    status: Annotated[int, msgspec.Meta(ge=500, le=599)] = 503
    latency_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    """Added to the self time of each request."""
    freeze: bool = False
    """Requests are accepted and not answered until the fault is lifted; then all go on."""
    route: str | None = None

    def hits(self, route: str) -> bool:
        return self.route is None or self.route == route


NONE = Faults()
_decoder = msgspec.json.Decoder(Faults)


class InvalidFaults(ValueError):
    """The body is no set of faults; the message says why."""


def decode(body: bytes, routes: set[str]) -> Faults:
    """Raises InvalidFaults."""
    try:
        faults = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidFaults(str(error)) from None
    if faults.route is not None and faults.route not in routes:
        raise InvalidFaults(f"no route {faults.route!r}; there is {', '.join(sorted(routes))}")
    return faults


def encode(faults: Faults) -> bytes:
    return msgspec.json.encode(faults)
