"""The admin port: health, metrics, faults. Not part of the mesh, and never slowed by a fault."""

from __future__ import annotations

import msgspec

from scenarios.workload import faults
from scenarios.workload.http import Request
from scenarios.workload.station import Station

_TEXT = b"text/plain; version=0.0.4"


class Admin:
    """Answers every request at once."""

    def __init__(self, station: Station) -> None:
        self._station = station

    def handle(self, request: Request) -> None:
        match request.method, request.path:
            case "GET", "/ready" | "/live":
                request.respond(200, b"ok\n", _TEXT)
            case "GET", "/metrics":
                request.respond(200, self._station.metrics.exposition(), _TEXT)
            case "GET", "/faults":
                request.respond(200, faults.encode(self._station.faults))
            case "PUT", "/faults":
                self._put(request)
            case "DELETE", "/faults":
                self._station.set_faults(faults.NONE)
                request.respond(200, faults.encode(faults.NONE))
            case _, "/ready" | "/live" | "/metrics" | "/faults":
                request.respond(405, b'{"error":"method not allowed"}')
            case _:
                request.respond(404, b'{"error":"there is /ready /live /metrics /faults"}')

    def _put(self, request: Request) -> None:
        try:
            wanted = faults.decode(request.body, self._station.route_names)
        except faults.InvalidFaults as error:
            request.respond(400, msgspec.json.encode({"error": str(error)}))
            return
        self._station.set_faults(wanted)
        request.respond(200, faults.encode(wanted))
