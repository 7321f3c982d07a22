"""Child processes of the runner: load and chaostoolkit.

Each gets a session of its own, so that Ctrl-C reaches the runner alone and it decides in which order things end; and
it is told by the kernel to end when the runner dies (Linux), so that `kill -9` leaves no load behind. Where the kernel
does not do that, the recorded pid lets `gameday recover` end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos.processes import die_with_parent, record_child


class Child:
    """One process, its log, and an end that always comes."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        log: Path,
        run_dir: Path,
        environment: Mapping[str, str] | None = None,
        *,
        outlive: bool = False,
    ) -> Child:
        """Starts `command` with its output in `log` and its pid recorded in the run directory.

        `outlive`: it is not told to end when the runner dies (the reaper).
        """
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=None if outlive else die_with_parent,
            )
        record_child(run_dir, name, process.pid)
        return cls(name, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    async def wait(self, timeout: float) -> int | None:
        """The exit code, or None if it still runs after `timeout` seconds."""
        try:
            return await asyncio.wait_for(self._process.wait(), timeout)
        except TimeoutError:
            return None

    async def stop(self, grace_seconds: float) -> int:
        """SIGTERM, then SIGKILL to the whole group once the grace is over."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            if await self.wait(grace_seconds) is None:
                self._signal(signal.SIGKILL)
        return await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended between the look and the signal
            os.killpg(self._process.pid, number)
