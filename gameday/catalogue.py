"""`gameday list`, `show` and `lint`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from gameday.errors import Exit
from mesh.api.durations import format_duration
from scenarios.catalogue import names
from scenarios.load import InvalidScenario, load_scenario
from scenarios.model import Scenario


def print_catalogue() -> int:
    """One line for each scenario."""
    table = Table(box=None, pad_edge=False)
    for column in ("scenario", "what it breaks", "guide", "length", "variants"):
        table.add_column(column, no_wrap=column in ("scenario", "length"))
    for name in names():
        scenario = load_scenario(name)
        table.add_row(
            name,
            scenario.title,
            " ".join(scenario.guide),
            format_duration(timed_seconds(scenario)),
            " ".join(scenario.variants) or "–",
        )
    Console().print(table)
    print("\n`gameday show NAME` tells the story; `gameday run NAME --dry-run` the blast radius.")
    return Exit.HELD


def timed_seconds(scenario: Scenario) -> float:
    """Length of the timed phases; bringing the world up, sealing and judging come on top."""
    phases = scenario.phases
    return phases.warmup + phases.baseline + phases.inject + phases.recover


def print_scenario(name: str, variant: str | None) -> int:
    """All that a person wants to know before running it."""
    scenario = load_scenario(name, variant=variant)
    console = Console(highlight=False)
    console.print(f"[bold]{scenario.title}[/bold]  ({scenario.name}; guide: {', '.join(scenario.guide) or 'none'})")
    console.print(f"{scenario.description.strip()}\n")
    _print_app(console, scenario)
    load = scenario.load
    mix = ", ".join(f"{journey} {share:.1%}" for journey, share in load.mix.items())
    console.print(
        f"[bold]Load[/bold]   {load.rate:g} arrivals/s ({mix}); an answer later than"
        f" {format_duration(load.timeout)} is bad"
    )
    phases = scenario.phases
    console.print(
        f"[bold]Phases[/bold] warmup {format_duration(phases.warmup)}, baseline {format_duration(phases.baseline)},"
        f" seal, inject {format_duration(phases.inject)}, recover {format_duration(phases.recover)}"
    )
    console.print("[bold]Faults[/bold]" if scenario.faults else "[bold]Faults[/bold] none")
    for fault in scenario.faults:
        targets = ", ".join(f"{key} {value}" for key, value in fault.targets.items())
        parameters = ", ".join(f"{key} {value}" for key, value in fault.parameters.items())
        console.print(
            f"  {fault.name}: {fault.kind} ({targets}{'; ' + parameters if parameters else ''})"
            f" at {format_duration(fault.at)} for {format_duration(fault.duration)}"
        )
    console.print("[bold]SLOs[/bold]")
    for slo in scenario.slos:
        limit = f" within {format_duration(slo.threshold)}" if slo.threshold is not None else ""
        console.print(f"  {slo.name}: {slo.objective * 100:.6g} % of {slo.route or 'all requests'} good{limit}")
    console.print("[bold]Expectations[/bold]")
    for expectation in scenario.expectations:
        console.print(f"  {expectation.text}")
    if scenario.variants:
        console.print("[bold]Variants[/bold]")
        for key, text in scenario.variants.items():
            console.print(f"  {key}: {text}")
    return Exit.HELD


def _print_app(console: Console, scenario: Scenario) -> None:
    console.print(f"[bold]App[/bold]    {scenario.app.name}")
    for service in scenario.app.services:
        callees = sorted({call.service for route in service.routes for group in route.calls for call in group})
        arrow = f" → {', '.join(callees)}" if callees else ""
        console.print(f"  {service.name} ({service.namespace}, {service.replicas} replicas){arrow}")


def lint_scenarios(chosen: Sequence[str]) -> int:
    """Checks each; prints every problem; 2 where there is one."""
    code = Exit.HELD
    for name in chosen or names():
        try:
            scenario = load_scenario(name)
            for variant in scenario.variants:
                load_scenario(name, variant=variant)
        except InvalidScenario as error:
            code = Exit.BAD_INPUT
            for problem in error.problems:
                print(problem, file=sys.stderr)
        else:
            variants = f", {len(scenario.variants)} variants" if scenario.variants else ""
            print(f"{name}: ok ({len(scenario.faults)} faults, {len(scenario.slos)} SLOs{variants})")
    return code
