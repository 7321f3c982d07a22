"""`gameday phase-map`: scenario or stored baseline → calibrated twin → map → terminal, JSON or a page."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import msgspec
from rich.console import Console

from gameday import rundir
from gameday.errors import BadInput, Exit
from gameday.forecasting import observation_of
from gameday.phasemap.options import PhaseMapOptions, check, check_points, evenly, grid, parse_load, parse_size
from gameday.phasemap.terminal import nearest, print_map
from reports.phase_map_page import page
from reports.store import RunStore
from scenarios.load import load_scenario
from scenarios.model import Scenario
from sim.calibration.calibrate import Calibration, calibrate
from sim.calibration.cold import cold_observation
from sim.forecast.predict import make_task
from sim.model.faults import check as unrepresented
from sim.model.setup import Setup, read_setup, unplayed
from sim.observation import Observation
from sim.sweep.hysteresis import RampJob, play_ramp
from sim.sweep.phase_map import Ground, PhaseMap, make_phase_map
from sim.sweep.places import Clock, NoDask, Sweep
from sim.sweep.policy_axis import AS_IT_IS, InvalidPolicy, standard, with_words
from sim.sweep.saturation import full_load
from sim.sweep.trigger import NoSuchAxis, size_of

FULL_SHARE = 1.1
"""Of the load on paper at which the first service is full: how far a map goes by itself."""
MOST_TIMES_LOAD = 4.0
"""Of today's load, the same."""
RAMP_SHARE = 1.15
RAMP_STEPS = 12
RAMP_MOST_TIMES = 3.0
"""Of the map's highest load: a ramp goes no further to find the place where the system is full."""
MAP_SHARE = 0.8
"""Of the time, at most, where ramps are to follow."""
AHEAD_SECONDS = 15.0


def run_phase_map(options: PhaseMapOptions) -> int:
    """Makes the map and shows it.

    Raises:
        BadInput, scenarios.load.InvalidScenario: nothing was played.
    """
    check(options)
    if options.out is not None:
        rundir.check_writable("--out", options.out)
    began = time.monotonic()
    scenario = load_scenario(options.scenario, variant=options.variant, overrides=options.overrides)
    axis, sizes = parse_size(options.size)
    loads = parse_load(options.load) if options.load is not None else None
    run = options.from_run
    seen = observation_of(run, scenario) if run is not None else cold_observation(scenario, options.seed)
    setup = read_setup(scenario, seen.load_pods, seen.world)
    notes = _refuse_or_note(scenario, setup)
    policies = _policies(setup, options.policy)
    try:
        own_size = size_of(setup, axis)
    except NoSuchAxis as error:
        raise BadInput(f"--size {axis}: {error}") from None
    calibration = calibrate(seen, scenario)
    load_now = _load_now(scenario, seen) if run is not None else scenario.load.rate
    columns, rows = grid(options.points, len(policies))
    ranged = loads is not None or sizes is not None
    if loads is None:
        high = max(load_now, min(FULL_SHARE * full_load(setup, calibration.best()), MOST_TIMES_LOAD * load_now))
        loads = evenly(high / columns, high, columns, load_now)
    if sizes is None:
        sizes = _default_sizes(setup, axis, own_size, rows)
    if ranged:  # a grid of our own has about as many as --points says
        check_points(loads, sizes, len(policies))
    today = (nearest(loads, load_now), nearest(sizes, own_size))
    inside = loads[0] <= load_now <= loads[-1] and sizes[0] <= own_size <= sizes[-1]
    ground = _ground(setup, seen, calibration, options.seed, axis, loads, sizes, today if inside else None)
    board = _Board(len(loads) * len(sizes) * len(policies), quiet=options.output != "table" and not sys.stderr.isatty())
    try:
        with Sweep(dask=options.dask, done=board.played) as sweep:
            left = options.seconds - (time.monotonic() - began)
            clock = Clock(left)
            mapping = Clock(MAP_SHARE * left) if options.ramp else clock
            made = make_phase_map(
                scenario.name, scenario.variant, policies, (load_now, own_size), ground, sweep, mapping, board.stage
            )
            if options.ramp:
                board.stage("ramps up and down")
                made = _with_ramps(made, policies, ground, sweep, clock)
    except NoDask as error:
        raise BadInput(str(error)) from None
    finally:
        board.close()
    source = f"the baseline of {run}" if run is not None else "declared values, nothing measured"
    if not made.has_today:
        notes = [f"Today lies outside the map: {load_now:g} journeys/s, a fault of {own_size:g}.", *notes]
    made = msgspec.structs.replace(made, notes=(f"Calibrated on {source}.", *made.notes, *notes))
    if options.keep and run is not None:
        _keep(made, run)
    _show(made, options, time.monotonic() - began)
    return Exit.HELD


