"""What a run asks of a world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loadtests.plan import LoadPlan
from reports.store import RunStore


@dataclass(frozen=True, slots=True)
class WorldOptions:
    """What the command line says about the world. All but the first two are for worlds on Kubernetes."""

    name: str = "local"
    seed: int = 1
    cluster: str | None = None
    """A kind cluster to use or create; None: a new one that is deleted at the end."""
    keep_cluster: bool = False
    context: str | None = None
    """A context of the kubeconfig instead of a kind cluster."""
    load_workers: int = 1
    """Pods that send the load."""
    allowed_namespaces: tuple[str, ...] = ()
    """Existing namespaces that the run may use."""
    prometheus: str | None = None
    """Image of a Prometheus to run beside."""


class Load(Protocol):
    """A load driver under way."""

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""

    async def stop(self, grace_seconds: float) -> object:
        """Ends it: no more arrivals, answers are waited for, the last result is in the requests file."""


class World(Protocol):
    """Brings up a mesh with an application on it, sends load, brings in what can be seen, takes it all down."""

    name: str

    async def up(self, progress: Callable[[str], None]) -> None:
        """Returns when everything is ready.

        Raises:
            WorldFailed: it did not come up.
        """

    async def down(self) -> None:
        """Ends all of it; safe to call at any time, and twice."""

    async def observe(self, store: RunStore) -> None:
        """Brings metrics and usage of every process into the store, once a second, until it is cancelled.

        Raises:
            WorldFailed: nothing can be seen any more.
        """

    async def start_load(self, plan: LoadPlan, log: Path) -> Load:
        """Starts the load that `plan` describes, through the load generator's own proxy.

        `plan.output` is where results are to appear; `plan.proxy` is the world's to fill in.
        """
