"""All worlds, by the name that the command line takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gameday.worlds.base import World
from gameday.worlds.local.world import LocalWorld
from scenarios.model import Scenario

_WORLDS: dict[str, Callable[[Scenario, Path, int], World]] = {"local": LocalWorld}


def make_world(name: str, scenario: Scenario, run_dir: Path, seed: int) -> World:
    """A world for one run; nothing is started yet.

    Raises:
        BadInput: this machine has no room for it (addresses or ports are taken).
    """
    return _WORLDS[name](scenario, run_dir, seed)
