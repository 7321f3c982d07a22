"""Self times and overhead of an application that counts nothing itself: from what its proxies measured.

    self time of a route      latency at the server's proxy, less that of its calls at the client's proxy (the longest
                              of those made at once). A leaf's histogram is taken as it is, any other is a mean only
    overhead of a hop         latency at the clients' proxies less that at the server's, of the same requests
    no proxies at all         clients' latencies alone: less a typical overhead for a route without calls; for others
                              all routes below share one factor, for no client can tell them apart

What a subtraction leaves open becomes `widen`, sigma of the log of the self time. Queueing at the app is part of
its latency there and here: calibrate at low load (sim.md, section 5), and look at the workers' row of the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scenarios.model import Application, AppRoute, AppService, Call
from sim.calibration.noise import Values
from sim.model.distributions import LogNormal, declared
from sim.observation import RouteTimes

RouteKey = tuple[str, str]
CLOCK_ERROR = 1e-4
"""Seconds: proxies count whole milliseconds, and means of many are good to a tenth of one."""
UNSPLIT = 0.4
"""Sigma of the log: routes that only their sum is known of."""
LEAST_SHARE = 0.05
"""A difference smaller than this share of what it is the difference of tells nothing."""
TYPICAL = LogNormal(0.0025, 0.4)
"""Overhead of a hop, where no pair of proxies shows it; known to a factor of 1.8."""
TYPICAL_SPREAD = 0.6


@dataclass(frozen=True, slots=True)
class Told:
    """What a source says of one route's self time."""

    times: RouteTimes
    widen: float
    by: str


def hops_of(app: Application, service: str, route: AppRoute) -> int:
    """Hops on the longest path of a request to `route`, the first one included."""
    return 1 + sum(
        max((hops_of(app, callee, called) for callee, called in _called(app, group)), default=0)
        for group in route.calls
    )


def _called(app: Application, group: tuple[Call, ...]) -> list[tuple[str, AppRoute]]:
    found: list[tuple[str, AppRoute]] = []
    for call in group:
        route = app.service(call.service).route(call.method, call.path)
        if route is not None:
            found.append((call.service, route))
    return found


def self_times(
    app: Application, inbound: Mapping[RouteKey, RouteTimes], outbound: Mapping[RouteKey, RouteTimes]
) -> tuple[dict[RouteKey, Told], list[str]]:
    """(what is told by route, notes on what is not)."""
    found: dict[RouteKey, Told] = {}
    notes: list[str] = []
    shares = visits(app)
    for service in app.services:
        apart = [route for route in service.routes if inbound.get((service.name, route.name)) is not None]
        whole = inbound.get((service.name, ""))
        if len(service.routes) == 1 and not apart and whole is not None:
            found |= _group(app, inbound, outbound, service, service.routes, whole, {}, notes)
        for route in apart:
            found |= _group(app, inbound, outbound, service, (route,), inbound[service.name, route.name], {}, notes)
        if len(service.routes) > 1 and not apart and whole is not None:
            found |= _group(app, inbound, outbound, service, service.routes, whole, shares, notes)
    return found, notes


def visits(app: Application) -> dict[RouteKey, float]:
    """Requests to each route for one journey, by the declared shares of journeys."""
    found: dict[RouteKey, float] = {}
    for journey in app.journeys:
        for step in journey.steps:
            service = app.service(step.service)
            route = service.route(step.method, step.path)
            for name, visited in _path(app, service, route) if route is not None else ():
                found[name, visited.name] = found.get((name, visited.name), 0.0) + journey.share
    return found


def _group(
    app: Application,
    inbound: Mapping[RouteKey, RouteTimes],
    outbound: Mapping[RouteKey, RouteTimes],
    service: AppService,
    routes: tuple[AppRoute, ...],
    seen: RouteTimes,
    shares: Mapping[RouteKey, float],
    notes: list[str],
) -> dict[RouteKey, Told]:
    """Routes whose latency is known as one: a single one, or all of a service, split in the declared proportion."""
    if seen.count <= 0:
        return {}
    if len(routes) == 1 and not routes[0].calls:
        return {(service.name, routes[0].name): Told(seen, 0.0, "the server's proxy")}
    weights = [shares.get((service.name, route.name), 0.0) for route in routes] if len(routes) > 1 else [1.0]
    total = sum(weights)
    if total <= 0:
        return {}
    rest, error, usual = seen.mean, _mean_error(seen), 0.0
    for route, weight in zip(routes, weights, strict=True):
        usual += weight / total * _declared_mean(route)
        for group in route.calls:
            called = [_call_latency(inbound, outbound, app.service(name), r) for name, r in _called(app, group)]
            known = [latency for latency in called if latency is not None]
            if weight and len(known) < len(called):
                notes.append(
                    f"{service.name} {route.name}: no latency of its calls to {group[0].service}, declared time used"
                )
                return {}
            if weight and known:
                mean, off = max(known)
                rest -= weight / total * mean
                error = math.hypot(error, weight / total * off)
    if rest < LEAST_SHARE * seen.mean:
        named = " and ".join(route.name for route in routes)
        notes.append(f"{service.name} {named}: the calls take all of the latency, declared time used")
        return {}
    widen = math.hypot(error / rest, UNSPLIT if len(routes) > 1 else 0.0)
    by = "the server's proxy" if not any(route.calls for route in routes) else "proxies, calls subtracted"
    return {
        (service.name, route.name): Told(
            RouteTimes(max(1, round(seen.count * weight / total)), rest * _declared_mean(route) / usual),
            widen,
            by if len(routes) == 1 else f"{by}, routes split as declared",
        )
        for route, weight in zip(routes, weights, strict=True)
        if weight
    }


