"""`gameday`: the command line. Each command is a thin function; what it does lives in the module it calls.

One file although it is long: most of it is what `--help` prints, and options that commands share should read alike.
"""

from __future__ import annotations

import io
import os
import sqlite3
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from gameday import __version__
from gameday.errors import BadInput, Exit, cannot_write
from mesh.commands.app import app as mesh_app
from mesh.commands.app import load_commands
from mesh.commands.options import OPTIONS
from mesh.commands.ranges import within

app = App(
    name="gameday",
    version=__version__,
    help="A flight simulator for service-mesh failures: predict, inject, measure, score.",
    help_format="rst",  # plain text would keep the line breaks of our sources
    default_parameter=OPTIONS,
)

app.command(mesh_app)

WorldName = Literal["local", "kind"]
Names = tuple[str, ...]
Seed = Annotated[int, Parameter(validator=within(0, 2**63 - 1))]
"""What a run's store and its reports, whose integers are signed 64 bits, can hold."""
Count = Annotated[int, Parameter(validator=within(1, 1_000))]
"""Of seeds or pods; more would be a slip of the keyboard."""
Minutes = Annotated[float, Parameter(validator=within(0.1, 100_000))]
Seconds = Annotated[float, Parameter(validator=within(1, 86_400))]


@app.command
def run(
    scenario: str,
    /,
    *,
    world: WorldName = "local",
    variant: str | None = None,
    set: Names = (),
    seed: Seed = 1,
    out: Path | None = None,
    dry_run: bool = False,
    plain: bool = False,
    explain: Annotated[bool, Parameter(negative="--no-explain")] = True,
    verify: bool = False,
    cluster: str | None = None,
    keep_cluster: bool = False,
    context: str | None = None,
    load_workers: Count = 1,
    allow_namespace: Names = (),
    prometheus: str | None = None,
) -> int:
    """Run a game day: bring the world up, forecast, inject, measure, score, report.

    Exit codes: 0 every expectation held; 1 one did not; 2 bad input, nothing was started; 3 aborted, faults reverted;
    4 the harness failed, faults reverted, what was measured is kept.

    Parameters
    ----------
    scenario
        A name from `gameday list`, or a path to a scenario.yaml.
    world
        Where to run it.
    variant
        One of the scenario's variants; `gameday show` lists them.
    set
        Override one field: `load.rate=80/s`, `faults.payment-slow.duration=20s`. May be repeated.
    seed
        Seed of arrivals, workload and twin.
    out
        Folder for the run; runs/<id> without it.
    dry_run
        Stop after the plan: blast radius, abort rules, what would happen when.
    plain
        Plain lines, even on a terminal.
    explain
        Ask the twin afterwards what would have saved the SLOs; `--no-explain` saves those seconds.
    verify
        Afterwards run the game day again with the best counterfactual in place, and hold it against its prediction.
        The exit code stays the first run's, unless the second one could not be measured.
    cluster
        World kind: the kind cluster to use, or to create. Without it a new one that is deleted at the end.
    keep_cluster
        World kind: leave a cluster that this run creates.
    context
        World kind: a context of your kubeconfig instead of a kind cluster.
    load_workers
        World kind: pods that send the load.
    allow_namespace
        World kind: an existing namespace that the run may use; others than its own are never touched. May be repeated.
    prometheus
        World kind: image of a Prometheus to run beside, with recording and alert rules made from the SLOs.
    """
    from gameday.run import RunOptions, run_gameday
    from gameday.worlds.base import WorldOptions

    where = WorldOptions(world, seed, cluster, keep_cluster, context, load_workers, allow_namespace, prometheus)
    options = RunOptions(scenario, where, variant, set, out, dry_run, plain, explain)
    if not verify or dry_run:
        return run_gameday(options)
    if not explain:
        raise BadInput("--verify needs counterfactuals; leave --no-explain out")
    from gameday.verify import run_and_verify

    return run_and_verify(options)


@app.command(name="list")
def list_scenarios() -> int:
    """List the scenarios that come with Gameday."""
    from gameday.catalogue import print_catalogue

    return print_catalogue()


