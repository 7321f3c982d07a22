"""The admin server that each component has: `/live`, `/ready` and `/metrics`, plain HTTP."""

from __future__ import annotations

from collections.abc import Callable

from mesh.control.http import Handler, Request, Response
from mesh.control.metrics import Metrics

_TEXT = "text/plain; charset=utf-8"


def admin_handler(metrics: Metrics, ready: Callable[[], bool]) -> Handler:
    def handle(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"method not allowed\n", _TEXT)
        match request.path:
            case "/live":
                return Response(200, b"live\n", _TEXT)
            case "/ready":
                return Response(200, b"ready\n", _TEXT) if ready() else Response(503, b"not ready\n", _TEXT)
            case "/metrics":
                return Response(200, metrics.exposition().encode(), "text/plain; version=0.0.4; charset=utf-8")
        return Response(404, b"not found\n", _TEXT)

    return handle
