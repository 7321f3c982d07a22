"""What a person sees while a run goes on: a live board on a terminal, plain lines elsewhere.

The runner speaks to a `Progress`; neither form may slow it down or fail it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

LINE_INTERVAL_SECONDS = 5.0


@dataclass(slots=True)
class SloView:
    """One SLO as of now."""

    name: str
    objective: float
    recent_ratio: float | None
    """Good share over the last seconds; None without requests."""
    burn_rate: float
    budget_spent: float | None = None
    """Since the injection; None before."""
    forecast: str = ""
    """`12–95 %`: good share over the whole drill, 90 % interval."""


@dataclass(slots=True)
class Snapshot:
    """Everything the board shows."""

    phase: str
    elapsed: float
    length: float | None
    slos: list[SloView] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    load: str = ""


class Progress(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def phase(self, name: str, text: str) -> None:
        """A phase begins."""

    def note(self, text: str) -> None:
        """Something happened that a person should read."""

    def tick(self, snapshot: Snapshot) -> None:
        """Once a second."""


def for_terminal(plain: bool) -> Progress:
    """The live board where standard output is a terminal, else lines."""
    if plain or sys.stdout is None or not sys.stdout.isatty():
        return Lines()
    return Board()


def say(text: str) -> None:
    """Prints a line, if there is anybody left to read it: a run does not end because `| head` has."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


class Lines:
    """One line for each phase and note, and one status line every few seconds."""

    def __init__(self, write: Callable[[str], None] = say) -> None:
        self._write = write
        self._started = time.monotonic()
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def phase(self, name: str, text: str) -> None:
        self._line(f"{name:<9} {text}")

    def note(self, text: str) -> None:
        self._line(f"{'':<9} {text}")

    def tick(self, snapshot: Snapshot) -> None:
        now = time.monotonic()
        if now - self._last < LINE_INTERVAL_SECONDS:
            return
        self._last = now
        slos = "  ".join(
            f"{slo.name} {percent(slo.recent_ratio)}" + (f" burn {slo.burn_rate:.1f}x" if slo.burn_rate >= 0.05 else "")
            for slo in snapshot.slos
        )
        faults = "  ".join(snapshot.faults)
        self._line(f"{snapshot.phase:<9} {slos}{'  | ' + faults if faults else ''}")

    def _line(self, text: str) -> None:
        self._write(f"{time.monotonic() - self._started:6.1f} s  {text}")


class Board:
    """SLOs and faults redrawn in place; what happened stands above, and stays when the run is over."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console if console is not None else Console()
        self._live = Live(console=self._console, refresh_per_second=4)
        self._started = time.monotonic()
        self._snapshot = Snapshot("", 0.0, None)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tick(Snapshot("done", time.monotonic() - self._started, None, self._snapshot.slos))
        self._live.__exit__(kind, error, trace)

    def phase(self, name: str, text: str) -> None:
        self.note(f"[{name}] {text}")
        self.tick(Snapshot(name, 0.0, None, self._snapshot.slos))

    def note(self, text: str) -> None:
        since = f"{time.monotonic() - self._started:6.1f} s  "
        lines = Text(text).wrap(self._console, max(20, self._console.width - len(since)))
        for index, line in enumerate(lines):
            self._console.print(Text.assemble(since if index == 0 else " " * len(since), line, style="dim"))

    def tick(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        length = f" of {snapshot.length:.0f} s" if snapshot.length is not None else " s"
        heading = Text.assemble(
            (f" {snapshot.phase} ", "reverse bold"), f"  {snapshot.elapsed:.0f}{length}  {snapshot.load}"
        )
        parts: list[Table | Text] = [heading]
        if snapshot.slos:
            parts.append(_slo_table(snapshot.slos))
        parts.extend(Text(f"  ● {fault}", style="red") for fault in snapshot.faults)
        self._live.update(Group(*parts))


def _slo_table(slos: list[SloView]) -> Table:
    """Fits 80 columns with names of up to 20 characters."""
    table = Table(box=None, pad_edge=False)
    for column in ("SLO", "objective", "good, 5 s", "burn", "budget spent", "good, forecast"):
        table.add_column(column, justify="left" if column == "SLO" else "right", no_wrap=True)
    for slo in slos:
        below = slo.recent_ratio is not None and slo.recent_ratio < slo.objective
        table.add_row(
            slo.name,
            percent(slo.objective),
            Text(
                f"{percent(slo.recent_ratio)} ▼" if below else percent(slo.recent_ratio), style="red" if below else ""
            ),
            f"{slo.burn_rate:.1f}×",
            f"{slo.budget_spent:.1f}×" if slo.budget_spent is not None else "–",
            slo.forecast or "–",
        )
    return table


def percent(ratio: float | None) -> str:
    """`99.95 %`, `100 %`, or a dash."""
    return "–" if ratio is None else f"{ratio * 100:.4g} %"
