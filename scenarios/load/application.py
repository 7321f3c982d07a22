"""Application files: a topology, checked. The format is described in docs/scenario-reference.md."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, cast

from scenarios.load.document import Node, Scalar, Sequence
from scenarios.load.fields import Fields, Reader
from scenarios.load.header import read_header
from scenarios.load.problems import Mark, Problems, quote, suggestion
from scenarios.model import Application, AppRoute, AppService, Call, Journey, JourneyStep, ServiceTime

MAX_SERVICES = 50
MAX_PODS = 100
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_PATH = re.compile(r"/[-A-Za-z0-9._~/!$&'()*+,;=:@%]*")
SHARE_TOLERANCE = 1e-6


def load_application(path: Path | str) -> Application:
    """The topology in `path`.

    Raises:
        InvalidScenario: the file cannot be read or is wrong; with every problem found.
    """
    problems = Problems()
    app = read_application(Path(path), problems)
    problems.raise_if_any()
    assert app is not None
    return app


def read_application(path: Path, problems: Problems) -> Application | None:
    """As `load_application`, leaving the verdict to the caller: usable only while `problems` is empty."""
    header = read_header(path, "Application", problems)
    if header is None:
        return None
    metadata, spec_node = header
    name = metadata.label("name")
    metadata.text("description", "")
    metadata.done()
    spec = Fields(spec_node, "", problems)
    services = _services(spec, problems)
    journeys = _journeys(spec, services, name, problems)
    spec.done()
    return Application(name=name, source=path.resolve(), services=services, journeys=journeys)


# ---- services --------------------------------------------------------------------------------------------------------


def _services(spec: Fields, problems: Problems) -> tuple[AppService, ...]:
    table = spec.mapping("services")
    services: list[AppService] = []
    calls: list[_WrittenCall] = []
    for name, field, node in table.entries():
        table.reader.label(Scalar(name, "text", table.key_mark(name)), field)
        services.append(_service(name, node, field, calls, problems))
    if not services and not problems:
        spec.problem("services", "names no service")
    if len(services) > MAX_SERVICES:
        spec.problem("services", f"names {len(services)} services; {MAX_SERVICES} at most")
    pods = sum(service.replicas for service in services)
    if pods > MAX_PODS:
        spec.problem("services", f"asks for {pods} pods in all; {MAX_PODS} at most")
    _check_calls(services, calls, problems)
    return tuple(services)


class _WrittenCall:
    """A call as it stands in the file, to be checked when all services are known."""

    def __init__(self, service: str, route: str, call: Call, mark: Mark, field: str) -> None:
        self.service = service
        self.route = route
        self.call = call
        self.mark = mark
        self.field = field


def _service(name: str, node: Node, field: str, calls: list[_WrittenCall], problems: Problems) -> AppService:
    fields = Fields(node, field, problems)
    command = fields.texts("command") if fields.has("command") else None
    if command == () and fields.has("command"):
        fields.problem("command", "names no program")
    health_path = fields.text("healthPath", "") or None
    if health_path is not None and command is None:
        fields.problem("healthPath", "is for a command; the workload has its own")
    routes = _routes(fields, name, command is not None, calls, problems)
    service = AppService(
        name=name,
        namespace=fields.label("namespace"),
        port=fields.integer("port", 8080, minimum=1, maximum=65535),
        replicas=fields.integer("replicas", 1, minimum=1, maximum=20),
        workers=fields.integer("workers", 32, minimum=1, maximum=10_000),
        queue=fields.integer("queue", 64, minimum=0, maximum=100_000),
        work=cast(
            Literal["wait", "cpu", "shared"],
            fields.choice("work", ("wait", "cpu", "shared"), what="kind of work", default="wait"),
        ),
        routes=routes,
        command=command,
        health_path=health_path,
        meshed=fields.boolean("meshed", True),
        cancels=fields.boolean("cancels", False),
    )
    if service.cancels and service.work != "wait":
        fields.problem("cancels", f"is for work that waits; who burns CPU reads no sockets (work: {service.work})")
    fields.done()
    return service


def _routes(
    fields: Fields, service: str, is_command: bool, calls: list[_WrittenCall], problems: Problems
) -> tuple[AppRoute, ...]:
    table = fields.mapping("routes")
    routes: list[AppRoute] = []
    for key, field, node in table.entries():
        parsed = parse_route(key)
        if parsed is None:
            problems.add(table.key_mark(key), field, f"{quote(key)} is not a route; write it as GET /items")
            continue
        method, path = parsed
        if any(known.method == method and known.path == path for known in routes):
            problems.add(table.key_mark(key), field, f"{method} {path} is written twice")
        routes.append(_route(service, method, path, node, field, is_command, calls, problems))
    if table.node.mark.path and not table.node.entries:
        fields.problem("routes", "names no route")
    return tuple(routes)


def _route(
    service: str,
    method: str,
    path: str,
    node: Node,
    field: str,
    is_command: bool,
    calls: list[_WrittenCall],
    problems: Problems,
) -> AppRoute:
    fields = Fields(node, field, problems)
    kinds = ("lognormal", "exponential", "constant")
    median = fields.duration("time", 0.01 if is_command else None, zero=True, maximum=60.0)
    time = ServiceTime(
        median_seconds=median,
        sigma=fields.number("sigma", 0.0, minimum=0.0, maximum=3.0),
        kind=cast(
            Literal["lognormal", "exponential", "constant"],
            fields.choice("distribution", kinds, what="distribution", default="lognormal"),
        ),
    )
    stages: list[tuple[Call, ...]] = []
    for item_field, item in fields.items("calls"):
        members = item.items if isinstance(item, Sequence) else (item,)
        stage: list[Call] = []
        for index, member in enumerate(members):
            member_field = f"{item_field}[{index}]" if isinstance(item, Sequence) else item_field
            call = _call(member, member_field, fields.reader)
            if call is not None:
                stage.append(call)
                calls.append(_WrittenCall(service, f"{method} {path}", call, member.mark, member_field))
        if stage:
            stages.append(tuple(stage))
    if is_command and fields.has("calls"):
        fields.problem("calls", "a command makes its own calls; leave this out")
    failure_rate = fields.share("failureRate", 0.0)
    fields.done()
    return AppRoute(method, path, time, tuple(stages), failure_rate)


def parse_route(text: str) -> tuple[str, str] | None:
    """`GET /items` → its parts."""
    parts = text.split()
    if len(parts) == 2 and parts[0] in _METHODS and _PATH.fullmatch(parts[1]):
        return parts[0], parts[1]
    return None


def parse_service_route(text: str) -> tuple[str, str, str] | None:
    """`POST payment /charge` → (service, method, path)."""
    parts = text.split()
    if len(parts) == 3 and parts[0] in _METHODS and _PATH.fullmatch(parts[2]):
        return parts[1], parts[0], parts[2]
    return None


def _call(node: Node, field: str, reader: Reader) -> Call | None:
    text = reader.text(node, field)
    if not text:
        return None
    parsed = parse_service_route(text)
    if parsed is None:
        reader.problems.add(node.mark, field, f"{quote(text)} is not a call; write it as POST payment /charge")
        return None
    return Call(*parsed)


def _check_calls(services: list[AppService], calls: list[_WrittenCall], problems: Problems) -> None:
    by_name = {service.name: service for service in services}
    edges: dict[str, list[_WrittenCall]] = {}
    for written in calls:
        if check_route(by_name, written.call, "the application", written.mark, written.field, problems):
            edges.setdefault(written.service, []).append(written)
    cycle = _find_cycle(by_name, edges)
    if cycle:
        steps = " → ".join(f"{written.service} {written.route}" for written in cycle)
        last = cycle[-1]
        problems.add(last.mark, last.field, f"the calls go in a circle: {steps} → {last.call.service}")


def check_route(
    services: dict[str, AppService],
    call: Call | JourneyStep,
    where: str,
    mark: Mark,
    field: str,
    problems: Problems,
) -> bool:
    """Whether the called service and route exist; notes what does not."""
    service = services.get(call.service)
    if service is None:
        known = suggestion(call.service, services)
        problems.add(mark, field, f"no service {quote(call.service)} in {where}{known}")
        return False
    if service.route(call.method, call.path) is None:
        wanted = f"{call.method} {call.path}"
        known = suggestion(wanted, (route.name for route in service.routes))
        problems.add(mark, field, f"no route {quote(wanted)} in service {call.service}{known}")
        return False
    return True


def _find_cycle(services: Iterable[str], edges: dict[str, list[_WrittenCall]]) -> list[_WrittenCall]:
    """The first cycle between services, as the calls that make it.

    Between services, not routes: two routes of one service share its workers, so that a service which waits for itself
    can run out of them and never move again.
    """
    done: set[str] = set()

    def visit(service: str, path: list[_WrittenCall], on_path: list[str]) -> list[_WrittenCall]:
        for written in edges.get(service, ()):
            callee = written.call.service
            if callee in on_path:
                return [*path, written][on_path.index(callee) :]
            if callee not in done:
                found = visit(callee, [*path, written], [*on_path, callee])
                if found:
                    return found
        done.add(service)
        return []

    for service in services:
        if service not in done:
            found = visit(service, [], [service])
            if found:
                return found
    return []


# ---- journeys --------------------------------------------------------------------------------------------------------


def _journeys(spec: Fields, services: tuple[AppService, ...], app: str, problems: Problems) -> tuple[Journey, ...]:
    table = spec.mapping("journeys")
    by_name = {service.name: service for service in services}
    journeys: list[Journey] = []
    for name, field, node in table.entries():
        table.reader.label(Scalar(name, "text", table.key_mark(name)), field)
        fields = Fields(node, field, problems)
        share = fields.share("share")
        steps: list[JourneyStep] = []
        for step_field, step_node in fields.items("steps", required=True):
            call = _call(step_node, step_field, fields.reader)
            where = f"topology {app}"
            if call is not None and check_route(by_name, call, where, step_node.mark, step_field, problems):
                steps.append(JourneyStep(call.service, call.method, call.path))
        node_steps = fields.optional("steps")
        if isinstance(node_steps, Sequence) and not node_steps.items:
            fields.problem("steps", "has no step")
        fields.done()
        journeys.append(Journey(name, share, tuple(steps)))
    if not journeys and not problems:
        spec.problem("journeys", "names no journey")
    check_shares({journey.name: journey.share for journey in journeys}, spec.at("journeys"), "journeys", problems)
    return tuple(journeys)


def check_shares(shares: dict[str, float], mark: Mark, field: str, problems: Problems) -> None:
    total = math.fsum(shares.values())
    if shares and abs(total - 1) > SHARE_TOLERANCE:
        problems.add(mark, field, f"the shares sum to {total * 100:.6g}%, not 100%")
