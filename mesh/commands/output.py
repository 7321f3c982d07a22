"""Progress and refusals of commands that print YAML: standard output is for kubectl, standard error is for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mesh.commands.errors import CommandFailed

if TYPE_CHECKING:
    from lightkube import Client


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def applying() -> Iterator[None]:
    """What the API refuses within the block, or does not bring up in time, is one line for the user."""
    from mesh.deploy.apply import NotReady
    from mesh.deploy.paths import RequestFailed

    try:
        yield
    except (NotReady, RequestFailed) as error:
        raise CommandFailed(str(error)) from None


def try_injection(client: Client) -> None:
    """Waits until pods get a sidecar. Where this cannot be seen (no right to make pods in `default`, no injection
    there), people are told, and nothing fails: the mesh itself serves."""
    from mesh.deploy.apply import NotReady
    from mesh.deploy.trial import wait_for_injection

    try:
        wait_for_injection(client, "default", ask=True)
    except NotReady as error:
        progress(f"not seen yet: {error}, and gameday mesh check")
    else:
        progress("new pods get a sidecar")
