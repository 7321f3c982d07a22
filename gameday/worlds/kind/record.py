"""What a run has put where, written before each step: all that `down` and `gameday recover` need to take it away."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

FILE = "cluster.json"


class Made(msgspec.Struct, kw_only=True):
    """Grows while the world comes up. What is named here may or may not have come to be."""

    run: str
    """As the label says it."""
    cluster: str | None
    """Name of the kind cluster; None for a context of the user's."""
    created: bool = False
    """The run made the cluster, and deletes it."""
    namespaces: list[str] = []
    """Made by the run."""
    guests: list[str] = []
    """Namespaces of others that the run put something into."""
    mesh: bool = False
    """The run installed the mesh."""

    def write(self, run_dir: Path) -> None:
        temporary = run_dir / f".{FILE}.tmp"
        temporary.write_bytes(msgspec.json.encode(self))
        os.replace(temporary, run_dir / FILE)


def read_made(run_dir: Path) -> Made | None:
    """None where the run had not begun to make anything."""
    try:
        return msgspec.json.decode((run_dir / FILE).read_bytes(), type=Made)
    except FileNotFoundError:
        return None
