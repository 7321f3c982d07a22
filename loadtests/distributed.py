"""Load from several pods: one locust master, whose workers send it what they recorded.

    master  ── one user for each worker ──►  worker 0, worker 1, …      each a stream of rate / workers
            ◄── report_to_master, each second: result lines ──
    SIGTERM ── "finish" ──►  stop arrivals, wait for answers, send the last lines ── "finished" ──►  exit

Locust ends its workers' users as soon as the master quits, and their last report would come before the last answers; so
the master asks them to finish first, in messages of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import locust.runners
from gevent.event import Event
from locust.env import Environment

REPORT_SECONDS = 1.0
RESULTS, FINISH, FINISHED = "gameday_results", "gameday-finish", "gameday-finished"


class Reports:
    """Result lines on their way from workers to the master."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def add(self, line: bytes) -> None:
        self._lines.append(line)

    def take(self) -> bytes:
        lines, self._lines = self._lines, []
        return b"".join(lines)


def attach_worker(environment: Environment, reports: Reports, finish: Callable[[], None]) -> None:
    """This process is a worker: reports carry the lines, and `finish` is called when the master asks for the end."""
    locust.runners.WORKER_REPORT_INTERVAL = REPORT_SECONDS

    def report(client_id: str, data: dict[str, Any], **_: Any) -> None:
        data[RESULTS] = reports.take()

    def asked(environment: Environment, msg: Any, **_: Any) -> None:
        def answer() -> None:
            finish()
            assert environment.runner is not None
            environment.runner.send_message(FINISHED, {RESULTS: reports.take()})

        gevent.spawn(answer)

    environment.events.report_to_master.add_listener(report)  # type: ignore[no-untyped-call]
    assert environment.runner is not None
    environment.runner.register_message(FINISH, asked)


class Master:
    """This process is the master: what workers report goes to `write`."""

    def __init__(self, environment: Environment, write: Callable[[bytes], None]) -> None:
        self._environment = environment
        self._write = write
        self._finished: set[str] = set()
        self._all = Event()

        def reported(client_id: str, data: dict[str, Any], **_: Any) -> None:
            write(data.pop(RESULTS, b""))

        environment.events.worker_report.add_listener(reported)  # type: ignore[no-untyped-call]
        assert environment.runner is not None
        environment.runner.register_message(FINISHED, self._on_finished)

    def finish(self, timeout: float) -> None:
        """Asks all workers to finish, and waits for them, `timeout` seconds at most."""
        runner = self._environment.runner
        assert isinstance(runner, locust.runners.MasterRunner)
        if runner.worker_count:
            runner.send_message(FINISH)
            self._all.wait(timeout)

    def _on_finished(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._write(msg.data.get(RESULTS, b""))
        self._finished.add(msg.node_id)
        runner = self._environment.runner
        assert isinstance(runner, locust.runners.MasterRunner)
        if len(self._finished) >= runner.worker_count:
            self._all.set()
