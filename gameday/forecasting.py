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
from reports.observe import observation
from reports.store import RunStore
from scenarios.load import load_scenario
from scenarios.model import Scenario
from sim.calibration import Calibration
from sim.forecast import cold_observation, make_forecast
from sim.observation import Observation
from sim.results import Forecast, Prediction

TIME_BUDGET_SECONDS = 15.0


def print_forecast(
    name: str,
    variant: str | None,
    overrides: Sequence[str],
    seed: int,
    from_run: str | None,
    as_json: bool,
    calibrated: Path | None = None,
) -> int:
    """Makes and prints a forecast. `calibrated`: a file that `gameday calibrate -o json` wrote."""
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
        _print_table(scenario, forecast, _source(from_run, calibrated))
    return Exit.HELD


def observation_of(name: str, scenario: Scenario) -> Observation:
    """The baseline of a stored run.

    Raises:
        BadInput: no such run, or it never got past its baseline.
    """
    run = rundir.find(name)
    with RunStore(run.store) as store:
        window = store.meta().get("windows", {}).get("baseline")
        if window is None or window[1] <= window[0] or window[1] > time.time():
            raise BadInput(f"--from-run {name}: the run has no baseline window; use a run that got past its baseline")
        return observation(store, scenario, window[0], window[1])


def _source(from_run: str | None, calibrated: Path | None) -> str | None:
    if calibrated is not None:
        return str(calibrated)
    return f"the baseline of {from_run}" if from_run is not None else None


def _print_table(scenario: Scenario, forecast: Forecast, source_name: str | None) -> None:
    source = (
        source_name if source_name is not None else "declared values (no run; `--from-run` uses a measured baseline)"
    )
    console = Console()
    console.print(f"[bold]{scenario.title}[/bold]\n{forecast.replications} replications, calibrated on {source}\n")
    for window in ("inject", "recover", "all"):
        table = Table(title=f"window: {window}", title_justify="left", box=None, pad_edge=False)
        for column in ("quantity", "of", "5 %", "median", "95 %", "nothing changes"):
            table.add_column(column, justify="left" if column in ("quantity", "of") else "right")
        for row in forecast.predictions:
            if row.window == window:
                table.add_row(
                    row.quantity,
                    row.subject,
                    *(shown(row, value) for value in (row.low, row.median, row.high, row.naive)),
                )
        console.print(table)
        console.print()
    for limit in forecast.limits:
        console.print(f"not in this forecast: {limit}")


def shown(row: Prediction, value: float | None) -> str:
    """`value` in the unit that people read."""
    if value is None:
        return "–"
    if row.quantity == "success_rate":
        return f"{value:.2%}"
    if row.quantity in ("p50", "p95", "p99"):
        return f"{value * 1000:.0f} ms"
    if row.quantity == "budget_spent":
        return f"{value:.0%}"
    return f"{value:.2f}"