@app.command
def show(scenario: str, /, *, variant: str | None = None) -> int:
    """Show one scenario: story, load, faults, SLOs, expectations, variants."""
    from gameday.catalogue import print_scenario

    return print_scenario(scenario, variant)


@app.command
def lint(*scenarios: str) -> int:
    """Check scenario files; without arguments, all that come with Gameday."""
    from gameday.catalogue import lint_scenarios

    return lint_scenarios(scenarios)


@app.command
def forecast(
    scenario: str,
    /,
    *,
    variant: str | None = None,
    set: Names = (),
    seed: Seed = 1,
    from_run: str | None = None,
    calibration: Path | None = None,
    all: bool = False,
    json: bool = False,
) -> int:
    """Ask the twin alone: what would this game day do? Seconds, and nothing is started.

    Parameters
    ----------
    scenario
        A name from `gameday list`, or a path to a scenario.yaml.
    variant
        One of the scenario's variants.
    set
        Override one field; may be repeated.
    seed
        Seed of the replications.
    from_run
        Calibrate on the baseline of this run; without it, on the values that the application declares.
    calibration
        A file that `gameday calibrate -o json` wrote: of a run, of your Prometheus, of exported metrics.
    all
        Print every prediction, not the headlines alone.
    json
        Print the whole forecast as JSON.
    """
    from gameday.forecasting import print_forecast

    return print_forecast(scenario, variant, set, seed, from_run, json, calibration, all)


@app.command
def calibrate(
    *sources: str,
    app: Path | None = None,
    prometheus: str | None = None,
    window: str | None = None,
    at: Names = (),
    output: Annotated[Literal["table", "json"], Parameter(name=["--output", "-o"])] = "table",
    out: Path | None = None,
) -> int:
    """What a healthy window says of an application, ours or not, and what it cannot tell.

    From a stored run, from Linkerd's metrics in a Prometheus, or from what was exported: two snapshots of /metrics,
    saved answers of a Prometheus, a table of requests (any of these together with a table).

    Parameters
    ----------
    sources
        A run id, the beginning of one, a path, or `latest`; or files: two `.txt`/`.prom` snapshots in order of time, a
        `.json` dump, a `.csv` with time, route, latency and status.
    app
        The application: services, routes, calls. Needed for anything but a run.
    prometheus
        Address of a Prometheus that scrapes Linkerd's proxies: http://127.0.0.1:9090.
    window
        With --prometheus: how far back; 5m where nothing is said.
    at
        When it was: the end of --window, or of each of two snapshots without timestamps. Unix seconds or ISO 8601.
    output
        `table` for people; `json` for `gameday forecast SCENARIO --calibration FILE`.
    out
        Write the JSON file here as well.
    """
    from gameday.calibration.command import CalibrateOptions, run_calibrate

    return run_calibrate(CalibrateOptions(sources, app, prometheus, window, at, output, out))


@app.command(name="phase-map")
def phase_map(
    scenario: str,
    /,
    *,
    variant: str | None = None,
    set: Names = (),
    from_run: str | None = None,
    load: str | None = None,
    size: str | None = None,
    policy: Names = (),
    points: int = 1000,
    seconds: Seconds = 120.0,
    seed: Seed = 1,
    ramp: Annotated[bool, Parameter(negative="--no-ramp")] = True,
    dask: str | None = None,
    output: Annotated[Literal["table", "json", "html"], Parameter(name=("--output", "-o"))] = "table",
    out: Path | None = None,
    plain: bool = False,
    keep: bool = False,
) -> int:
    """Where does it stay broken? Load × size of the fault × policy, played by the twin; nothing is started.

    Parameters
    ----------
    scenario
        A name from `gameday list`, or a path to a scenario.yaml.
    variant
        One of the scenario's variants.
    set
        Override one field; may be repeated.
    from_run
        Calibrate on the baseline of this run; without it, on the values that the application declares.
    load
        Journeys a second: LOW:HIGH:COUNT, or values separated by commas.
    size
        Of the fault: [duration|latency|errors|replicas=]LOW:HIGH:COUNT, or values; the axis alone takes its defaults.
    policy
        A map of its own for each: limit=N, budget=N%, timeout=DURATION, queue=N, replicas=N, breaker, cancels; several
        joined by commas, @SERVICE for another service than the faulted one. May be repeated; without it, the usual
        ones.
    points
        About so many, over all policies.
    seconds
        Time to play; what does not fit is taken from the points around and marked.
    seed
        The same seed gives the same map.
    ramp
        Also ramp the load up and down without a fault, to see the loop; `--no-ramp` saves that time.
    dask
        Address of a Dask scheduler whose workers do the playing, such as tcp://127.0.0.1:8786.
    output
        table, json, or html.
    out
        File to write; json and table are printed without it.
    plain
        No colours, even on a terminal.
    keep
        Also put the map into the run of `--from-run`, whose report then shows it.
    """
    from gameday.phasemap.command import run_phase_map
    from gameday.phasemap.options import PhaseMapOptions

    return run_phase_map(
        PhaseMapOptions(
            scenario,
            variant,
            set,
            from_run,
            load,
            size,
            policy,
            points,
            seconds,
            seed,
            ramp,
            dask,
            output,
            out,
            plain,
            keep,
        )
    )


