"""An application that is not ours: from counters and requests to `sim.observation.Observation`."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

from gameday.calibration.linkerd import ProxyEvidence, Reader
from gameday.calibration.requests_csv import Requests
from gameday.calibration.telemetry import Telemetry
from gameday.errors import BadInput
from scenarios.model import Application, IdentitySettings, LoadSpec, Phases, Scenario
from sim.observation import Observation

WORLD = "external"
APART_SECONDS = 60.0
"""How far a table of requests and counters may lie apart and still be about the same system."""


def observation_of(app: Application, telemetry: Telemetry | None, requests: Requests) -> tuple[Observation, list[str]]:
    """(what was seen, notes for the reader).

    Raises:
        BadInput: no request at all, or counters and requests of different times.
    """
    notes = list(requests.notes)
    evidence = ProxyEvidence({}, {}, (), None)
    window: tuple[float, float] | None = None
    if telemetry is not None:
        reader = Reader(telemetry, app)
        evidence = reader.read()
        notes += [*telemetry.notes, *reader.notes]
        window = telemetry.window
        if not any(times.count for times in evidence.inbound.values()) and not requests.samples:
            raise BadInput(_why_nothing(app, telemetry, reader))
    sent = [sample.intended_at for sample in requests.samples]
    if sent:
        if window is not None and (sent[-1] < window[0] - APART_SECONDS or sent[0] > window[1] + APART_SECONDS):
            raise BadInput(
                f"the requests end at {sent[-1]:.0f} and the metrics are of {window[0]:.0f} to {window[1]:.0f}: not of"
                " one window, or the clock jumped"
            )
        # n arrivals span n - 1 gaps: the window is a usual gap longer than from the first to the last.
        gap = median(b - a for a, b in pairwise(sent)) if len(sent) > 1 else 0.0
        window = (sent[0], sent[-1] + max(gap, 1e-3))
    if window is None or not math.isfinite(window[1] - window[0]) or window[1] <= window[0]:
        raise BadInput("the window is empty: nothing was counted in it")
    return (
        Observation(
            started_at=window[0],
            ended_at=window[1],
            requests=requests.samples,
            route_times={},
            attempts={},
            pods=(),
            world=WORLD,
            external=True,
            inbound=evidence.inbound,
            outbound=evidence.outbound,
            load_points=evidence.load_points,
            answers=evidence.answers,
        ),
        notes,
    )


def scenario_for(app: Application, seen: Observation) -> Scenario:
    """A day on which nothing happens, for an application without a scenario."""
    seconds = max(1.0, seen.ended_at - seen.started_at)
    return Scenario(
        name=app.name,
        title=app.name,
        description="",
        source=app.source,
        app=app,
        resources=(),
        service_annotations={},
        identity=IdentitySettings(),
        load=LoadSpec(max(1.0, len(seen.requests)) / seconds, {j.name: j.share for j in app.journeys}, 1_000, 10.0),
        phases=Phases(0.0, seconds, 1.0, 0.0),
        faults=(),
        slos=(),
        expectations=(),
        abort=(),
    )


def _why_nothing(app: Application, telemetry: Telemetry, reader: Reader) -> str:
    inbound = [
        series
        for name in ("response_latency_ms_count", "response_latency_ms_bucket", "request_total", "response_total")
        for series in telemetry.series(name, direction="inbound")
    ]
    if not inbound:
        return "no response_latency_ms of direction inbound: these are not the metrics of Linkerd's proxies"
    if not any(reader.server(series) for series in inbound):
        seen = sorted({s.labels.get("deployment") or s.labels.get("pod") or "?" for s in inbound})
        return f"the metrics are of {', '.join(seen[:5])}, and {app.name} has {', '.join(s.name for s in app.services)}"
    return f"no request to {app.name} was answered in the window: nothing to calibrate on"
