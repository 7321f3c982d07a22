"""Compiles a scenario's fault timeline to a chaostoolkit experiment, and says afterwards whether it was kept.

The steady-state hypothesis only asks whether the world is up: chaostoolkit passes transient breaches, so SLOs are
judged from the client's own record. Every fault is reverted twice, by a step of the method and by a rollback with the
strategy `always`; the default strategy leaves faults in place after a failure.

Python 3.11 gets chaostoolkit 1.19, which knows no `--events-file`; every version writes the journal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from chaos.ledger import Record
from scenarios.model import FaultSpec, Scenario

EXPERIMENT = "experiment.json"
JOURNAL = "journal.json"
EVENTS = "events.ndjson"
EVENTS_SINCE = (1, 21)
LATE_SECONDS = 1.0
"""Sooner than that after its moment a fault went in on time."""


def compile_experiment(scenario: Scenario, run_dir: Path, inject_epoch: float) -> dict[str, Any]:
    """The experiment; `inject_epoch` is the Unix second at which the inject phase begins."""
    timeline: list[tuple[float, int, dict[str, Any]]] = []
    for fault in scenario.faults:
        spec = msgspec.to_builtins(fault)
        begin, end = inject_epoch + fault.at, inject_epoch + fault.at + fault.duration
        inject = _action(f"inject {fault.name}", "inject_fault", run_dir=str(run_dir), fault=spec)
        timeline.append((begin, 1, inject))
        timeline.append(
            (end, 0, _action(f"revert {fault.name}", "revert_fault", run_dir=str(run_dir), name=fault.name))
        )
    method = []
    for at, _, action in sorted(timeline, key=lambda entry: entry[:2]):
        method.append(_action(f"wait for {action['name']}", "wait_until", epoch=at))
        method.append(action)
    return {
        "title": scenario.title,
        "description": scenario.description or scenario.title,
        "tags": ["gameday", scenario.name],
        "steady-state-hypothesis": {
            "title": "The world is up",
            "probes": [
                {
                    "type": "probe",
                    "name": "world-is-up",
                    "tolerance": True,
                    "provider": _provider("chaos.probes", "world_is_up", {"run_dir": str(run_dir)}),
                }
            ],
        },
        "method": method,
        "rollbacks": [
            _action(f"make sure that {fault.name} is reverted", "revert_fault", run_dir=str(run_dir), name=fault.name)
            for fault in scenario.faults
        ],
    }


def late_faults(
    faults: Iterable[FaultSpec], records: Iterable[Record], inject_epoch: float
) -> dict[str, tuple[float, bool]]:
    """Faults that went in late, by name: seconds after their moment, and whether they were to be over by then."""
    begun = {record.name: record.begun_at for record in records}
    found: dict[str, tuple[float, bool]] = {}
    for fault in faults:
        late = begun.get(fault.name, 0.0) - inject_epoch - fault.at
        if late > LATE_SECONDS:
            found[fault.name] = (late, late >= fault.duration)
    return found


def command(run_dir: Path) -> list[str]:
    """Runs the experiment that lies in the run directory."""
    events = ["--events-file", str(run_dir / EVENTS)] if installed() >= EVENTS_SINCE else []
    return [
        sys.executable,
        "-m",
        "chaostoolkit",
        "--no-version-check",
        "--log-file",
        str(run_dir / "logs" / "chaostoolkit.log"),
        "run",
        "--rollback-strategy",
        "always",
        "--hypothesis-strategy",
        "before-method-only",
        "--journal-path",
        str(run_dir / JOURNAL),
        *events,
        str(run_dir / EXPERIMENT),
    ]


def installed() -> tuple[int, ...]:
    """(major, minor) of the chaostoolkit command."""
    return tuple(int(part) for part in version("chaostoolkit").split(".")[:2])


def _action(title: str, function: str, /, **arguments: Any) -> dict[str, Any]:
    return {"type": "action", "name": title, "provider": _provider("chaos.actions", function, arguments)}


def _provider(module: str, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "python", "module": module, "func": function, "arguments": arguments}