@app.command
def runs() -> int:
    """List the runs below ./runs with their verdicts; interrupted ones are marked."""
    from gameday.history import print_runs

    return print_runs()


@app.command
def report(run: str = "latest", /, *, out: Path | None = None) -> int:
    """Rebuild a run's report from its store; the same store gives the same bytes.

    Parameters
    ----------
    run
        A run id, the beginning of one, a path, or `latest`.
    out
        Where to write; the run's own folder without it.
    """
    from gameday.history import rebuild_report

    return rebuild_report(run, out)


@app.command(name="explain")
def explain_run(run: str = "latest", /, *, seconds: Seconds = 60.0) -> int:
    """Ask the twin again why a run burned and what would have saved its SLOs, for longer than the run's end had time.

    Parameters
    ----------
    run
        A run id, the beginning of one, a path, or `latest`.
    seconds
        How long to search. Ten are what a run takes; a search that came to its end says so.
    """
    from gameday.explaining import explain_again

    return explain_again(run, seconds)


@app.command
def verify(
    run: str = "latest",
    /,
    *,
    seeds: Count | None = None,
    set: Names = (),
    variant: str | None = None,
    reuse: Path | None = None,
    out: Path | None = None,
    minutes: Minutes | None = None,
    jobs: Count = 1,
    plain: bool = False,
) -> int:
    """Run a game day again with its best counterfactual in place, and hold the result against the prediction.

    With `--seeds N` the argument is a scenario: runs and verifies it with seeds 1 to N and writes a table of what was
    predicted and what was measured. It may be stopped at any time; the same command goes on.

    Exit codes: 0 the measured budget lies in its predicted interval (with seeds: in eight of ten, at least); 1 it does
    not; 2 bad input, or no change that can be tried; 3 aborted; 4 a run failed. The first run's report is kept whatever
    happens.

    Parameters
    ----------
    run
        A run id, the beginning of one, a path, or `latest`; with `--seeds` a scenario.
    seeds
        How many seeds.
    set
        With seeds: override one field of the scenario; may be repeated.
    variant
        With seeds: one of the scenario's variants.
    reuse
        With seeds: folder of the runs; runs/verify-SCENARIO without it. Runs found there are not run again; those of
        `gameday accuracy` serve where scenario, overrides and seed are the same.
    out
        With seeds: Markdown file for the table; printed without it.
    minutes
        With seeds: start no pair of runs that would not be over by then.
    jobs
        With seeds: so many at a time, each with cores of its own.
    plain
        Plain lines, even on a terminal.
    """
    from gameday.verify import verify_run
    from gameday.verify_seeds import SeedOptions, verify_seeds

    if seeds is not None:
        return verify_seeds(SeedOptions(run, seeds, set, variant, reuse, out, minutes, jobs))
    if set or variant or reuse or out or minutes is not None or jobs != 1:
        raise BadInput(
            "--set, --variant, --reuse, --out, --minutes and --jobs go with --seeds; a run is verified as it was run"
        )
    return verify_run(run, plain=plain)


