"""The smallest change that holds every SLO: a search over the knobs, one at a time, then in pairs.

    screen    three rungs of every ladder, two days each; most are lost early and cost a fraction of a day
    settle    on each ladder the values that survived, the one nearest today's first, until one holds
    complete  where none does: two changes of which each saves the SLOs that the other one loses, smallest first.
              Two faults at once want two cures
    climb     all rungs of every ladder, where no single change holds so far
    refine    between a value that holds and the nearest one that does not: bisection on the knob's scale
    pairs     where nothing holds: the three best values of different knobs, each with every value of the other knobs

Every part of a pair that holds is moved back towards today as far as it can.

Nothing assumes that more of a knob is better: retries help until they storm. A ladder is climbed from today's value
outwards and what is reported is the nearest value that holds. Between two rungs the bisection does assume one change of
sides; a region narrower than a rung can be missed, and three changes at once are never tried.

The order of trials depends on their results alone. Time only cuts the search off, and the result then says so.

Rejected: a Gaussian process or CMA over all knobs at once (needs a smooth objective and hundreds of days; a person has
to read and make the change, so that sparse ones are wanted anyway).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations

from sim.explain.trial import Candidate, Stage, TimeOver
from sim.knobs.configuration import Configuration
from sim.knobs.knob import Knob
from sim.model.setup import Setup
from sim.replication.replicate import Task

SCREENED = 2
ANCHORS = 3
BISECTIONS = 3
REFINED = 3
"""How many of the smallest single changes are refined."""
MOST_PAIRS_SETTLED, PAIRS_AT_ONCE = 12, 3
HELPS = 0.9
"""A change helps when what it loses is at most this share of what is lost without it."""

TaskOf = Callable[[Configuration], Task]
Settings = tuple[tuple[Knob, float], ...]


@dataclass(slots=True)
class Search:
    """One search. `run` it, then read `found`."""

    stage: Stage
    configuration: Configuration
    base: Task
    task_of: TaskOf
    knobs: list[Knob]
    complete: bool = False
    _known: dict[tuple[tuple[str, str, float], ...], Candidate | None] = field(default_factory=dict)
    _setups: list[Setup] = field(default_factory=list)

    def run(self) -> None:
        """Searches until the end or the stage's deadline."""
        try:
            self._setups.append(self.configuration.setup())
            ladders = [(knob, ladder) for knob in self.knobs for ladder in knob.ladders if ladder]
            self._climb([(knob, coarse(ladder)) for knob, ladder in ladders])
            if not self.holding():
                self._complements()
            if not self._holding_alone():
                self._climb(ladders)
            for candidate in self._holding_alone()[:REFINED]:
                self._refine(*candidate.settings[0])
            if not self.holding():
                self._pairs()
            self.complete = True
        except TimeOver:
            return

    def tried(self) -> list[Candidate]:
        """Every change that was played."""
        return [candidate for candidate in self._known.values() if candidate is not None and candidate.days]

    def singles(self) -> list[Candidate]:
        """Those of `tried` that turn one knob."""
        return [candidate for candidate in self.tried() if len(candidate.settings) == 1]

    def holding(self) -> list[Candidate]:
        """Changes that hold every SLO, smallest first; of those that turn the same knobs the smallest only."""
        by_knobs: dict[frozenset[tuple[str, str]], Candidate] = {}
        for candidate in sorted(self.tried(), key=lambda c: (c.size, c.badness, c.text)):
            if candidate.verdict is True:
                by_knobs.setdefault(candidate.turned, candidate)
        return list(by_knobs.values())

    def helping(self) -> list[Candidate]:
        """Those of `best_effort` that lost clearly less than the same days did unchanged."""
        unchanged = [day.badness for day in self.stage.unchanged]

        def before(candidate: Candidate) -> float:
            days = unchanged[: len(candidate.days)]
            return sum(days) / max(1, len(days))

        return [candidate for candidate in self.best_effort() if candidate.badness < HELPS * before(candidate)]

    def saving(self) -> list[Candidate]:
        """For each SLO that is lost without a change the smallest single one that saves it, by its first day."""
        found = []
        for slo in self.base.setup.slos:
            if slo.name in self.stage.lost():
                saved = [candidate for candidate in self.singles() if slo.name in candidate.saved]
                found += sorted(saved, key=lambda c: (c.size, c.badness, c.text))[:1]
        return list(dict.fromkeys(found))

    def best_effort(self) -> list[Candidate]:
        """Of each knob or pair the value that lost least, the least first."""
        by_knobs: dict[frozenset[tuple[str, str]], Candidate] = {}
        for candidate in sorted(self.tried(), key=lambda c: (c.badness, c.size, c.text)):
            by_knobs.setdefault(candidate.turned, candidate)
        return list(by_knobs.values())

    # ---- candidates

    def _candidate(self, settings: Settings) -> Candidate | None:
        """The change, made once; None where it changes nothing that the twin plays, or what another one did."""
        key = tuple(sorted((knob.name, knob.place, value) for knob, value in settings))
        if key not in self._known:
            configuration = self.configuration
            for knob, value in settings:
                configuration = knob.turn(configuration, value)
            setup = configuration.setup()
            self._known[key] = None
            if setup not in self._setups:
                self._setups.append(setup)
                self._known[key] = Candidate(settings, configuration, self.task_of(configuration), self.base)
        return self._known[key]

    def _candidates(self, many: Iterable[Settings]) -> list[Candidate]:
        found = (self._candidate(settings) for settings in many)
        return list(dict.fromkeys(candidate for candidate in found if candidate is not None))

    # ---- one knob

    def _holding_alone(self) -> list[Candidate]:
        return [candidate for candidate in self.holding() if len(candidate.settings) == 1]

    def _climb(self, ladders: list[tuple[Knob, tuple[float, ...]]]) -> None:
        """Screens every rung, then settles the nearest survivor of each ladder, until one holds or none is left."""
        everything = self._candidates(((knob, value),) for knob, ladder in ladders for value in ladder)
        self.stage.try_out(everything, 1, apart=True)
        self.stage.try_out(everything, SCREENED)
        climbing = list(ladders)
        while climbing:
            rungs = []
            for knob, ladder in climbing:
                rung = next((c for c in self._rungs(knob, ladder) if c.verdict is not False), None)
                if rung is not None:
                    rungs.append((rung, knob, ladder))
            self.stage.settle(candidate for candidate, _, _ in rungs)
            climbing = [(knob, ladder) for candidate, knob, ladder in rungs if candidate.verdict is not True]

    def _rungs(self, knob: Knob, ladder: tuple[float, ...]) -> list[Candidate]:
        return self._candidates(((knob, value),) for value in ladder)

    def _refine(self, knob: Knob, holds: float) -> None:
        """Bisects between a value that holds and the next one towards today's, which does not."""
        ladder = next(ladder for ladder in knob.ladders if holds in ladder)
        nearer = [value for value in ladder[: ladder.index(holds)] if self._is_lost(knob, value)]
        lost = nearer[-1] if nearer else knob.today
        for _ in range(BISECTIONS):
            middle = knob.between(lost, holds)
            candidate = self._candidate(((knob, middle),)) if middle is not None else None
            if candidate is None or middle is None:
                return
            self.stage.settle([candidate])
            if candidate.verdict is True:
                holds = middle
            else:
                lost = middle

    def _is_lost(self, knob: Knob, value: float) -> bool:
        candidate = self._known.get(((knob.name, knob.place, value),))
        return candidate is not None and candidate.verdict is False

    # ---- two knobs

    def _complements(self) -> None:
        """Pairs that by the first day of their parts lose nothing, of each two knobs the smallest, until one holds."""
        every = {slo.name for slo in self.base.setup.slos}
        parts = [candidate for candidate in self.tried() if candidate.saved]
        smallest: dict[frozenset[tuple[str, str]], Settings] = {}
        for one, other in sorted(combinations(parts, 2), key=lambda pair: pair[0].size + pair[1].size):
            if one.saved | other.saved >= every and not _exclusive(one.settings[0][0], other.settings[0][0]):
                smallest.setdefault(one.turned | other.turned, _in_order(one.settings[0], other.settings[0]))
        pairs = self._candidates(list(smallest.values())[:MOST_PAIRS_SETTLED])
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            self.stage.settle(pairs[start : start + PAIRS_AT_ONCE])
            for candidate in self.holding():
                self._draw_back(candidate)
                return

    def _pairs(self) -> None:
        anchors = [candidate.settings[0] for candidate in self.best_effort()][:ANCHORS]
        rungs = [(knob, value) for knob in self.knobs for ladder in knob.ladders for value in ladder]
        pairs = self._candidates(
            _in_order(anchor, rung) for anchor in anchors for rung in rungs if not _exclusive(anchor[0], rung[0])
        )
        self.stage.try_out(pairs, 1)
        self.stage.try_out(pairs, SCREENED)
        surviving = sorted((c for c in pairs if c.verdict is not False), key=lambda c: (c.badness, c.size))
        self.stage.settle(surviving[:MOST_PAIRS_SETTLED])
        for candidate in sorted(self.holding(), key=lambda c: c.size)[:REFINED]:
            self._draw_back(candidate)

    def _draw_back(self, candidate: Candidate) -> None:
        """Moves each part of a pair that holds towards today's value, rung by rung, while the pair holds."""
        moved = True
        while moved:
            moved = False
            for index, (knob, value) in enumerate(candidate.settings):
                nearer = self._nearer(knob, value)
                if nearer is None:
                    continue
                settings = tuple((k, nearer if at == index else v) for at, (k, v) in enumerate(candidate.settings))
                smaller = self._candidate(settings)
                if smaller is None:
                    continue
                self.stage.settle([smaller])
                if smaller.verdict is True:
                    candidate, moved = smaller, True

    @staticmethod
    def _nearer(knob: Knob, value: float) -> float | None:
        for ladder in knob.ladders:
            if value in ladder:
                index = ladder.index(value)
                return ladder[index - 1] if index else None
        return None


def coarse(ladder: tuple[float, ...]) -> tuple[float, ...]:
    """Its nearest, middle and farthest rung."""
    last = len(ladder) - 1
    return tuple(ladder[index] for index in sorted({0, (last + 1) // 2, last}))


def _exclusive(one: Knob, other: Knob) -> bool:
    """Whether the two cannot be turned together."""
    if (one.name, one.place) == (other.name, other.place):
        return True
    return bool(one.group) and (one.group, one.place) == (other.group, other.place)


def _in_order(one: tuple[Knob, float], other: tuple[Knob, float]) -> Settings:
    """Budgets first: they take retry annotations away, and what is turned afterwards must not bring them back."""
    return (other, one) if other[0].name == "retry budget" else (one, other)
