"""Objectives: our shorthand, and OpenSLO v1 documents in files of their own.

    slos:
      - {name: checkout-success, route: POST storefront /checkout, objective: 99%}
      - {name: checkout-fast, route: POST storefront /checkout, objective: 95%, latency: 500ms}
      - file: slos/browse.yaml

Of OpenSLO we read `kind: SLO` (`apiVersion: openslo/v1`), with the indicator inside or as a `kind: SLI` of the same
file. `ratioMetric` counts answers below 500; `thresholdMetric` with `op: lte` (or `lt`) and a `value` in seconds adds
the latency that a good answer keeps. The route is in the metric source's spec:
`metricSource: {type: gameday, spec: {route: …}}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scenarios.load.application import check_route, parse_service_route
from scenarios.load.document import Mapping, Node, Scalar, read_documents
from scenarios.load.fields import Fields
from scenarios.load.problems import Mark, Problems, display_path, quote, suggestion
from scenarios.model import Application, JourneyStep, LoadSpec, SloSpec

OPENSLO = "openslo/v1"
METRIC_SOURCE = "gameday"


def read_slos(spec: Fields, app: Application, load: LoadSpec, folder: Path, problems: Problems) -> tuple[SloSpec, ...]:
    """All objectives of `slos`, files included; names are unique."""
    reader = _SloReader(app, load, problems)
    found: list[SloSpec] = []
    for field, node in spec.items("slos", required=True):
        entry = Fields(node, field, problems)
        if entry.has("file"):
            mark = entry.at("file")
            name = entry.text("file")
            entry.done()
            slos = list(reader.file(folder / name, mark, f"{field}.file")) if name else []
        else:
            mark = entry.at("name")
            slos = [reader.shorthand(entry)]
        for slo in slos:
            if slo.name and any(known.name == slo.name for known in found):
                problems.add(mark, f"{field}.name", f"{quote(slo.name)} names two objectives")
            found.append(slo)
    if not found and spec.has("slos") and not problems:
        spec.problem("slos", "names no objective; a game day without one has no verdict")
    return tuple(found)


class _SloReader:
    def __init__(self, app: Application, load: LoadSpec, problems: Problems) -> None:
        self._app = app
        self._load = load
        self._problems = problems

    def shorthand(self, entry: Fields) -> SloSpec:
        name = entry.label("name")
        step = None
        if entry.has("route"):
            step = self._route(entry.text("route"), entry.at("route"), entry.name_of("route"))
        objective = self._objective(entry, "objective")
        threshold = None
        if entry.has("latency"):
            threshold = entry.duration("latency", 1.0)
            self._check_threshold(threshold, entry.at("latency"), entry.name_of("latency"))
        entry.done()
        return _slo(name, step, objective, threshold)

    def _objective(self, entry: Fields, key: str, *, percent: bool = False) -> float:
        node = entry.required(key)
        if percent and isinstance(node, Scalar):
            node = Scalar(f"{node.text.strip()}%", node.kind, node.mark)
        return entry.reader.share(node, entry.name_of(key), default=0.5, strict=True) if node is not None else 0.5

    def _route(self, text: str, mark: Mark, field: str) -> JourneyStep | None:
        if not text:
            return None
        parsed = parse_service_route(text)
        if parsed is None:
            self._problems.add(mark, field, f"{quote(text)} is not a route; write it as POST storefront /checkout")
            return None
        step = JourneyStep(*parsed)
        services = {service.name: service for service in self._app.services}
        if not check_route(services, step, f"topology {self._app.name}", mark, field, self._problems):
            return None
        used = {
            _route_name(known)
            for journey in self._app.journeys
            if self._load.mix.get(journey.name, 0.0) > 0
            for known in journey.steps
        }
        if used and _route_name(step) not in used:
            known = suggestion(_route_name(step), used)
            self._problems.add(mark, field, f"no journey of the load's mix uses {_route_name(step)}{known}")
        return step

    def _check_threshold(self, threshold: float, mark: Mark, field: str) -> None:
        if threshold > self._load.timeout:
            self._problems.add(
                mark,
                field,
                f"{threshold:g}s is beyond load.timeout ({self._load.timeout:g}s), so it can never be missed",
            )

    # ---- OpenSLO

    def file(self, path: Path, mark: Mark, field: str) -> Iterator[SloSpec]:
        before = Problems()
        documents = read_documents(path, before)
        if before:
            if not path.is_file():
                self._problems.add(mark, field, f"no such file: {display_path(path)}")
            else:
                before.copy_to(self._problems)
            return
        indicators: dict[str, Mapping] = {}
        slos: list[Fields] = []
        for document in documents:
            top = Fields(document, "", self._problems)
            version = top.text("apiVersion")
            if version and version != OPENSLO:
                top.problem("apiVersion", f"{quote(version)} is not known here; write {OPENSLO}")
            kind = top.text("kind")
            name = _name_of(document)
            if kind == "SLO":
                slos.append(top)
            elif kind == "SLI" and isinstance(document, Mapping):
                indicators[name] = document
            elif kind:
                top.problem("kind", f"{quote(kind)} is not read here; there is SLI, SLO")
        if not slos and not self._problems:
            self._problems.add(mark, field, f"{display_path(path)} holds no SLO")
        for top in slos:
            yield from self._openslo(top, indicators)

    def _openslo(self, top: Fields, indicators: dict[str, Mapping]) -> Iterator[SloSpec]:
        metadata = top.mapping("metadata")
        name = metadata.label("name")
        spec = top.mapping("spec")
        spec.choice("budgetingMethod", ("Occurrences",), what="budgeting method here", default="Occurrences")
        indicator = self._indicator(spec, indicators)
        route, is_threshold, own_threshold = self._indicator_route(indicator) if indicator else (None, False, None)
        objectives = list(spec.items("objectives", required=True))
        if spec.has("objectives") and not objectives:
            spec.problem("objectives", "names no objective")
        for index, (field, node) in enumerate(objectives):
            objective = Fields(node, field, self._problems)
            percent = "target" not in objective.node.entries and "targetPercent" in objective.node.entries
            target = self._objective(objective, "targetPercent" if percent else "target", percent=percent)
            threshold = own_threshold
            if is_threshold:
                objective.choice("op", ("lte", "lt"), what="comparison for a latency")
                threshold = objective.number("value", minimum=0.0005, maximum=3600.0)
                self._check_threshold(threshold, objective.at("value"), objective.name_of("value"))
            yield _slo(name if len(objectives) == 1 else f"{name}-{index + 1}", route, target, threshold)

    def _indicator(self, spec: Fields, indicators: dict[str, Mapping]) -> Fields | None:
        if spec.has("indicatorRef"):
            name = spec.text("indicatorRef")
            found = indicators.get(name)
            if found is None:
                if name:
                    known = suggestion(name, indicators)
                    spec.problem("indicatorRef", f"no SLI {quote(name)} in this file{known}")
                return None
            return Fields(found, "", self._problems).mapping("spec")
        return spec.mapping("indicator").mapping("spec")

    def _indicator_route(self, indicator: Fields) -> tuple[JourneyStep | None, bool, float | None]:
        """(route, whether objectives carry a latency, latency that the ratio itself asks for)."""
        is_threshold = indicator.has("thresholdMetric")
        if not is_threshold and not indicator.has("ratioMetric"):
            indicator.problem("ratioMetric", "is missing; give a ratioMetric or a thresholdMetric")
            return None, False, None
        metric = indicator.mapping("thresholdMetric" if is_threshold else "ratioMetric")
        if not is_threshold:
            metric = metric.mapping("good")
        source = metric.mapping("metricSource")
        source.choice("type", (METRIC_SOURCE,), what="metric source", default=METRIC_SOURCE)
        details = source.mapping("spec")
        route = None
        if details.has("route"):
            route = self._route(details.text("route"), details.at("route"), details.name_of("route"))
        latency = None
        if details.has("latency"):
            latency = details.duration("latency", 1.0)
            self._check_threshold(latency, details.at("latency"), details.name_of("latency"))
        details.done()
        return route, is_threshold, latency


def _slo(name: str, step: JourneyStep | None, objective: float, threshold: float | None) -> SloSpec:
    if step is None:
        return SloSpec(name, None, None, None, objective, threshold)
    return SloSpec(name, step.service, step.method, step.path, objective, threshold)


def _route_name(step: JourneyStep) -> str:
    return f"{step.method} {step.service} {step.path}"


def _name_of(document: Node) -> str:
    metadata = document.entries.get("metadata") if isinstance(document, Mapping) else None
    name = metadata.entries.get("name") if isinstance(metadata, Mapping) else None
    return name.text.strip() if isinstance(name, Scalar) else ""