@app.command
def recover(run: str | None = None, /) -> int:
    """Undo what interrupted runs left: revert faults, end processes, mark them. Without a run, all interrupted ones."""
    from gameday.history import recover_runs

    return recover_runs(run)


@app.command
def doctor() -> int:
    """Check whether this machine can run game days, and say what to do where it cannot."""
    from gameday.history import print_doctor

    return print_doctor()


@app.command
def accuracy(
    *,
    suite: str | None = None,
    seeds: Count = 5,
    only: Names = (),
    out: Path | None = None,
    reuse: Path | None = None,
    minutes: Minutes | None = None,
    again: bool = False,
    reforecast: bool = False,
    dry_run: bool = False,
    jobs: Count = 1,
    learn: Path | None = None,
) -> int:
    """How good the forecasts are. Without a suite: the track record of all runs so far, by kind of fault, and drift.

    With `--suite local`: run the acceptance protocol (what is missing of it) and write how good the forecasts were,
    misses included. It may be stopped at any time; the same command goes on.

    Exit codes: 0 no acceptance line was missed; 1 one was; 2 bad input, nothing was started; 3 stopped, runs under way
    have reverted their faults; 4 a run failed.

    Parameters
    ----------
    suite
        `local`, `loads` (its faults once more, at loads that nobody tuned for), or the path of a suite file.
    seeds
        Runs of each case and load.
    only
        Shell pattern of case names or kinds of fault: `retry-*`, `pod-kill`. May be repeated.
    out
        Markdown file to write; printed without it.
    reuse
        Folder of the runs; runs/accuracy without it. Runs found there are not run again.
    minutes
        Start no run that would not be over by then.
    again
        Run those again that failed.
    reforecast
        Run nothing: make the forecasts of finished runs anew, from their baselines, with the twin as it is now.
    dry_run
        List the runs, what became of them and how long the rest takes.
    jobs
        So many runs at a time, each with cores of its own: a run on a smaller machine, and the twin knows it.
    learn
        Learn the discrepancy of forecasts from the tuning runs into this file, and print how it would have served.
    """
    from gameday.accuracy.command import AccuracyOptions, run_accuracy

    return run_accuracy(
        AccuracyOptions(suite, seeds, only, out, reuse, minutes, again, reforecast, dry_run, jobs, learn)
    )


def main() -> None:
    """Entry point of the console script."""
    from mesh import native
    from mesh.commands.errors import CommandFailed
    from scenarios.load import InvalidScenario

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no arrow gets a question mark
    try:
        native.check()
        if sys.argv[1:2] == ["mesh"] and not {*sys.argv[2:]} - {"-h", "--help"}:
            load_commands()
        code = app(sys.argv[1:], exit_on_error=False, print_error=False, result_action="return_value")
    except UnusedCliTokensError as error:
        extra = " ".join(error.unused_tokens or ())
        print(f"gameday: {extra}: one too many; `gameday {sys.argv[1]} --help` says what it takes", file=sys.stderr)
        code = Exit.BAD_INPUT
    except CycloptsError as error:
        print(f"gameday: {error}", file=sys.stderr)
        code = Exit.BAD_INPUT
    except InvalidScenario as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        code = Exit.BAD_INPUT
    except (BadInput, native.StaleBuild) as error:
        print(f"gameday: {error}", file=sys.stderr)
        code = Exit.BAD_INPUT
    except CommandFailed as error:
        print(f"gameday mesh: {error}", file=sys.stderr)
        code = Exit.BAD_INPUT
    except KeyboardInterrupt:
        code = Exit.ABORTED
    except BrokenPipeError:  # `gameday … | head`: who read us has seen enough
        code = Exit.HELD
    except SystemExit as ended:  # how rich says the same
        code = Exit.HELD if isinstance(ended.__context__, BrokenPipeError) else ended.code
    except sqlite3.DatabaseError as error:
        print(f"gameday: a run's store cannot be read or written: {error}", file=sys.stderr)
        code = Exit.BAD_INPUT
    except OSError as error:
        if not cannot_write(error):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"gameday: {where}cannot be written: {error.strerror}", file=sys.stderr)
        code = Exit.HARNESS_FAILED
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # or the interpreter tries again, and ends with a code of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)
