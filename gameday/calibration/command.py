"""`gameday calibrate`: find the source, read it, calibrate, print or write."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from gameday import rundir
from gameday.calibration.exposition import read_snapshots
from gameday.calibration.external import observation_of, scenario_for
from gameday.calibration.file import CalibrationFile, to_file
from gameday.calibration.prometheus import read_dump, read_prometheus
from gameday.calibration.requests_csv import Requests, parse_time, read_requests
from gameday.calibration.table import print_calibration
from gameday.calibration.telemetry import Telemetry
from gameday.errors import BadInput, Exit
from mesh.api.durations import InvalidDuration, parse_duration
from reports.observe import observation
from reports.run import Run
from reports.store import RunStore
from scenarios.load.application import load_application
from scenarios.model import Application, Scenario
from sim.calibration.calibrate import calibrate
from sim.observation import Observation

SNAPSHOTS = (".txt", ".prom", ".metrics", ".om")
DEFAULT_WINDOW = "5m"


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What the command line says."""

    sources: tuple[str, ...] = ()
    app: Path | None = None
    prometheus: str | None = None
    window: str | None = None
    at: tuple[str, ...] = ()
    output: str = "table"
    out: Path | None = None


def run_calibrate(options: CalibrateOptions) -> int:
    """Does what the options say; returns an exit code.

    Raises:
        BadInput: the source cannot be read, or there is nothing in it to calibrate on.
        InvalidScenario: the application file is wrong.
    """
    file = calibrated(options)
    body = msgspec.json.format(msgspec.json.encode(file), indent=1)
    if options.out is not None:
        try:
            options.out.write_bytes(body + b"\n")
        except OSError as error:
            raise BadInput(f"--out {options.out}: cannot be written: {error.strerror}") from None
    if options.output == "json":
        sys.stdout.write(body.decode() + "\n")
    else:
        print_calibration(file)
    return Exit.HELD


def calibrated(options: CalibrateOptions) -> CalibrationFile:
    """The calibration that the options ask for. Raises as `run_calibrate`."""
    if options.window is not None and options.prometheus is None:
        raise BadInput("--window: only with --prometheus; a run's window is its baseline, that of files is in them")
    files = [source for source in options.sources if Path(source).suffix in (*SNAPSHOTS, ".json", ".csv")]
    if len(options.sources) == 1 and not files and options.prometheus is None:
        if options.app is not None or options.at:
            given = "--at" if options.app is None else "--app"
            raise BadInput(f"{given}: a run knows its application and its time; leave it out")
        seen, scenario, notes = _of_run(options.sources[0])
        source = f"the baseline of {options.sources[0]}"
    else:
        seen, scenario, notes = _of_application(options, files)
        source = ", ".join([*options.sources, *([options.prometheus] if options.prometheus else [])])
    found = calibrate(seen, scenario)
    found = replace(found, notes=(*notes, *found.notes))
    return to_file(found, scenario, source, seen)


def _of_run(name: str) -> tuple[Observation, Scenario, list[str]]:
    run = rundir.find(name)
    with RunStore(run.store) as store:
        read = Run(store)
        window, scenario = read.windows.get("baseline"), read.scenario
        if window is None or scenario is None or window[1] <= window[0]:
            raise BadInput(f"{name}: the run has no baseline window; use a run that got past its baseline")
        notes: list[str] = []
        if not all(path.is_file() for path in scenario.resources):
            scenario = replace(scenario, resources=())
            notes.append("the run's mesh manifests are gone: the baseline is played without its policies")
        return observation(store, scenario, *window), scenario, notes


def _of_application(options: CalibrateOptions, files: list[str]) -> tuple[Observation, Scenario, list[str]]:
    if not options.sources and options.prometheus is None:
        raise BadInput("calibrate on what? Give a run, files, or --prometheus; `gameday calibrate --help` has them all")
    stray = [source for source in options.sources if source not in files]
    if stray:
        raise BadInput(f"{stray[0]}: beside other sources only files: .txt, .prom, .json or .csv")
    if options.app is None:
        raise BadInput(
            "--app is missing: a file with the application's services, routes and calls (docs/calibration.md)"
        )
    app = load_application(options.app)
    tables = [Path(source) for source in files if source.endswith(".csv")]
    if len(tables) > 1:
        raise BadInput(f"{tables[1]}: one table of requests at a time")
    telemetry = _telemetry(options, app, [source for source in files if not source.endswith(".csv")])
    requests = read_requests(tables[0], app) if tables else Requests((), ())
    seen, notes = observation_of(app, telemetry, requests)
    return seen, scenario_for(app, seen), notes


def _telemetry(options: CalibrateOptions, app: Application, files: list[str]) -> Telemetry | None:
    at = tuple(_moment(text) for text in options.at)
    if options.prometheus is not None:
        if files:
            raise BadInput(f"{files[0]}: --prometheus is a source of its own; beside it only a .csv of requests")
        if len(at) > 1:
            raise BadInput("--at: one time, the end of the window")
        return read_prometheus(
            options.prometheus, app, _seconds(options.window or DEFAULT_WINDOW), at[0] if at else None
        )
    snapshots = [Path(source) for source in files if source.endswith(SNAPSHOTS)]
    dumps = [Path(source) for source in files if source.endswith(".json")]
    if snapshots and dumps:
        raise BadInput(f"{dumps[0]}: either two snapshots or one dump")
    if snapshots:
        if len(snapshots) != 2:
            raise BadInput(f"{snapshots[0]}: counters tell nothing by themselves: two snapshots, the older one first")
        return read_snapshots((snapshots[0], snapshots[1]), at)
    if len(dumps) > 1:
        raise BadInput(f"{dumps[1]}: one dump at a time; a list of answers in one file is fine")
    return read_dump(dumps[0]) if dumps else None


def _moment(text: str) -> float:
    moment = parse_time(text)
    if moment is None:
        raise BadInput(f"--at {text}: a time such as 2026-01-01T12:00:00Z or Unix seconds is expected")
    return moment


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except InvalidDuration:
        raise BadInput(f"--window {text}: a duration such as 5m or 90s is expected") from None
    if seconds < 1.0:
        raise BadInput(f"--window {text}: at least a second")
    return seconds
