"""`gameday forecast`: the twin alone, without starting anything."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from gameday import rundir
from gameday.calibration.file import calibration_for, read_file
from gameday.errors import BadInput, Exit
from reports.comparison import prediction_part
from reports.document import PredictionPart
from reports.notation import quantity_name
from reports.observe import observation
from reports.reading import SERVICES, band, expected, interval, told, value
from reports.run import Run
from reports.store import RunStore
from scenarios.load import load_scenario
from scenarios.model import Scenario
from sim.calibration.outcome import Calibration
from sim.forecast.predict import cold_observation, make_forecast
from sim.observation import Observation
from sim.results import Forecast

TIME_BUDGET_SECONDS = 15.0
LEVELS = (0.5, 0.8)
"""Of the intervals shown beside that of 90 %."""
ROOMY = 110
"""Columns that a terminal needs for all of them."""


def print_forecast(
    name: str,
    variant: str | None,
    overrides: Sequence[str],
    seed: int,
    from_run: str | None,
    as_json: bool,
    calibrated: Path | None = None,
    everything: bool = False,
) -> int:
    """Makes and prints a forecast: its headlines, or everything. `calibrated`: a file that `gameday calibrate -o json`
    wrote."""
    if calibrated is not None and from_run is not None:
        raise BadInput("--calibration and --from-run: two sources of the same thing; give one")
    scenario = load_scenario(name, variant=variant, overrides=tuple(overrides))
    calibration: Calibration | None = None
    if calibrated is not None:
        calibration, seen = calibration_for(read_file(calibrated), scenario, calibrated)
    else:
        seen = observation_of(from_run, scenario) if from_run is not None else cold_observation(scenario, seed)
    forecast = make_forecast(
        scenario,
        seen,
        world="sim",
        seed=seed,
        planned_injection_at=seen.ended_at + 15.0,
        time_budget_seconds=TIME_BUDGET_SECONDS,
        calibration=calibration,
    )
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(forecast)).decode() + "\n")
    else:
        _print_table(scenario, forecast, _source(from_run, calibrated), everything)
    return Exit.HELD


def observation_of(name: str, scenario: Scenario) -> Observation:
    """The baseline of a stored run.

    Raises:
        BadInput: no such run, it never got past its baseline, or it is of another application altogether.
    """
    run = rundir.find(name)
    with RunStore(run.store) as store:
        window = store.meta().get("windows", {}).get("baseline")
        if window is None or window[1] <= window[0] or window[1] > time.time():
            raise BadInput(f"--from-run {name}: the run has no baseline window; use a run that got past its baseline")
        played = Run(store).scenario
        if played is not None and not _routes(played) & _routes(scenario):
            raise BadInput(
                f"--from-run {name}: of {played.app.name}, and has no route of {scenario.app.name}, the app of"
                f" {scenario.name}; name a run of it"
            )
        return observation(store, scenario, window[0], window[1])


def _routes(scenario: Scenario) -> set[tuple[str, str]]:
    return {(service.name, route.name) for service in scenario.app.services for route in service.routes}


def _source(from_run: str | None, calibrated: Path | None) -> str | None:
    if calibrated is not None:
        return str(calibrated)
    return f"the baseline of {from_run}" if from_run is not None else None


def _print_table(scenario: Scenario, forecast: Forecast, source_name: str | None, everything: bool) -> None:
    source = (
        source_name if source_name is not None else "declared values (no run; `--from-run` uses a measured baseline)"
    )
    console = Console()
    console.print(f"[bold]{scenario.title}[/bold]\n{forecast.replications} replications, calibrated on {source}\n")
    levels = LEVELS if console.width >= ROOMY else ()
    parts = [prediction_part(prediction) for prediction in forecast.predictions]
    chosen = told(parts, [slo.name for slo in scenario.slos])
    for title, rows in (*chosen.first, *(chosen.rest if everything else ())):
        console.print(_table(title, rows, levels))
        console.print()
    if chosen.rest and not everything:
        console.print(f"{chosen.rest_count} more (p50, other windows and alerts, the mesh): --all; as data: --json\n")
    for limit in forecast.limits:
        console.print(f"not in this forecast: {limit}")


def _table(title: str, rows: Sequence[PredictionPart], levels: Sequence[float]) -> Table:
    """One group. Services name themselves in each row, SLOs in the title."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    by_subject = title == SERVICES
    table.add_column("")
    table.add_column("window")
    for column in ("expected", *(f"{level * 100:.0f} %" for level in levels), "90 %", "nothing changes"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{quantity_name(row.quantity)}, {row.subject}" if by_subject else quantity_name(row.quantity),
            row.window,
            expected(row),
            *(band(row, level) for level in levels),
            interval(row),
            value(row, row.naive),
        )
    return table
