"""Where resources come from, as discovery sees it. Two sources: a folder that is polled, Kubernetes that pushes."""

from __future__ import annotations

from typing import Protocol

from mesh.api.resources import AnyResource, ExternalWorkload


class Registry(Protocol):
    """A set of resources that changes."""

    def load(self) -> None:
        """The first state. Raises RegistryUnreadable where there is none."""

    async def wait(self) -> None:
        """Returns when it is worth polling again."""

    def poll(self) -> bool:
        """Whether the resources changed since the last poll."""

    def resources(self) -> list[AnyResource | ExternalWorkload]:
        """All of them, as of the last poll. What did not change is the same object as before."""
