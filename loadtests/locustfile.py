"""Open-loop load on a topology, for locust.

By hand, through the outbound proxy of a meshed pod (any pod of a run: see `outbound` in its world.json):

    GAMEDAY_PROXY=http://127.77.0.9:4140 locust -f loadtests/locustfile.py            # web UI on http://localhost:8089
    GAMEDAY_PROXY=http://127.77.0.9:4140 locust -f loadtests/locustfile.py --headless -u 60 -r 10 -t 1m

or straight at one address, without a mesh: `locust -f loadtests/locustfile.py --host http://127.0.0.1:8080`.

A locust user here is not somebody who waits for an answer before asking again, but a stream of arrivals: a Poisson
process of one journey a second. So `users` is the arrival rate, and the spawn rate is how fast it grows.

    GAMEDAY_APP             application file, or the name of a shipped one     retail
    GAMEDAY_PROXY           http://ip:port                                      http_proxy, else --host
    GAMEDAY_RATE_PER_USER   arrivals a second of one user                       1
    GAMEDAY_MAX_IN_FLIGHT   journeys under way; beyond it arrivals are dropped  1000, of each user
    GAMEDAY_TIMEOUT         seconds from the intended send                      10
    GAMEDAY_SEED            the same arrivals again                             a new one each time

Response times in the UI count from the intended send; dropped arrivals are failures. `gameday run` sets
GAMEDAY_LOAD_PLAN to a plan file (loadtests/plan.py) instead, which fixes everything and names an output file
(loadtests/results.py).
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # locust loads this file by path, from any directory

import gevent
from gevent.event import Event
from locust import User, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtests.client import Client
from loadtests.distributed import Master, Reports, attach_worker
from loadtests.openloop import OpenLoop, Target
from loadtests.plan import PLAN_VARIABLE, InvalidPlan, LoadPlan, read_plan
from loadtests.results import RequestResult, format_line
from loadtests.schedule import arrivals
from scenarios import catalogue
from scenarios.load.application import load_application
from scenarios.load.problems import InvalidScenario
from scenarios.model import Application

FLUSH_SECONDS = 0.2
_FOREVER = 365 * 86_400.0


class Output:
    """The output file of a plan: buffered, written by a greenlet of its own."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._lines: list[bytes] = []
        self._flusher = gevent.spawn(self._flush_forever)

    def add(self, line: bytes) -> None:
        """One line, or several."""
        self._lines.append(line)

    def close(self) -> None:
        self._flusher.kill()
        self._flush()
        self._file.close()

    def _flush_forever(self) -> None:
        while True:
            gevent.sleep(FLUSH_SECONDS)
            self._flush()

    def _flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            self._file.write(b"".join(lines))


