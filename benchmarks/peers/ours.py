"""Our proxy, in a mesh. Opaque TCP enters it from the inbound side: the outbound one needs redirected connections."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of

from benchmarks.chain import Node
from benchmarks.machine import Command, free_ports


def ours(node: Node) -> Command:
    assert node.mesh is not None
    (unused,) = free_ports(1)
    inbound, outbound = (unused, node.listen) if node.place == "a" else (node.listen, unused)
    return node.mesh.proxy(node.place, inbound=inbound, outbound=outbound, admin=node.admin, app=node.upstream)


def version() -> str:
    return f"gameday {version_of('gameday')}, CPython {sys.version.split()[0]}"
