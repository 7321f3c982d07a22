"""Our proxy, in a mesh. Opaque TCP enters it from the inbound side: the outbound one needs redirected connections.

Twice, where its hot modules are compiled (`make native`, as in images): as it is, and from a copy of its sources alone.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from importlib.metadata import version as version_of
from pathlib import Path

from benchmarks.chain import Node
from benchmarks.machine import Command
from benchmarks.ports import free_ports
from mesh import native


def ours(node: Node) -> Command:
    assert node.mesh is not None
    (unused,) = free_ports(1)
    inbound, outbound = (unused, node.listen) if node.place == "a" else (node.listen, unused)
    return node.mesh.proxy(node.place, inbound=inbound, outbound=outbound, admin=node.admin, app=node.upstream)


def interpreted(node: Node) -> Command:
    """The same without a compiled module."""
    command = ours(node)
    copy = node.directory / "interpreted"
    if not copy.is_dir():
        shutil.copytree(
            Path(native.ROOT) / "mesh", copy / "mesh", ignore=shutil.ignore_patterns("*.so", native.NOTE.name)
        )
    python, *rest = command.argv
    return replace(command, argv=[python, "-P", *rest], environment={**command.environment, "PYTHONPATH": str(copy)})


def version() -> str:
    how = "hot modules compiled" if native.check() else "interpreted"
    return f"gameday {version_of('gameday')} ({how}), CPython {sys.version.split()[0]}"


def interpreted_version() -> str | None:
    """None: nothing is compiled, so that there is but one of us."""
    return version() if native.check() else None
