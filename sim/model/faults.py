"""How the twin represents each kind of fault: one SimPy process a kind, in one table.

A kind that is not in the table, or a target or parameter that its process cannot honour, raises `Unrepresented`; the
forecast then says so among its limits. It never quietly forecasts that nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from scenarios.model import FaultSpec
from scenarios.throttle import DEFAULT_RATE, bytes_per_second
from sim.model.app import AppPod
from sim.model.control import COMPONENTS
from sim.model.route import AppFault
from sim.model.setup import CALLS_TOO, misrouted
from sim.model.wire import Wire

if TYPE_CHECKING:
    from sim.model.system import System

Process = Generator[Any, Any, None]
NOWHERE = "nowhere.invalid:80"
"""A service that nobody has."""
STARVING_MEBIBYTES = 32
"""A memory limit in which a proxy does not get as far as to serve."""
FIRST_CERTIFICATE_RETRY_SECONDS = 0.5
"""Between a fresh proxy's requests for a certificate, as `mesh.proxy.identity` has it."""


class Unrepresented(Exception):
    """The twin has no model of this fault. The text is for the reader of the forecast."""


def process_of(fault: FaultSpec, system: System) -> Process:
    """The process that plays `fault`.

    Raises:
        Unrepresented: no model of this kind, target or parameter.
    """
    play = _KINDS.get(fault.kind)
    if play is None:
        raise Unrepresented(_without_model(fault))
    return play(fault, system)


def check(faults: tuple[FaultSpec, ...], services: set[str]) -> list[str]:
    """Why faults cannot be represented, one line each; empty when all can."""
    problems: list[str] = []
    for fault in faults:
        if fault.kind not in _KINDS:
            problems.append(_without_model(fault))
            continue
        service = fault.targets.get("service")
        if (
            fault.kind in ("app-degrade", "pod-kill", "proxy-oom", "misroute", "network-throttle")
            and service not in services
        ):
            problems.append(f"fault {fault.name}: the twin has no service {service}")
        if fault.kind == "proxy-oom" and _mebibytes(fault) > STARVING_MEBIBYTES:
            problems.append(
                f"fault {fault.name}: whether a proxy lives in {fault.parameters['memoryLimit']} depends on its load,"
                f" which the twin does not know; it is forecast as if it did (below {STARVING_MEBIBYTES}Mi none starts)"
            )
        if fault.kind == "network-throttle" and fault.parameters.get(CALLS_TOO):
            problems.append(
                f"fault {fault.name}: on Kubernetes what is scraped from a throttled pod passes the same queue, and the"
                " twin does not know its size; below some 500kbit requests wait longer than it says, and a connection"
                " that stalled may stay silent after the fault for as long again (TCP's pauses double)"
            )
        if fault.kind == "telemetry-loss":
            problems.append(
                f"fault {fault.name}: it changes no request, but what is measured from scrapes meanwhile (attempts a"
                " request, the mesh's own figures) is missing or cut; the forecast is of what a whole record would show"
            )
        unknown = set(fault.parameters) - _PARAMETERS.get(fault.kind, frozenset())
        problems.extend(
            f"fault {fault.name}: the twin does not represent its parameter {name}" for name in sorted(unknown)
        )
    return problems


def _control_plane_down(fault: FaultSpec, system: System) -> Process:
    component = str(fault.targets.get("component", "all"))
    names = COMPONENTS if component == "all" else tuple(component.split("+"))
    for name in names:
        if name not in COMPONENTS:
            raise Unrepresented(f"fault {fault.name}: the twin has no control-plane component {name}")
    return _absence(fault, system, names)


def _cert_expiry(fault: FaultSpec, system: System) -> Process:
    return _absence(fault, system, ("identity",))


def _absence(fault: FaultSpec, system: System, components: tuple[str, ...]) -> Process:
    delays = system.parameters.delays
    yield from system.sleep_until(fault.at + delays.injection + delays.kill)
    for component in components:
        system.control.down(component)
    yield from system.sleep_until(fault.at + fault.duration + delays.reversion)
    yield system.calendar.timeout(delays.control_start)
    yield from system.worked(*(system.parameters.start_work(f"control/{name}") for name in components))
    for component in components:
        system.control.up(component)


def _app_degrade(fault: FaultSpec, system: System) -> Process:
    pods = system.targets(fault)
    parameters = fault.parameters
    effect = AppFault(
        error_rate=float(parameters.get("errorRate", 0.0)),
        status=int(float(parameters.get("status", 503))),
        latency=float(parameters.get("latencySeconds", 0.0)),
        freeze=bool(parameters.get("freeze", False)),
        route=str(parameters["route"]) if parameters.get("route") else None,
    )
    delays = system.parameters.delays
    yield from system.sleep_until(fault.at + delays.injection)
    for pod in pods:
        pod.degrade(effect)
    yield from system.sleep_until(fault.at + fault.duration + delays.reversion)
    for pod in pods:
        pod.degrade(None)


