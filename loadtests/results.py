"""The load driver's output: one JSON array a line for each request, in the order in which they ended.

    [route, journey, intendedAt, sentAt|null, finishedAt|null, status|null, error|null, traceId|null]

Unix seconds. `route` is `POST storefront /checkout`. A request that was never sent (dropped) has no `sentAt`; one that
was not answered has no `status` and says why in `error`: dropped | timeout | connect | reset | protocol | interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec


class RequestResult(NamedTuple):
    """One line."""

    route: str
    journey: str
    intended_at: float
    sent_at: float | None
    finished_at: float | None
    status: int | None
    error: str | None
    trace_id: str | None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[str, str, float, float | None, float | None, int | None, str | None, str | None])


class InvalidLine(ValueError):
    """A line that no load driver wrote."""


def format_line(result: RequestResult) -> bytes:
    return _encoder.encode(tuple(result)) + b"\n"


def parse_line(line: bytes) -> RequestResult:
    """Raises InvalidLine."""
    try:
        return RequestResult(*_decoder.decode(line))
    except msgspec.DecodeError as error:
        raise InvalidLine(f"{error}: {line[:200]!r}") from None


class ResultTail:
    """Reads a file that is still being written, whole lines at a time. A file that does not exist yet is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[RequestResult]:
        """What was added since the last call. Raises InvalidLine; that line is passed over by the next call."""
        try:
            with self._path.open("rb") as file:
                if self._path.stat().st_size < self._offset:
                    self._offset = 0  # begun anew by another driver
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            return []
        found: list[RequestResult] = []
        for line in added.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # half written; the next call reads it again from its begin
            self._offset += len(line)
            found.append(parse_line(line))
        return found
