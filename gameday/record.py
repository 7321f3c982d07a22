"""What the runner writes down about the run itself: its description, phases, windows and events.

`phase` is the one place that knows where the run is; whoever wants to know asks it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from chaos.processes import started_at
from gameday import __version__
from gameday.errors import Exit
from gameday.progress import Progress
from reports.run import scenario_to
from reports.store import Event, RunStore
from scenarios.model import Scenario

_STATES = {Exit.ABORTED: "aborted", Exit.HARNESS_FAILED: "failed"}
_LIBRARIES = ("chaostoolkit-lib", "locust", "simpy", "uvloop", "httptools", "cryptography")


class RunRecord:
    """Meta and events of one run store."""

    def __init__(self, store: RunStore, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self.phase = "plan"
        self.windows: dict[str, list[float]] = {}
        """Begin and end of each phase, Unix seconds."""
        self._timings: dict[str, float] = {}

    def describe(self, scenario: Scenario, plan: str, options: Mapping[str, Any]) -> None:
        """Who runs what. `options`: run_id, world, seed, variant, overrides."""
        config = scenario_to(scenario)
        self._store.set_meta(
            **options,
            scenario=config,
            started_at=time.time(),
            state="running",
            runner={"pid": os.getpid(), "start": started_at(os.getpid())},
            versions=versions(),
            config_sha256=hashlib.sha256(msgspec.json.encode(config)).hexdigest(),
            plan=plan,
            windows={},
        )

    def begin(self, name: str, text: str, at: float | None = None) -> None:
        """A phase begins (at a moment that was planned, or now)."""
        self.phase = name
        moment = at if at is not None else time.time()
        self.windows[name] = [moment, moment]
        self.event("phase", name, {"text": text}, at=moment)
        self._progress.phase(name, text)

    def end(self, name: str, at: float | None = None) -> None:
        self.windows[name][1] = at if at is not None else time.time()
        self._timings[name] = round(self.windows[name][1] - self.windows[name][0], 3)
        self._store.set_meta(windows=self.windows)

    def promise(self, name: str, seconds: float) -> float:
        """The phase will last so long; returns when it ends."""
        end = self.windows[name][0] + seconds
        self.windows[name][1] = end
        self._store.set_meta(windows=self.windows)
        return end

    def event(self, kind: str, text: str, data: dict[str, Any] | None = None, at: float | None = None) -> None:
        self._store.add_event(Event(at if at is not None else time.time(), "gameday", kind, text, data))

    def finish(self, code: Exit, reasons: list[str]) -> None:
        """The run is over."""
        self._store.set_meta(
            state=_STATES.get(code, "finished"),
            exit_code=int(code),
            reasons=reasons,
            windows=self.windows,
            timings=self._timings,
            finished_at=time.time(),
        )


def versions() -> dict[str, str]:
    """Of everything that a result may depend on."""
    return {
        "gameday": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in _LIBRARIES},
    }
