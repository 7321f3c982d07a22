"""Progress and refusals of commands that print YAML: standard output is for kubectl, standard error is for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.commands.errors import CommandFailed


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