def _pod_kill(fault: FaultSpec, system: System) -> Process:
    pods = system.targets(fault)
    delays = system.parameters.delays
    yield from system.sleep_until(fault.at + delays.injection + delays.kill)
    for pod in pods:
        system.kill(pod, delays.proxy_outlives)
        system.calendar.process(_comeback(pod, system))


def _comeback(pod: AppPod, system: System) -> Process:
    """A killed pod starts again, beside all that starts with it and all that goes on; then it asks for its first
    certificate until it gets one, each at its own beat."""
    parameters, service = system.parameters, pod.service.name
    yield system.calendar.timeout(parameters.delays.pod_restart)
    yield from system.worked(*(parameters.start_work(f"{service}/{role}") for role in ("app", "proxy")))
    if not system.restart(pod):
        yield system.calendar.timeout(FIRST_CERTIFICATE_RETRY_SECONDS * system.restarts.random())
        while not system.restart(pod):
            yield system.calendar.timeout(FIRST_CERTIFICATE_RETRY_SECONDS)


def _proxy_oom(fault: FaultSpec, system: System) -> Process:
    """Pods are replaced by others whose proxies never start, and at the end by healthy ones."""
    pods = system.targets(fault)
    delays = system.parameters.delays
    starves = _mebibytes(fault) <= STARVING_MEBIBYTES
    yield from system.sleep_until(fault.at + delays.injection + delays.kill)
    for pod in pods:
        system.kill(pod)
        if not starves:
            system.calendar.process(_comeback(pod, system))
    yield from system.sleep_until(fault.at + fault.duration + delays.reversion)
    for pod in pods:
        if not starves:
            system.kill(pod)
        system.calendar.process(_comeback(pod, system))


def _misroute(fault: FaultSpec, system: System) -> Process:
    """A wrong route, or a selector that matches no pod; pods themselves are as before."""
    pods = system.targets(fault)
    (service,) = [s for s in system.setup.app.services if s.name == fault.targets["service"]]
    delays = system.parameters.delays
    control, authority = system.control, service.authority
    yield from system.sleep_until(fault.at + delays.injection)
    if fault.parameters.get("mode", "route") == "selector":
        for pod in pods:
            control.set_ready(authority, pod, False)
        yield from system.sleep_until(fault.at + fault.duration + delays.reversion)
        for pod in pods:
            if pod.alive:
                control.set_ready(authority, pod, True)
        return
    to = fault.parameters.get("to")
    (other,) = [s.authority for s in system.setup.app.services if s.name == to] or [NOWHERE]
    rules = system.setup.rules[authority]
    control.rule(authority, misrouted(rules, other, float(fault.parameters.get("share", 1.0))))
    yield from system.sleep_until(fault.at + fault.duration + delays.reversion)
    control.rule(authority, rules)


def _network_throttle(fault: FaultSpec, system: System) -> Process:
    pods = system.targets(fault)
    rate = bytes_per_second(str(fault.parameters.get("rate", DEFAULT_RATE)))
    calls = bool(fault.parameters.get(CALLS_TOO))
    delays = system.parameters.delays
    yield from system.sleep_until(fault.at + delays.injection)
    for pod in pods:
        if pod.alive:
            pod.throttle(Wire(system.agenda, rate), calls)
    yield from system.sleep_until(fault.at + fault.duration + delays.reversion)
    for pod in pods:
        pod.unthrottle()


def _telemetry_loss(fault: FaultSpec, system: System) -> Process:
    """Nothing happens to requests, which are all that the twin forecasts."""
    yield from system.sleep_until(fault.at)


def _mebibytes(fault: FaultSpec) -> float:
    return float(str(fault.parameters.get("memoryLimit", "24Mi")).removesuffix("Mi"))


def _without_model(fault: FaultSpec) -> str:
    return f"fault {fault.name}: the twin has no model of kind {fault.kind}"


_KINDS: dict[str, Callable[[FaultSpec, System], Process]] = {
    "control-plane-down": _control_plane_down,
    "cert-expiry": _cert_expiry,
    "app-degrade": _app_degrade,
    "pod-kill": _pod_kill,
    "proxy-oom": _proxy_oom,
    "misroute": _misroute,
    "network-throttle": _network_throttle,
    "telemetry-loss": _telemetry_loss,
}
_PARAMETERS: dict[str, frozenset[str]] = {
    "app-degrade": frozenset({"errorRate", "status", "latencySeconds", "freeze", "route"}),
    "proxy-oom": frozenset({"memoryLimit"}),
    "misroute": frozenset({"mode", "share", "to"}),
    "network-throttle": frozenset({"rate", CALLS_TOO}),
}
