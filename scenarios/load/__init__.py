"""YAML → `scenarios.model`, with every mistake named by file, line and field.

    document.py     YAML text → a tree of nodes with marks; bounded, never a traceback
    overlay.py      variants and --set, laid over the tree before it is read
    fields.py       typed readers for one mapping
    application.py, scenario.py, faults.py, slos.py, expectations.py, resources.py
                    the parts of the format, each checked where it is read
    problems.py     what a mistake looks like

Rejected: a schema library. Its messages speak of types and paths, not of lines and the word that was meant; most of
what can be wrong here (a route that no journey uses, leaves that outlive the fault) is between fields in any case.

The submodules are imported on first use: the workload needs the application reader alone and starts the faster for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenarios.load.application import load_application
    from scenarios.load.problems import InvalidScenario, Problem
    from scenarios.load.scenario import load_scenario

__all__ = ["InvalidScenario", "Problem", "load_application", "load_scenario"]

_HOME = {
    "InvalidScenario": "scenarios.load.problems",
    "Problem": "scenarios.load.problems",
    "load_application": "scenarios.load.application",
    "load_scenario": "scenarios.load.scenario",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(name)
