"""What ships with Gameday: scenarios, each a folder beside this file; applications, each a file under apps/."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of the shipped scenarios, in alphabetical order."""
    return sorted(path.parent.name for path in _HERE.glob("*/scenario.yaml"))


def path(name: str) -> Path:
    """The scenario file of a shipped scenario, there or not."""
    return _HERE / name / "scenario.yaml"


def application_names() -> list[str]:
    return sorted(path.stem for path in (_HERE / "apps").glob("*.yaml"))


def application_path(name: str) -> Path:
    return _HERE / "apps" / f"{name}.yaml"