def _refuse_or_note(scenario: Scenario, setup: Setup) -> list[str]:
    if not setup.faults:
        raise BadInput(f"{scenario.name} has no fault that could be larger or smaller; take a scenario with one")
    problems = unrepresented(setup.faults, {service.name for service in setup.app.services})
    blind = [fault.name for fault in setup.faults if any(p.startswith(f"fault {fault.name}: ") for p in problems)]
    if len(blind) == len(setup.faults):
        raise BadInput(f"{scenario.name}: the twin cannot play its faults: {problems[0]}")
    return [f"Not in this map: {problem}" for problem in (*problems, *unplayed(setup))]


def _policies(setup: Setup, words: tuple[str, ...]) -> list[tuple[str, Setup]]:
    """As it is first, since today's point lies there."""
    chosen = [AS_IT_IS, *(w for w in words if w != AS_IT_IS)] if words else standard(setup)
    try:
        return [(w, with_words(setup, w)) for w in dict.fromkeys(chosen)]
    except InvalidPolicy as error:
        raise BadInput(str(error)) from None


def _load_now(scenario: Scenario, seen: Observation) -> float:
    """Journeys a second in the baseline: its first steps, over its length."""
    firsts = {f"{j.steps[0].method} {j.steps[0].service} {j.steps[0].path}" for j in scenario.app.journeys if j.steps}
    count = sum(1 for request in seen.requests if request.route in firsts)
    seconds = seen.ended_at - seen.started_at
    return float(f"{count / seconds:.4g}") if count and seconds > 0 else scenario.load.rate


def _default_sizes(setup: Setup, axis: str, own: float, rows: int) -> tuple[float, ...]:
    if axis == "replicas":
        services = {str(f.targets.get("service", "")) for f in setup.faults}
        most = max(s.replicas for s in setup.app.services if s.name in services)
        return tuple(float(n) for n in range(1, most + 1))
    high = min(1.0, 2.0 * own) if axis == "errors" else 2.0 * own
    return evenly(high / rows, high, rows, own)


def _ground(
    setup: Setup,
    seen: Observation,
    calibration: Calibration,
    seed: int,
    axis: str,
    loads: tuple[float, ...],
    sizes: tuple[float, ...],
    today: tuple[int, int] | None,
) -> Ground:
    task = make_task(setup, calibration, seen, seed, seen.ended_at + AHEAD_SECONDS)
    return Ground(calibration, seed, axis, loads, sizes, task.pods, task.start, today=today)


def _with_ramps(
    made: PhaseMap, policies: list[tuple[str, Setup]], ground: Ground, sweep: Sweep, clock: Clock
) -> PhaseMap:
    parameters = ground.calibration.best()
    high = made.loads[-1]
    full = RAMP_SHARE * full_load(policies[0][1], parameters)
    notes = made.notes
    if full <= RAMP_MOST_TIMES * high:
        high = max(high, full)
    else:
        notes = (
            *notes,
            f"The ramp ends below the load at which a service is full ({full / RAMP_SHARE:.4g}/s on paper).",
        )
    loads = evenly(high / RAMP_STEPS, high, RAMP_STEPS)
    jobs = [
        RampJob(name, replace(setup, faults=()), parameters, loads, ground.seed, ground.pods, ground.start)
        for name, setup in policies
    ]
    ramps = sweep.play(play_ramp, jobs, clock)
    if len(ramps) < len(jobs):
        notes = (*notes, f"{len(jobs) - len(ramps)} of {len(jobs)} ramps did not fit the time.")
    return msgspec.structs.replace(made, ramps=tuple(ramps), notes=notes)


def _keep(made: PhaseMap, name: str) -> None:
    """Puts the map among the run's documents; its next report shows it."""
    with RunStore(rundir.find(name).store) as store:
        store.put_document("phase_map", time.time(), msgspec.json.encode(made))
    print(f"{name}: the map is kept; `gameday report {name}` shows it", file=sys.stderr)


def _show(made: PhaseMap, options: PhaseMapOptions, seconds: float) -> None:
    if options.output == "json":
        text = msgspec.json.format(msgspec.json.encode(made)).decode() + "\n"
    elif options.output == "html":
        text = page(made)
    else:
        if options.out is None:
            print_map(made, Console(no_color=True, highlight=False) if options.plain else Console(highlight=False))
        else:
            with options.out.open("w", encoding="utf-8") as file:
                print_map(made, Console(file=file, no_color=True, width=120, highlight=False))
        print(f"{made.plays} plays, {made.hops} hops, {seconds:.1f} s", file=sys.stderr)
        return
    if options.out is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text, encoding="utf-8")
        print(f"{options.out}: {made.plays} plays, {made.hops} hops, {seconds:.1f} s", file=sys.stderr)


class _Board:
    """One line on the terminal that says how far it is; silent elsewhere."""

    def __init__(self, points: int, quiet: bool) -> None:
        self._console = Console(stderr=True)
        self._status = None if quiet or not self._console.is_terminal else self._console.status(f"{points} points")
        self._what = ""
        if self._status is not None:
            self._status.start()

    def stage(self, what: str) -> None:
        self._what = what
        if self._status is not None:
            self._status.update(what)

    def played(self, plays: int) -> None:
        if self._status is not None:
            self._status.update(f"{self._what} ({plays} played so far)")

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
