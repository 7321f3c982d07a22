"""Brings into the run store what other processes wrote down: the supervisor's events and the fault ledger's states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from chaos.ledger import Ledger
from gameday.rundir import RunDir
from reports.store import Event, RunStore


class SupervisorEvent(msgspec.Struct, frozen=True):
    """One line of supervisor-events.ndjson."""

    at: float
    kind: str
    text: str
    data: dict[str, Any] | None = None


class LineTail:
    """Reads whole lines of a file that another process appends to; a torn last line waits for its rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        end = text.rfind(b"\n") + 1
        self._offset += end
        return text[:end].splitlines()


class Ingest:
    """Polled once a second by the runner."""

    def __init__(self, run: RunDir, store: RunStore, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._supervisor = LineTail(run.supervisor_events)
        self._decoder = msgspec.json.Decoder(SupervisorEvent)
        self._seen: dict[str, set[str]] = {}
        self.active_faults: list[str] = []

    def poll(self) -> list[str]:
        """Stores what is new; returns the lines that a person should see."""
        notes = []
        for line in self._supervisor.read():
            event = self._decoder.decode(line)
            self._store.add_event(Event(event.at, "mesh", event.kind, event.text, event.data))
            if event.kind in ("restart", "kill", "down", "up"):
                notes.append(event.text)
        return notes + self._poll_ledger()

    def _poll_ledger(self) -> list[str]:
        notes = []
        active = []
        for record in self._ledger.records():
            seen = self._seen.setdefault(record.name, set())
            for kind, at in (("inject", record.injected_at), ("revert", record.reverted_at)):
                if at is None or kind in seen:
                    continue
                seen.add(kind)
                text = f"{record.name}: {record.text}" if kind == "inject" else f"{record.name}: reverted"
                self._store.add_event(Event(at, "chaos", kind, text, {"fault": record.name, "kind": record.kind}))
                notes.append(("FAULT IN  " if kind == "inject" else "FAULT OUT ") + text)
            if record.injected_at is not None and record.reverted_at is None:
                active.append(f"{record.name}: {record.text}")
        self.active_faults = active
        return notes
