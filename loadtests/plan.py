"""The load plan: what the runner writes, what locustfile.py reads, and the command line between them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

PLAN_VARIABLE = "GAMEDAY_LOAD_PLAN"


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One run's load. Seconds and rates per second."""

    app: str
    """Path of the application file."""
    proxy: str | None
    """`http://ip:port` of the loadgen pod's outbound proxy; None: see `direct`, else `host` of locust's own options."""
    rate: float
    mix: dict[str, float]
    max_in_flight: int
    """Journeys under way at once; an arrival beyond this is dropped and recorded."""
    timeout_seconds: float
    """From the intended send."""
    seed: int
    duration_seconds: float
    """Arrivals end after this; the driver waits for answers and exits."""
    output: str
    """Path of the output file, see `loadtests.results`."""
    direct: bool = False
    """Requests go straight to the services' names: for a pod whose traffic is intercepted."""
    workers: int = 1
    """Processes that send it, each its share; more than one are locust workers (`loadtests.distributed`)."""


class InvalidPlan(ValueError):
    """The plan file cannot be used; one line."""


def read_plan(path: Path) -> LoadPlan:
    """Raises InvalidPlan."""
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=LoadPlan)
    except OSError as error:
        raise InvalidPlan(f"{path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise InvalidPlan(f"{path}: {error}") from None
    if not (
        plan.rate > 0
        and plan.max_in_flight > 0
        and plan.workers > 0
        and plan.timeout_seconds > 0
        and plan.duration_seconds > 0
    ):
        raise InvalidPlan(f"{path}: rate, maxInFlight, timeoutSeconds and durationSeconds must be positive")
    return plan


def write_plan(plan: LoadPlan, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=2))


def command(options: Sequence[str] = (), users: int = 1) -> list[str]:
    """The command that runs a plan, for a subprocess with `environment(plan_path)` added to its environment.

    One locust user is the whole load: its arrivals are already the superposition of everybody's. With workers each has
    one, and a share of the rate. Failed requests are a result of a game day, not a failure of locust, hence
    `--exit-code-on-error 0`.
    """
    locustfile = Path(__file__).with_name("locustfile.py")
    headless = [
        "--headless",
        "-u",
        str(users),
        "-r",
        str(users),
        "--only-summary",
        "--exit-code-on-error",
        "0",
        "--loglevel",
        "WARNING",
    ]
    return [sys.executable, "-m", "locust", "-f", str(locustfile), *headless, *options]


def worker_options(workers: int) -> list[str]:
    """Options of locust for `workers` pods: none where it is one, which is locust by itself."""
    if workers == 1:
        return []
    return ["--master", "--expect-workers", str(workers), "--expect-workers-max-wait", "120"]


def worker_command(master: str) -> list[str]:
    """The command of one worker of a plan; `master` is the host that runs `command`."""
    locustfile = Path(__file__).with_name("locustfile.py")
    worker = ["--worker", "--master-host", master, "--exit-code-on-error", "0", "--loglevel", "WARNING"]
    return [sys.executable, "-m", "locust", "-f", str(locustfile), *worker]


def environment(plan_path: Path) -> dict[str, str]:
    """What `command` needs in its environment besides the caller's own."""
    return {PLAN_VARIABLE: str(plan_path)}
