"""A route of a service, ready to be played, and what a fault does to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scenarios.model import AppRoute
from sim.model.draws import Draws

if TYPE_CHECKING:
    from sim.model.proxy import Target


@dataclass(frozen=True, slots=True)
class AppFault:
    """What `PUT /faults` does to a workload."""

    error_rate: float = 0.0
    status: int = 503
    latency: float = 0.0
    freeze: bool = False
    route: str | None = None
    """`POST /charge`, or None for all."""

    def hits(self, route: AppRoute) -> bool:
        return self.route is None or self.route == route.name


class RouteModel:
    """One route of one service, ready to be played."""

    __slots__ = ("calls", "failure_rate", "route", "times")

    def __init__(self, route: AppRoute, times: Draws) -> None:
        self.route = route
        self.failure_rate = route.failure_rate
        self.times = times
        self.calls: tuple[tuple[Target, ...], ...] = ()
        """Set once all services exist."""
