"""All worlds, by the name that the command line takes. Each is imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gameday.errors import BadInput
from gameday.worlds.base import World, WorldOptions
from scenarios.model import Scenario


def _local(scenario: Scenario, run_dir: Path, options: WorldOptions) -> World:
    from gameday.worlds.local.world import LocalWorld

    if options != WorldOptions(options.name, options.seed):
        raise BadInput(
            "--cluster, --keep-cluster, --context, --load-workers, --allow-namespace and --prometheus are for"
            " --world kind; add it, or leave them out"
        )
    return LocalWorld(scenario, run_dir, options.seed)


def _kind(scenario: Scenario, run_dir: Path, options: WorldOptions) -> World:
    from gameday.worlds.kind.world import KindWorld

    return KindWorld(scenario, run_dir, options)


def _recover_local(run_dir: Path) -> list[str]:
    from gameday.worlds.local.recover import recover

    return recover(run_dir)


def _recover_kind(run_dir: Path) -> list[str]:
    from gameday.worlds.kind.recover import recover

    return recover(run_dir)


_WORLDS: dict[str, Callable[[Scenario, Path, WorldOptions], World]] = {"local": _local, "kind": _kind}
_RECOVER: dict[str, Callable[[Path], list[str]]] = {"local": _recover_local, "kind": _recover_kind}


def make_world(scenario: Scenario, run_dir: Path, options: WorldOptions) -> World:
    """A world for one run; nothing is started yet.

    Raises:
        BadInput: this machine has no room for it, or lacks what it takes.
    """
    return _WORLDS[options.name](scenario, run_dir, options)


def recover_world(name: str, run_dir: Path) -> list[str]:
    """Cleans up after a run of that world; what was done, one line each."""
    return _RECOVER.get(name, _recover_local)(run_dir)
