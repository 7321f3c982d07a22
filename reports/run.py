"""A run as reports see it: the scenario it followed, its windows, its requests on the drill's own clock.

The drill's clock has its second 0 at the begin of the inject phase (as the forecast's fans do); the baseline lies at
negative seconds. Every chart shares it, and no figure depends on where whole Unix seconds happen to fall.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from reports.series import Metrics
from reports.store import Event, Request, RunStore, Usage
from scenarios.model import Scenario, SloSpec
from scenarios.slo import BurnMeter, Counts, meter_of

Window = tuple[float, float]
PHASES = ("warmup", "baseline", "seal", "inject", "recover")


def scenario_from(builtins: Mapping[str, Any]) -> Scenario:
    """The scenario as it was stored. Raises msgspec.ValidationError when it is none."""
    return msgspec.convert(builtins, Scenario, dec_hook=lambda kind, value: kind(value))


def scenario_to(scenario: Scenario) -> Any:
    """What to store of a scenario: builtins, paths as strings."""
    return msgspec.to_builtins(scenario, enc_hook=lambda value: str(value) if isinstance(value, Path) else value)


def with_all(windows: Mapping[str, Sequence[float]]) -> dict[str, Window]:
    """The windows, and `all` = begin of inject to end of recover (or of inject, where the run came no further)."""
    found = {name: (float(bounds[0]), float(bounds[1])) for name, bounds in windows.items()}
    if "inject" in found and "all" not in found:
        found["all"] = (found["inject"][0], found.get("recover", found["inject"])[1])
    return found


class Run:
    """Reads a store; everything is computed once and on demand."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.meta = store.meta()
        self.events: list[Event] = store.events()
        self.metrics = Metrics(store)
        self._meters: dict[SloSpec, BurnMeter] = {}

    @cached_property
    def scenario(self) -> Scenario | None:
        stored = self.meta.get("scenario")
        return scenario_from(stored) if isinstance(stored, dict) else None

    @cached_property
    def windows(self) -> dict[str, Window]:
        """Phases that took place, in order, and `all`; of a run that ended early, only as far as it came.

        The runner writes a phase's planned end at its begin, so an abort leaves ends that lie after the end.
        """
        stored = self.meta.get("windows") or {}
        found: dict[str, Window] = {}
        for name in PHASES:
            bounds = stored.get(name)
            if bounds:
                start, end = float(bounds[0]), float(bounds[-1])
                if self.state != "finished":
                    end = min(end, self.ended_at) if end > start else self.ended_at
                found[name] = (start, max(start, end))
        return with_all(found)

    @property
    def state(self) -> str:
        """running|finished|aborted|failed|interrupted, as the runner last said."""
        return str(self.meta.get("state", "interrupted"))

    @cached_property
    def ended_at(self) -> float:
        """When the phases of a run that ended early ended: at the abort or error, or with the last that is known."""
        endings = self.events_of("abort", "error")
        return endings[0].at if endings else self.last_known

    @cached_property
    def last_known(self) -> float:
        """The latest moment that the store has anything of."""
        times = [event.at for event in self.events] + [request.intended_at for request in self.all_requests]
        return max(times, default=float(self.meta.get("started_at") or 0.0))

    @cached_property
    def all_requests(self) -> list[Request]:
        """In order of the intended send."""
        return list(self.store.requests())

    @cached_property
    def usage(self) -> list[Usage]:
        return self.store.usage()

    def requests(self, window: Window, route: str | None = None) -> list[Request]:
        """Requests with their intended send in [start, end), of one route or of all."""
        first, last = (
            bisect_left(self.all_requests, bound, key=lambda request: request.intended_at) for bound in window
        )
        found = self.all_requests[first:last]
        return found if route is None else [request for request in found if request.route == route]

    @cached_property
    def zero(self) -> float:
        """Unix time of the drill's second 0: begin of inject, or of what came instead."""
        for name in ("inject", "seal", "baseline", "warmup"):
            if name in self.windows:
                return self.windows[name][0]
        return float(self.meta.get("started_at") or self.last_known)

    def clock(self, at: float) -> float:
        """Seconds on the drill's clock."""
        return at - self.zero

    def counts(self, slo: SloSpec, window: Window) -> Counts:
        """Good and total requests of an SLO."""
        timeout = self.timeout
        good = total = 0
        for request in self.requests(window, slo.route):
            total += 1
            good += request.good(slo.threshold, timeout)
        return Counts(good, total)

    @property
    def timeout(self) -> float:
        return self.scenario.load.timeout if self.scenario is not None else float("inf")

    def meter(self, slo: SloSpec) -> BurnMeter:
        """The SLO by second of the drill's clock, baseline included, over what was healthy before it."""
        known = self._meters.get(slo)
        if known is None:
            known = self._meters[slo] = self._make_meter(slo)
        return known

    def _make_meter(self, slo: SloSpec) -> BurnMeter:
        baseline = self.windows.get("baseline")
        begin = self.clock(baseline[0]) if baseline else 0.0
        end = self.windows["all"][1] if "all" in self.windows else self.last_known
        outcomes = [
            (self.clock(request.intended_at), request.good(slo.threshold, self.timeout))
            for request in self.requests((self.zero + begin, end), slo.route)
        ]
        healthy = self.counts(slo, baseline) if baseline else None
        over = baseline[1] - baseline[0] if baseline else 0.0
        return meter_of(outcomes, slo.objective, int(begin // 1), healthy, over)

    def events_of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]
