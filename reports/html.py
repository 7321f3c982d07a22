"""report.html: one self-contained file; no script, no font, no image, nothing fetched.

The page is `templates/report.html.j2`; each section is a template of its own, in the order of `SECTIONS`. Jinja's
autoescape is on: every text of a scenario, an event or a metric is data. Only the charts' SVG is markup, and they
escape what they print.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from reports import notation, reading
from reports.charts.attempts import amplified, attempts_chart
from reports.charts.burn import burn_chart
from reports.charts.causes import causes_chart
from reports.charts.fan import fan_chart
from reports.charts.heat import heat_chart
from reports.charts.intervals import interval_glyph, whisker_glyph
from reports.charts.load import load_chart
from reports.charts.phase_map import phase_map_chart
from reports.charts.stage import Stage, stage_of
from reports.charts.timeline import numbered, timeline_chart
from reports.document import CounterfactualSloPart, Document, PredictionPart, TimelinePart
from reports.explanation import price_words
from reports.material import Material
from reports.reading import Told, told
from scenarios.model import AppService, SloSpec
from sim.results import Fan
from sim.sweep.phase_map import PhaseMap

_BACKTICKS = re.compile("`([^`<>]+)`")
TEMPLATES = Path(__file__).parent / "templates"

SECTIONS = (
    "summary",
    "hypothesis",
    "blast_radius",
    "impact",
    "detection",
    "timeline",
    "forecast",
    "budget",
    "load",
    "predictions",
    "surprises",
    "counterfactuals",
    "causes",
    "phase_map",
    "mesh",
    "actions",
    "limits",
    "reproduce",
)


def to_html(document: Document, material: Material) -> str:
    """The whole file."""
    environment = _environment()
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    page = environment.get_template("report.html.j2")
    return page.render(d=document, charts=Charts(document, material), css=Markup(css), sections=SECTIONS)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    for name in ("percent", "objective", "seconds", "moment", "times", "count", "rate", "size", "utc", "clock_time"):
        environment.filters[name] = getattr(notation, name)
    environment.filters["prose"] = _prose
    environment.globals["price_words"] = price_words
    environment.globals["told_value"] = reading.value
    for name in ("expected", "interval", "is_event", "subject_name"):
        environment.globals[name] = getattr(reading, name)
    for name in ("quantity", "quantity_name", "stated", "comparison", "by_unit", "span"):
        environment.globals[name] = getattr(notation, name)
    return environment


@dataclass(frozen=True)
class Charts:
    """What templates may draw; each is empty where the run has nothing to draw."""

    document: Document
    material: Material

    @cached_property
    def stage(self) -> Stage | None:
        return stage_of(self.material.run, self.document, self.document.detection)

    def _stage_of(self, slo: SloSpec) -> Stage | None:
        """The stage with the SLO's own marks, where there is a request to draw on it."""
        found = next((found for found in self.document.detections if found.slo == slo.name), self.document.detection)
        return stage_of(self.material.run, self.document, found) if self.material.run.all_requests else None

    @property
    def slos(self) -> tuple[SloSpec, ...]:
        scenario = self.material.run.scenario
        return scenario.slos if scenario is not None else ()

    @property
    def phase_map(self) -> PhaseMap | None:
        return self.material.phase_map

    def phase_maps(self) -> list[tuple[str, Markup, str]]:
        """Policy, map and what the formula says, of each panel."""
        made = self.phase_map
        if made is None:
            return []
        return [(p.policy, Markup(phase_map_chart(made, p, 760.0, 260.0)), p.boundary_note) for p in made.panels]

    def phase_map_css(self) -> Markup:
        return Markup((TEMPLATES / "phase_map_charts.css").read_text(encoding="utf-8"))

    def hero(self) -> Markup:
        """The SLO that lost most of its budget, wide."""
        worst = next((slo for slo in self.slos if slo.name == self.document.detection.slo), None)
        return self._fan(worst, "success_rate", (1080.0, 280.0)) if worst is not None else Markup()

    def fans(self) -> list[tuple[SloSpec, str]]:
        """Success rate of each SLO, and latency once for each route (of the SLO that has a threshold for it)."""
        by_route: dict[str | None, SloSpec] = {}
        for slo in self.slos:
            if slo.route not in by_route or (slo.threshold is not None and by_route[slo.route].threshold is None):
                by_route[slo.route] = slo
        shown: list[tuple[SloSpec, str]] = []
        for slo in self.slos:
            shown.append((slo, "success_rate"))
            if by_route[slo.route] is slo:
                shown.append((slo, "p95"))
        return shown

    def fan(self, slo: SloSpec, quantity: str) -> Markup:
        return self._fan(slo, quantity, (520.0, 210.0))

    def amplified(self) -> list[AppService]:
        """Services whose callers retried, or were forecast to."""
        scenario = self.material.run.scenario
        services = scenario.app.services if scenario is not None else ()
        return [service for service in services if amplified(service.name, self.document.predictions)]

    def attempts(self, service: AppService) -> Markup:
        if self.stage is None:
            return Markup()
        return Markup(attempts_chart(self.material.run, self.stage, service, self.document.predictions))

    def burn(self, slo: SloSpec) -> Markup:
        forecast = next(
            (
                row
                for row in self.document.predictions
                if (row.quantity, row.subject, row.window) == ("budget_spent", slo.name, "all")
            ),
            None,
        )
        stage = self._stage_of(slo)
        return Markup(burn_chart(self.material.run, stage, slo, forecast)) if stage is not None else Markup()

    def load(self) -> Markup:
        stage = self._drawable
        return Markup(load_chart(self.material.run, stage)) if stage is not None else Markup()

    def heat(self) -> Markup:
        stage = self._drawable
        return Markup(heat_chart(self.material.run, stage)) if stage is not None else Markup()

    def timeline(self) -> Markup:
        if self.stage is None:
            return Markup()
        return Markup(timeline_chart(self.material.run, self.stage, self.document.timeline, self.slos))

    def events(self) -> list[tuple[int, TimelinePart]]:
        """Events with the numbers that the timeline shows."""
        return numbered(self.document.timeline)

    def interval(self, row: PredictionPart) -> Markup:
        return Markup(interval_glyph(row))

    def whisker(self, row: CounterfactualSloPart) -> Markup:
        every = [slo.budget_spent_high for change in self.document.counterfactuals for slo in change.predicted]
        return Markup(whisker_glyph(row, max(every, default=1.0)))

    def causes(self) -> Markup:
        return Markup(causes_chart(self.document.causes))

    def predictions(self) -> Told:
        """Misses first, then each SLO's headlines; the rest to unfold."""
        return told(self.document.predictions, [slo.name for slo in self.slos])

    @property
    def _drawable(self) -> Stage | None:
        """The stage, where there is a request to draw on it."""
        return self.stage if self.material.run.all_requests else None

    def _fan(self, slo: SloSpec, quantity: str, size: tuple[float, float]) -> Markup:
        stage = self._stage_of(slo)
        if stage is None:
            return Markup()
        found: Fan | None = None
        if self.material.forecast is not None:
            found = next(
                (fan for fan in self.material.forecast.fans if fan.quantity == quantity and fan.subject == slo.name),
                None,
            )
        return Markup(fan_chart(self.material.run, stage, slo, quantity, found, size=size))


def _prose(text: str) -> Markup:
    """Escapes a person's text and sets `what stands in backticks` as code."""
    return Markup(_BACKTICKS.sub(r"<code>\1</code>", str(escape(text))))