def overhead_of_hop(
    inbound: Mapping[RouteKey, RouteTimes], outbound: Mapping[RouteKey, RouteTimes]
) -> tuple[float, float] | None:
    """(mean seconds, standard error) over all routes that both sides saw; None where none did."""
    weights: list[float] = []
    means: list[float] = []
    errors: list[float] = []
    for key, out in outbound.items():
        within = inbound.get(key)
        if within is None or within.count <= 0 or out.count <= 0:
            continue
        # The same requests on both sides, so what varies is the overhead and not the service time.
        error = max(CLOCK_ERROR, 0.5 * (out.mean - within.mean) / math.sqrt(min(out.count, within.count)))
        if abs(out.count - within.count) > 0.02 * max(out.count, within.count):
            error = math.hypot(error, math.hypot(_mean_error(out), _mean_error(within)))
        means.append(out.mean - within.mean)
        errors.append(error)
        weights.append(1.0 / error**2)
    if not means:
        return None
    mean = float(np.average(means, weights=weights))
    between = float(np.average(np.square(np.asarray(means) - mean), weights=weights))
    return mean, math.sqrt(1.0 / sum(weights) + between / len(means))


def from_clients(app: Application, latencies: Mapping[str, Values]) -> tuple[dict[RouteKey, Told], list[str]]:
    """From clients' latencies by step (`GET shop /cart`) alone."""
    found: dict[RouteKey, Told] = {}
    notes: list[str] = []
    factors: dict[RouteKey, list[tuple[float, int]]] = {}
    for service in app.services:
        for route in service.routes:
            values = latencies.get(f"{route.method} {service.name} {route.path}")
            if values is None or not len(values):
                continue
            if not route.calls:
                over = min(TYPICAL.median, 0.5 * float(np.median(values)))
                kept = np.maximum(values - over, 0.05 * values)
                share = over / max(float(np.median(kept)), 1e-6)
                found[service.name, route.name] = Told(
                    RouteTimes(len(kept), float(kept.mean()), samples=tuple(kept.tolist())),
                    TYPICAL_SPREAD * share,
                    "clients, a typical overhead subtracted",
                )
            else:
                over = min(hops_of(app, service.name, route) * TYPICAL.mean, 0.5 * float(values.mean()))
                path = _path(app, service, route)
                factor = (float(values.mean()) - over) / sum(_declared_mean(r) for _, r in path)
                for name, r in path:
                    factors.setdefault((name, r.name), []).append((factor, len(values)))
    for (name, route_name), seen in factors.items():
        if (name, route_name) in found:
            continue
        route = next(r for r in app.service(name).routes if r.name == route_name)
        factor = float(np.average([f for f, _ in seen], weights=[n for _, n in seen]))
        found[name, route_name] = Told(
            RouteTimes(sum(n for _, n in seen), max(1e-6, factor * _declared_mean(route))),
            UNSPLIT,
            "clients, split as declared",
        )
        notes.append(f"{name} {route_name}: clients see only the sum of a path; split in the declared proportions")
    return found, notes


def _call_latency(
    inbound: Mapping[RouteKey, RouteTimes],
    outbound: Mapping[RouteKey, RouteTimes],
    service: AppService,
    route: AppRoute,
) -> tuple[float, float] | None:
    """(mean, how far off it may be) of a call as its caller's proxy sees it, or the callee's and a typical overhead."""
    for seen, over in ((outbound, 0.0), (inbound, TYPICAL.mean)):
        exact, whole = seen.get((service.name, route.name)), seen.get((service.name, ""))
        if exact is not None and exact.count > 0:
            return exact.mean + over, math.hypot(_mean_error(exact), over * TYPICAL_SPREAD)
        if whole is not None and whole.count > 0:
            shared = 0.0 if len(service.routes) == 1 else 0.2 * whole.mean
            return whole.mean + over, math.hypot(math.hypot(_mean_error(whole), over * TYPICAL_SPREAD), shared)
    return None


def _mean_error(times: RouteTimes) -> float:
    """Standard error of the mean: latencies vary about as much as they are long."""
    return math.hypot(0.8 * times.mean / math.sqrt(max(times.count, 1)), CLOCK_ERROR)


def _declared_mean(route: AppRoute) -> float:
    return max(declared(route.service_time).mean, 1e-6)


def _path(app: Application, service: AppService, route: AppRoute) -> list[tuple[str, AppRoute]]:
    """The route and all that it calls."""
    found = [(service.name, route)]
    for group in route.calls:
        for name, called in _called(app, group):
            found += _path(app, app.service(name), called)
    return found
