"""The admin server that each component has: `/live`, `/ready` and `/metrics`, plain HTTP.

Destination and policy answer their own questions there as well, once and without a stream, below `/debug`: what a proxy
would be told, for `gameday mesh diagnostics` and curl (the watches themselves want a mesh certificate). Read-only.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.control.http import Handler, Later, Request, Response, Watch
from mesh.control.metrics import Metrics

_TEXT = "text/plain; charset=utf-8"
_DEBUG = "/debug"


def admin_handler(metrics: Metrics, ready: Callable[[], bool], debug: Handler | None = None) -> Handler:
    """`debug` answers what comes below `/debug/`, without that prefix."""

    def handle(request: Request) -> Response | Watch | Later:
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"method not allowed\n", _TEXT)
        match request.path:
            case "/live":
                return Response(200, b"live\n", _TEXT)
            case "/ready":
                return Response(200, b"ready\n", _TEXT) if ready() else Response(503, b"not ready\n", _TEXT)
            case "/metrics":
                return Response(200, metrics.exposition().encode(), "text/plain; version=0.0.4; charset=utf-8")
        if debug is not None and request.path.startswith(f"{_DEBUG}/"):
            return debug(Request(request.method, request.path.removeprefix(_DEBUG), request.body, request.query))
        return Response(404, b"not found\n", _TEXT)

    return handle
