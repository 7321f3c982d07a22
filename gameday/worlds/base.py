"""What a run asks of a world."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from reports.store import Usage


class World(Protocol):
    """Brings up a mesh with an application on it, says where things are, takes it down."""

    name: str

    async def up(self, progress: Callable[[str], None]) -> None:
        """Returns when everything is ready.

        Raises:
            WorldFailed: it did not come up.
        """

    async def down(self) -> None:
        """Ends all of it; safe to call at any time, and twice."""

    def scrape_targets(self) -> list[tuple[str, str]]:
        """(process, metrics URL) of everything that has metrics."""

    def usage(self) -> list[Usage]:
        """CPU and memory of every process, now."""

    def load_entry(self) -> str:
        """`ip:port` at which load enters the mesh: the outbound side of the load generator's own proxy."""
