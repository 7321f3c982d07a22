"""The ledger's copy in the cluster: a ConfigMap that the reaper Job reads, for when this machine is gone.

    fault.<name>      the record as JSON: rollback steps as one in the cluster performs them, deadline, state
    reverted.<name>   when the Job reverted it (Unix seconds)
    closed            the run is over

A fault is written here, too, before it is applied; without it, it is not applied. What was reverted here and could not
be written there does no harm: the Job reverts it once more, and every step is the same done twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from chaos.kube import in_cluster
from chaos.requests import Step, perform
from chaos.world import WorldState, read_world

CONFIG_MAP = "gameday-ledger"
CLOSED = "closed"
FAULT, REVERTED = "fault.", "reverted."


class MirroredFault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, as much of it as it takes to undo it."""

    name: str
    state: str
    deadline: float
    rollback: tuple[Step, ...]


class Mirror:
    """Writes the copy. Each write raises StepFailed where the cluster does not take it."""

    def __init__(self, world: WorldState) -> None:
        self._world = world

    def put(self, name: str, state: str, deadline: float, rollback: tuple[Step, ...]) -> None:
        fault = MirroredFault(
            name=name, state=state, deadline=deadline, rollback=tuple(in_cluster(step) for step in rollback)
        )
        self._patch({f"{FAULT}{name}": msgspec.json.encode(fault).decode()})

    def close(self) -> None:
        self._patch({CLOSED: "true"})

    def _patch(self, data: dict[str, Any]) -> None:
        assert self._world.cluster is not None
        path = config_map_path(self._world.cluster.run_namespace)
        body = msgspec.json.encode({"data": data}).decode()
        perform(Step("PATCH", self._world.kube_url(path), body, "application/merge-patch+json"))


def config_map_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG_MAP}"


def mirror_of(run_dir: Path) -> Mirror | None:
    """The copy of this run's ledger; None where the world has none (or is not up yet)."""
    try:
        world = read_world(run_dir)
    except FileNotFoundError:
        return None
    return Mirror(world) if world.cluster is not None else None
