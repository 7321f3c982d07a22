"""The agent's memory: a file of lines that only grows, and can be read from any offset while it does.

On an emptyDir it outlives the agent's container (not its pod). An agent that starts again cuts off a line that was only
half written, which no reader can have taken for a whole one, and goes on at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

CHUNK_BYTES = 256 * 1024


class Spool:
    """Written by one agent, in one event loop."""

    def __init__(self, path: Path) -> None:
        path.touch()
        size = path.stat().st_size
        whole = _whole_lines(path, size)
        if whole < size:
            os.truncate(path, whole)
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._grew = asyncio.Event()
        self.size = whole

    def append(self, lines: Iterable[bytes]) -> None:
        """Whole lines. A full disk raises OSError: an agent that cannot remember must not look well."""
        data = b"".join(lines)
        if not data:
            return
        self._file.write(data)
        self.size += len(data)
        self._grew.set()
        self._grew = asyncio.Event()

    async def read(self, offset: int, silence: float) -> AsyncIterator[bytes]:
        """Bytes from `offset`, for ever; an empty one after `silence` seconds without any."""
        with self._path.open("rb") as file:
            file.seek(offset)
            while True:
                grew = self._grew
                data = file.read(CHUNK_BYTES)
                if data:
                    yield data
                    continue
                try:
                    await asyncio.wait_for(grew.wait(), silence)
                except TimeoutError:
                    yield b""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _whole_lines(path: Path, size: int) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        end = size
        while end > 0:
            begin = max(0, end - CHUNK_BYTES)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0
