"""What an explanation says: changes with their size, effect and price, and causes with their share of the burn.

Plain structs: they are stored with the run as JSON and printed by reports. Budgets are multiples of the whole (1.0 =
all of it), latencies seconds, shares 0..1.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sim.results import CounterfactualSlo

UNCHANGED = "nothing changed"


class Setting(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One knob of a change. None: off, or no limit."""

    knob: str
    place: str
    before: float | None
    after: float | None


class Price(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a change costs on a day without faults: medians over paired replications, changed minus unchanged."""

    slo: str
    """The SLO whose route the latencies are of: the one that they rise most for, relative to before."""
    p50: float
    p50_change: float
    p99: float
    p99_change: float
    success_change: float
    """Of the worst SLO."""
    attempts: float
    """Tries for each request of the service whose tries change most, changed; `attempts_change` beside."""
    attempts_change: float
    work_change: float
    """Share more requests that services handle, tries and calls included: what CPU follows."""
    pods: int
    """More than today."""
    places: int
    """Workers and places in queues, more than today, over all pods."""
    certificates_per_minute: float
    """More than today, over all meshed pods; each is a handshake with identity and a signature."""
    replications: int


class Remedy(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One change, of one knob or two, and what it would have done."""

    change: str
    settings: tuple[Setting, ...]
    size: float
    """See `sim.knobs.knob`; 0 for `nothing changed`."""
    slos: tuple[CounterfactualSlo, ...]
    holds: bool
    """All SLOs together held in at least nine replications of ten; `slos` has the share of each alone."""
    replications: int
    price: Price | None = None
    overrides: tuple[str, ...] = ()
    """As `--set` takes them; a file is named `{folder}/NAME`, with its text in `files`."""
    files: dict[str, str] = {}
    unverifiable: str | None = None
    """Why it cannot be tried for real; None where it can."""


class Cause(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One mechanism, switched off alone: by how much the budget spent falls, as a share of it.

    Negative: it protects, and without it more burns. Shares need not sum to 1: two mechanisms that need each other are
    each charged with all that goes when either does.
    """

    mechanism: str
    kind: Literal["fault", "mechanism"]
    slo: str
    """The SLO that burned most."""
    share: float
    """Mean over paired replications."""
    low: float
    high: float
    """90 % confidence interval of the mean."""
    shapley: float | None = None
    """Its part where every order of switching off counts alike (exact, over the mechanisms that matter); these do sum
    to what all of them together add to the burn."""
    replications: int


class Explanation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything that is asked of the twin after a run."""

    remedies: tuple[Remedy, ...]
    """Those that hold, smallest first; then `nothing changed` and the others, the most budget saved first."""
    causes: tuple[Cause, ...]
    """Faults first, then mechanisms, by share."""
    verdict: str
    """In one line what the search found, or that nothing of what it tried helps."""
    tried: int
    """Different changes played."""
    plays: int
    seconds: float
    complete: bool
    """Whether the search came to its end within its time."""
