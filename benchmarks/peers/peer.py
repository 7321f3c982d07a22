"""What a peer is, and where its program may be found."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chain import Node
from benchmarks.machine import Command

VENV = Path(__file__).parents[2] / ".bench"
"""Of Envoy's wheel and mitmproxy, which must not mix with our own dependencies."""


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    command: Callable[[Node], Command]
    version: Callable[[], str | None]
    """None: not installed."""
    rows: str
    """Keys of the rows that it can do."""
    install: str = ""
    in_mesh: bool = False
    """Whether it works in a mesh: with a control plane beside it, and scraped."""


def find(program: str) -> str | None:
    """Debian's servers are in /usr/sbin, which is not on every user's PATH."""
    places = f"{VENV / 'bin'}:/usr/sbin:/usr/local/sbin"
    return shutil.which(program) or shutil.which(program, path=places)


def first_line(path: str | None, *flags: str) -> str | None:
    """Of what `path flags` prints; None where there is no such program."""
    if path is None:
        return None
    done = subprocess.run([path, *flags], capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]
