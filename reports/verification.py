"""What is stored of a change that was run for real: the prediction, and what was measured."""

from __future__ import annotations

from typing import Literal

import msgspec

DOCUMENT = "verification"
PREDICTION = "verification-forecast"
"""The whole forecast of the changed scenario, made from the first run's baseline before the second run began."""


class Row(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One quantity over inject and recover together. `inside`: within the 90 % interval; None: not measured."""

    quantity: str
    subject: str
    low: float
    median: float
    high: float
    measured: float | None = None
    inside: bool | None = None


class Verification(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A change, the run that tried it, and whether it did as predicted."""

    change: str
    overrides: tuple[str, ...]
    run: str
    """Name of its folder, beside the first run's."""
    subject: str
    """The SLO in question."""
    sealed_at: float
    sha256: str
    state: Literal["begun", "finished", "aborted", "failed"]
    rows: tuple[Row, ...]

    @property
    def headline(self) -> Row | None:
        """The budget of the SLO in question."""
        return next((row for row in self.rows if (row.quantity, row.subject) == ("budget_spent", self.subject)), None)

    @property
    def inside(self) -> bool | None:
        """Whether that lies in its interval."""
        return self.headline.inside if self.headline is not None else None
