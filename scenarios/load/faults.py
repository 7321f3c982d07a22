"""The fault timeline: what each kind of fault may hit and which parameters it takes, as a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from scenarios.load.application import parse_route
from scenarios.load.document import Node
from scenarios.load.fields import Fields
from scenarios.load.problems import Problems, quote, suggestion
from scenarios.model import Application, AppService, FaultSpec, IdentitySettings

MEMORY = re.compile(r"[1-9][0-9]{0,4}Mi")
RATE = re.compile(r"[1-9][0-9]{0,5}[km]bit")
COMPONENTS = ("identity", "destination", "policy", "all")


@dataclass(frozen=True, slots=True)
class _Kind:
    """How to read the target and the parameters of one kind of fault."""

    target: Callable[[Fields, Application], tuple[dict[str, str | int], AppService | None]]
    parameters: Callable[[Fields, AppService | None, Application], dict[str, float | str]]


def _component(fault: Fields, app: Application) -> tuple[dict[str, str | int], AppService | None]:
    target = fault.mapping("target")
    component = target.choice("component", COMPONENTS, what="component")
    target.done()
    return {"component": component}, None


def _identity(fault: Fields, app: Application) -> tuple[dict[str, str | int], AppService | None]:
    target = fault.mapping("target", required=False)
    target.choice("component", ("identity",), what="component for this fault", default="identity")
    target.done()
    return {"component": "identity"}, None


def _named(target: Fields, app: Application) -> tuple[str, AppService | None]:
    name = target.text("app")
    service = next((service for service in app.services if service.name == name), None)
    if service is None and name:
        known = suggestion(name, (service.name for service in app.services))
        target.problem("app", f"no app {quote(name)} in topology {app.name}{known}")
    return name, service


def _app(fault: Fields, app: Application) -> tuple[dict[str, str | int], AppService | None]:
    target = fault.mapping("target")
    name, service = _named(target, app)
    replicas = target.integer("replicas", service.replicas if service else 1, minimum=1)
    if service is not None and replicas > service.replicas:
        target.problem("replicas", f"{replicas} of {name} are to be hit, but it has {service.replicas}")
    target.done()
    return {"service": name, "replicas": replicas}, service


def _service(fault: Fields, app: Application) -> tuple[dict[str, str | int], AppService | None]:
    """A whole service; how many replicas it has is no choice of the fault."""
    target = fault.mapping("target")
    name, service = _named(target, app)
    target.done()
    return {"service": name}, service


def _telemetry(fault: Fields, app: Application) -> tuple[dict[str, str | int], AppService | None]:
    target = fault.mapping("target")
    if target.has("component"):
        component = target.choice("component", ("control", "all"), what="component for this fault")
        target.done()
        return {"service": component}, None
    name, service = _named(target, app)
    target.done()
    return {"service": name}, service


def _no_parameters(fault: Fields, service: AppService | None, app: Application) -> dict[str, float | str]:
    fault.mapping("parameters", required=False).done()
    return {}


def _degrade(fault: Fields, service: AppService | None, app: Application) -> dict[str, float | str]:
    """Named as in the body of the workload's PUT /faults; `latency` becomes `latencySeconds`."""
    fields = fault.mapping("parameters")
    found: dict[str, float | str] = {}
    if fields.has("errorRate"):
        found["errorRate"] = fields.share("errorRate")
    if fields.has("status"):
        found["status"] = float(fields.integer("status", 503, minimum=500, maximum=599))
    if fields.has("latency"):
        found["latencySeconds"] = fields.duration("latency", 0.0, maximum=60.0)
    if fields.has("freeze"):
        found["freeze"] = float(fields.boolean("freeze", False))
    if fields.has("route"):
        text = fields.text("route", "")
        parsed = parse_route(text)
        if parsed is None:
            if text:
                fields.problem("route", f"{quote(text)} is not a route; write it as POST /charge")
        elif service is not None and service.route(*parsed) is None:
            known = suggestion(text, (route.name for route in service.routes))
            fields.problem("route", f"no route {quote(text)} in service {service.name}{known}")
        else:
            found["route"] = " ".join(parsed)
    fields.done()
    if not any(found.get(key) for key in ("errorRate", "latencySeconds", "freeze")):
        fault.problem("parameters", "change nothing; give errorRate, latency or freeze")
    if service is not None and service.command is not None:
        fault.problem("target", f"{service.name} runs a command of your own, which takes no faults; try pod-kill")
    return found


