"""Steps of faults and rollbacks: HTTP requests as plain data, so that they can be stored before they are needed.

`http://ip:port/path` for a workload's admin port, `unix:<socket>:<path>` for the supervisor of an embedded world,
`kube:<access file>:<path>` for a Kubernetes API server (see `chaos.kube`; no file: the pod's own service account).
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

TIMEOUT_SECONDS = 3.0
KUBE = "kube:"


class Step(msgspec.Struct, frozen=True):
    """One request. Doing it twice must be the same as doing it once."""

    method: str
    url: str
    body: str = ""
    content_type: str = "application/json"


class StepFailed(Exception):
    """A request was refused or not answered; the text says which and why."""


class WorldGone(StepFailed):
    """Nobody listens there any more. Faults live in processes, so nothing is left there to undo."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def perform(step: Step) -> bytes:
    """Does one step; returns the answer's body.

    Raises:
        WorldGone, StepFailed.
    """
    if step.url.startswith(KUBE):
        from chaos.kube import perform_kube  # the client takes a third of a second to import; local runs never need it

        return perform_kube(step)
    connection, path = _connection(step.url)
    try:
        connection.request(step.method, path, step.body.encode(), {"content-type": step.content_type})
        answer = connection.getresponse()
        body = answer.read()
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise WorldGone(f"{step.method} {step.url}: {error.strerror}") from None
    except (OSError, http.client.HTTPException) as error:
        raise StepFailed(f"{step.method} {step.url}: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if answer.status >= 300:
        raise StepFailed(f"{step.method} {step.url}: {answer.status} {body.decode(errors='replace')[:200]}")
    return body


def perform_all(steps: Sequence[Step]) -> None:
    """All steps in order, the later ones even if an earlier one failed.

    Raises:
        WorldGone: some steps found nobody, all others were done.
        StepFailed: the failures, one after another.
    """
    failures: list[StepFailed] = []
    for step in steps:
        try:
            perform(step)
        except StepFailed as failure:
            failures.append(failure)
    if failures:
        kind = WorldGone if all(isinstance(failure, WorldGone) for failure in failures) else StepFailed
        raise kind("; ".join(str(failure) for failure in failures))


def _connection(url: str) -> tuple[http.client.HTTPConnection, str]:
    if url.startswith("unix:"):
        path, _, target = url.removeprefix("unix:").partition(":")
        return _UnixConnection(path, TIMEOUT_SECONDS), target
    parts = urlsplit(url)
    return http.client.HTTPConnection(
        parts.hostname or "", parts.port or 80, timeout=TIMEOUT_SECONDS
    ), parts.path or "/"