class Settings:
    """What the plan, or the environment, asks for."""

    def __init__(self, variables: dict[str, str], host: str | None) -> None:
        """Raises InvalidPlan and InvalidScenario."""
        self.plan: LoadPlan | None = None
        if plan_path := variables.get(PLAN_VARIABLE):
            self.plan = read_plan(Path(plan_path))
            self.app = load_application(Path(self.plan.app))
            share = self.plan.workers
            self.rate, self.timeout = self.plan.rate / share, self.plan.timeout_seconds
            self.max_in_flight, self.duration = max(1, self.plan.max_in_flight // share), self.plan.duration_seconds
            self.mix = self.plan.mix
            self.seed: int | str = self.plan.seed
            proxy = self.plan.proxy
        else:
            self.app = _application(variables.get("GAMEDAY_APP", "retail"))
            self.rate = _positive(variables, "GAMEDAY_RATE_PER_USER", 1.0)
            self.timeout = _positive(variables, "GAMEDAY_TIMEOUT", 10.0)
            self.max_in_flight = round(_positive(variables, "GAMEDAY_MAX_IN_FLIGHT", 1000.0))
            self.duration = _FOREVER
            self.mix = {journey.name: journey.share for journey in self.app.journeys}
            self.seed = variables.get("GAMEDAY_SEED") or secrets.randbits(32)
            proxy = variables.get("GAMEDAY_PROXY") or (variables.get("http_proxy") if not host else None)
        unknown = set(self.mix) - {journey.name for journey in self.app.journeys}
        if unknown:
            raise InvalidPlan(f"mix: no journey {', '.join(sorted(unknown))} in topology {self.app.name}")
        direct = self.plan is not None and self.plan.direct
        self.target = _direct(self.app) if direct else _target(proxy, host)


def _application(name: str) -> Application:
    return load_application(catalogue.application_path(name) if name in catalogue.application_names() else Path(name))


def _positive(variables: dict[str, str], name: str, default: float) -> float:
    text = variables.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise InvalidPlan(f"{name}: {text!r} is not a positive number")
    return value


def _target(proxy: str | None, host: str | None) -> Target:
    url = proxy or host
    if not url:
        raise InvalidPlan("nowhere to send to: set GAMEDAY_PROXY=http://ip:port or give --host")
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        address = parts.hostname, parts.port or 80
    except ValueError:
        address = None, 0
    if not address[0]:
        raise InvalidPlan(f"{url!r} is not http://ip:port")
    client = Client(address[0], address[1])
    if proxy:
        return lambda authority: (client, f"http://{authority}")
    return lambda authority: (client, "")


def _direct(app: Application) -> Target:
    """Each service at the address of its name. A Service keeps its address for as long as it exists."""
    clients = {}
    for service in app.services:
        # The dot at the end spares the search list, which is five more questions.
        ip = socket.getaddrinfo(f"{service.host}.", service.port, type=socket.SOCK_STREAM)[0][4][0]
        clients[service.authority] = Client(str(ip), service.port)
    return lambda authority: (clients[authority], "")


class Driver:
    """All that the users of one locust process share."""

    def __init__(self, environment: Environment) -> None:
        self.settings = Settings(dict(os.environ), environment.host or _host_option(environment))
        self._environment = environment
        self._numbers = count()
        self._loops: list[OpenLoop] = []
        self._finishing = False
        self._finished = Event()
        self.output: Output | None = None
        self.reports: Reports | None = None
        self._master: Master | None = None
        plan, runner = self.settings.plan, environment.runner
        if plan is not None and isinstance(runner, WorkerRunner):
            self.reports = Reports()
            attach_worker(environment, self.reports, self.finish)
        elif plan is not None:
            self.output = Output(Path(plan.output))
            if isinstance(runner, MasterRunner):
                self._master = Master(environment, self.output.add)

    def run(self) -> None:
        """One user: a stream of arrivals until the schedule, the plan or locust ends it."""
        settings = self.settings
        runner = self._environment.runner
        first = runner.worker_index if isinstance(runner, WorkerRunner) else 0
        number = next(self._numbers) + first
        seed = f"{settings.seed}/{number}" if number else settings.seed
        loop = OpenLoop(
            settings.app,
            settings.target,
            max_in_flight=settings.max_in_flight,
            timeout=settings.timeout,
            seed=seed,
            record=self._record,
        )
        self._loops.append(loop)
        ended = loop.run(arrivals(settings.rate, settings.mix, seed, settings.duration))
        if ended and settings.plan is not None:
            gevent.spawn(self._end)
        Event().wait()  # locust would call a task that returns again, and the arrivals would begin anew

    def finish(self) -> None:
        """Stops arrivals, waits for answers, flushes. A second call (another signal) waits for the first to be done."""
        if self._finishing:
            self._finished.wait(self.settings.timeout + 2.0)
            return
        self._finishing = True
        for loop in self._loops:
            loop.stop()
        if self._master is not None:
            self._master.finish(self.settings.timeout + 2.0)
        with gevent.Timeout(self.settings.timeout + 1.0, False):
            for loop in self._loops:
                loop.drain()
        if self.output is not None:
            self.output.close()
        self._finished.set()

    def _end(self) -> None:
        runner = self._environment.runner
        if runner is not None:
            runner.quit()

    def _record(self, result: RequestResult) -> None:
        if self.output is not None:
            self.output.add(format_line(result))
        elif self.reports is not None:
            self.reports.add(format_line(result))
        failure: str | None = result.error
        if failure is None and result.status is not None and result.status >= 500:
            failure = f"status {result.status}"
        ended = result.finished_at if result.finished_at is not None else result.intended_at + self.settings.timeout
        self._environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type=result.route.partition(" ")[0],
            name=result.route.partition(" ")[2],
            response_time=(ended - result.intended_at) * 1000 if result.error != "dropped" else 0.0,
            response_length=0,
            exception=RuntimeError(failure) if failure is not None else None,
            context={},
        )


def _host_option(environment: Environment) -> str | None:
    host: str | None = getattr(environment.parsed_options, "host", None)
    return host


_driver: Driver | None = None


@events.init.add_listener  # type: ignore[untyped-decorator]
def _start(environment: Environment, **_: Any) -> None:
    global _driver
    if _driver is not None:
        return
    try:
        _driver = Driver(environment)
    except (InvalidPlan, InvalidScenario, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _finish(environment: Environment, **_: Any) -> None:
    """Runs before locust kills its users, on SIGTERM, Ctrl-C and the end of the plan alike."""
    if _driver is not None:
        _driver.finish()
        if _driver.settings.plan is not None:
            environment.process_exit_code = 0


class OpenLoopUser(User):
    """A stream of arrivals."""

    @cast(Callable[[Any], Any], task)
    def stream(self) -> None:
        assert _driver is not None
        _driver.run()