def _memory(fault: Fields, service: AppService | None, app: Application) -> dict[str, float | str]:
    fields = fault.mapping("parameters", required=False)
    found = _matching(fields, "memoryLimit", MEMORY, "a memory size; write it as 24Mi")
    fields.done()
    return found


def _rate(fault: Fields, service: AppService | None, app: Application) -> dict[str, float | str]:
    fields = fault.mapping("parameters", required=False)
    found = _matching(fields, "rate", RATE, "a rate; write it as 64kbit or 1mbit")
    fields.done()
    return found


def _matching(fields: Fields, key: str, pattern: re.Pattern[str], what: str) -> dict[str, float | str]:
    if not fields.has(key):
        return {}
    text = fields.text(key)
    if text and not pattern.fullmatch(text):
        fields.problem(key, f"{quote(text)} is not {what}")
    return {key: text}


def _misroute(fault: Fields, service: AppService | None, app: Application) -> dict[str, float | str]:
    fields = fault.mapping("parameters", required=False)
    found: dict[str, float | str] = {}
    mode = fields.choice("mode", ("route", "selector"), what="mode", default="route")
    if mode == "selector":
        found["mode"] = mode
    if fields.has("to"):
        name = fields.text("to")
        names = [known.name for known in app.services]
        if name and name not in names:
            fields.problem("to", f"no app {quote(name)} in topology {app.name}{suggestion(name, names)}")
        if service is not None and name == service.name:
            fields.problem("to", f"{name} is where its requests belong; name another app, or leave it out for nowhere")
        found["to"] = name
    if fields.has("share"):
        found["share"] = fields.share("share")
    if mode == "selector" and ("to" in found or "share" in found):
        fields.problem("mode", "a wrong selector has no destination and no share; leave out to and share")
    fields.done()
    return found


KINDS: dict[str, _Kind] = {
    "control-plane-down": _Kind(_component, _no_parameters),
    "cert-expiry": _Kind(_identity, _no_parameters),
    "app-degrade": _Kind(_app, _degrade),
    "pod-kill": _Kind(_app, _no_parameters),
    "proxy-oom": _Kind(_service, _memory),
    "network-throttle": _Kind(_app, _rate),
    "misroute": _Kind(_service, _misroute),
    "telemetry-loss": _Kind(_telemetry, _no_parameters),
}


def read_fault(
    node: Node, field: str, app: Application, identity: IdentitySettings, inject: float, problems: Problems
) -> FaultSpec:
    """One entry of `faults`. `inject`: length of the phase it has to fit into."""
    fields = Fields(node, field, problems)
    name = fields.label("name")
    kind = fields.choice("kind", KINDS, what="kind of fault")
    at = fields.duration("at", 0.0, zero=True)
    duration = fields.duration("duration")
    if kind in KINDS:
        targets, service = KINDS[kind].target(fields, app)
        parameters = KINDS[kind].parameters(fields, service, app)
    else:
        targets, parameters = {}, {}
        fields.has("target")
        fields.has("parameters")
    if at + duration > inject + 1e-9:
        fields.problem("duration", f"ends {at + duration:g}s into the inject phase, which lasts {inject:g}s")
    if kind == "cert-expiry" and duration <= identity.leaf_lifetime + identity.clock_skew:
        fields.problem(
            "duration",
            f"no certificate expires in {duration:g}s: leaves live {identity.leaf_lifetime:g}s and"
            f" {identity.clock_skew:g}s of clock skew; shorten identity.leafLifetime or fault for longer",
        )
    fields.done()
    return FaultSpec(name, kind, at, duration, targets, parameters, line=node.mark.line or 0)
