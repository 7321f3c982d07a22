"""Regular expressions of routes, from users' manifests against paths that strangers send, in linear time.

Linkerd's run in linear time (Rust's `regex`); Python's backtrack, and one such as `(a+)+b` can hold the event loop for
minutes. So an expression is read with Python's own parser and then takes one of two ways:

    backtracking costs no more than a few passes over any text, and that shows from its form ─► `re`
    anything else ─► an automaton, made state by state as texts ask for it (`_Automaton`)

Nearly all that people write (`/users/[0-9]+`, `/api/v1/.*`) goes the first way. What linear engines do not have
(backreferences, look-around, possessive repeats) is refused, as Linkerd does. An expression always has to match the
whole text.

Tried and rejected: refusing what looks dangerous and leaving the rest to `re`. The rules for nested repeats found the
famous offenders, and a generator of random expressions found one that still hung in every twenty-fifth. Also rejected:
the `re2` package, a native dependency in every proxy for a rare need.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

MAX_TEXT = 65_536
"""No head is longer."""
MAX_PATTERN = 1024
"""The Gateway API's bound for a path; header values may be longer there."""
MAX_STATES = 4096
"""Places in an expression, counted repeats written out: `([a-z]{1,60}-){1,60}` is just too many."""
MAX_CHOICES = 16
"""Ways through an expression that `re` may have to try at one place."""
_MAX_REMEMBERED = 8192
"""Transitions that an automaton keeps; then it forgets them all and starts over."""

_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
_CHARACTERS = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN)
_BEGINNINGS = (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING)
_ENDS = (_constants.AT_END, _constants.AT_END_STRING)


def compile_whole(pattern: str) -> Callable[[str], bool]:
    """A function that says whether a text matches the whole of `pattern`.

    Raises:
        ValueError: `hazard` says why.
    """
    tree = _parsed(pattern)
    if _Form().cheap(tree):
        fullmatch = re.compile(pattern).fullmatch
        return lambda text: len(text) <= MAX_TEXT and fullmatch(text) is not None
    return _Automaton(tree).matches


def hazard(pattern: str) -> str | None:
    """Why `pattern` cannot be used, or None."""
    try:
        tree = _parsed(pattern)
        if not _Form().cheap(tree):
            _Automaton(tree)
    except ValueError as error:
        return str(error)
    return None


class _Refused(ValueError):
    pass


def _parsed(pattern: str) -> Any:
    if len(pattern) > MAX_PATTERN:
        raise _Refused(f"an expression of more than {MAX_PATTERN} characters")
    try:
        re.compile(pattern)
        tree = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise _Refused(f"not a regular expression: {error}") from None
    if tree.state.flags & re.MULTILINE:
        raise _Refused("(?m) is not supported")
    _check(tree)
    return tree


def _check(tree: Any) -> None:
    """Raises _Refused for what no automaton can do."""
    for kind, value in tree:
        if kind in _REPEATS:
            _check(value[2])
        elif kind is _constants.SUBPATTERN:
            _check(value[-1])
        elif kind is _constants.BRANCH:
            for branch in value[1]:
                _check(branch)
        elif kind is _constants.AT:
            if value not in _BEGINNINGS and value not in _ENDS:
                raise _Refused("word boundaries (\\b, \\B) are not supported")
        elif kind not in _CHARACTERS:
            raise _Refused("backreferences, look-around and possessive repeats are not supported")


# ---- what `re` may run ----------------------------------------------------------------------------------------------


class _Form:
    """Whether the form of an expression bounds what backtracking costs.

    Repeats stand at the top, or in alternatives and groups that are not repeated, and are of single characters. One
    after which nothing can begin with its own characters never gives back what it took: a shorter run fails at the next
    character. One that can (`.*x`) is tried at each of its lengths, and so must be the last unbounded one. Options and
    alternatives multiply where they begin like what may stand in their place, and are counted.
    """

    def __init__(self) -> None:
        self._choices = 1
        self._open = False
        """Whether a repeat that may give back was seen."""

    def cheap(self, tree: Any) -> bool:
        return not tree.state.flags & re.IGNORECASE and self._cheap(list(tree), frozenset())

    def _cheap(self, items: list[Any], following: frozenset[int]) -> bool:
        """`following`: characters that may come after `items`."""
        for index, (kind, value) in enumerate(items):
            rest = items[index + 1 :]
            after = _first(rest) | (following if _nullable(rest) else frozenset())
            if kind in _REPEATS:
                least, most, body = value
                if most == 1:
                    if _first(body) & after:
                        self._choices *= 2
                    if not self._cheap(list(body), after):
                        return False
                    continue
                if len(body) != 1 or body[0][0] not in _CHARACTERS:
                    return False
                gives_back = bool(_characters(body[0]) & after)
                if most is _constants.MAXREPEAT:
                    if self._open:
                        return False
                    self._open = gives_back
                elif gives_back:
                    self._choices *= most - least + 1
            elif kind is _constants.SUBPATTERN:
                if value[1] or value[2] or not self._cheap(list(value[-1]), after):
                    return False
            elif kind is _constants.BRANCH:
                firsts = [_first(branch) | (after if _nullable(branch) else frozenset()) for branch in value[1]]
                if sum(map(len, firsts)) != len(frozenset().union(*firsts)):
                    self._choices *= len(firsts)
                was_open, now_open = self._open, False
                for branch in value[1]:
                    self._open = was_open
                    if not self._cheap(list(branch), after):
                        return False
                    now_open |= self._open
                self._open = now_open
            if self._choices > MAX_CHOICES:
                return False
        return True


_ALPHABET = frozenset(range(129))
"""Characters as sets of ASCII codes; 128 stands for all others."""


def _nullable(tree: Any) -> bool:
    """Whether `tree` can match nothing."""
    for kind, value in tree:
        if kind in _REPEATS:
            if value[0] > 0 and not _nullable(value[2]):
                return False
        elif kind is _constants.SUBPATTERN:
            if not _nullable(value[-1]):
                return False
        elif kind is _constants.BRANCH:
            if not any(_nullable(branch) for branch in value[1]):
                return False
        elif kind is not _constants.AT:
            return False
    return True


def _first(tree: Any) -> frozenset[int]:
    """Characters that a match of `tree` can begin with."""
    found: frozenset[int] = frozenset()
    for item in tree:
        kind, value = item
        if kind in _REPEATS:
            found |= _first(value[2])
        elif kind is _constants.SUBPATTERN:
            found |= _first(value[-1])
        elif kind is _constants.BRANCH:
            found = found.union(*(_first(branch) for branch in value[1]))
        elif kind is not _constants.AT:
            found |= _characters(item)
        if not _nullable([item]):
            break
    return found


def _characters(item: Any) -> frozenset[int]:
    """Those that an item of a single character accepts, as far as the small alphabet can say: never too few."""
    accepts = _acceptance(item, 0)
    # Of all other characters some may be accepted and some not, unless the item names those that are.
    named = item[0] is _constants.LITERAL and item[1] < 128
    return frozenset(code for code in range(128) if accepts(chr(code))) | (frozenset() if named else {128})


# ---- the automaton --------------------------------------------------------------------------------------------------


class _State:
    """A set of places that the expression may be at."""

    __slots__ = ("accepting", "next", "places")

    def __init__(self, places: frozenset[int], accepting: bool) -> None:
        self.places = places
        self.accepting = accepting
        self.next: dict[str, _State] = {}


class _Automaton:
    """An expression as places and the ways between them (Thompson), determined as texts come (as RE2 does)."""

    def __init__(self, tree: Any) -> None:
        self._accepts: list[Callable[[str], bool] | None] = []
        self._ways: list[tuple[int, ...]] = []
        """Of a place that accepts a character: where it leads; of any other: where one is as well."""
        self._kind: list[str] = []
        """`""`, or at which end of the text its ways are open: `begin`, `end`."""
        final = self._place()
        self._final = final
        self._first = self._sequence(tree, final, tree.state.flags)
        self._forget()

    def matches(self, text: str) -> bool:
        if len(text) > MAX_TEXT:
            return False
        state = self._start
        for character in text:
            following = state.next.get(character)
            if following is None:
                following = self._step(state, character)
            state = following
            if not state.places:
                return False
        return state.accepting

    # ---- running

    def _forget(self) -> None:
        self._known: dict[frozenset[int], _State] = {}
        self._remembered = 0
        self._start = self._state(self._reached((self._first,), "begin"), "begin")

    def _step(self, state: _State, character: str) -> _State:
        accepted = (
            way
            for place in state.places
            if (accepts := self._accepts[place]) is not None and accepts(character)
            for way in self._ways[place]
        )
        places = self._reached(accepted, "")
        if self._remembered >= _MAX_REMEMBERED:
            self._forget()
        following = self._state(places, "")
        self._remembered += 1
        state.next[character] = following
        return following

    def _state(self, places: frozenset[int], where: str) -> _State:
        # The start alone knows that the text has not begun; a later state of the same places is another.
        state = self._known.get(places) if not where else None
        if state is None:
            state = _State(places, self._final in self._reached(places, "end", where))
            if not where:
                self._known[places] = state
        return state

    def _reached(self, places: Iterable[int], *where: str) -> frozenset[int]:
        """All places that `places` lead to without a character."""
        found: set[int] = set()
        left = list(places)
        while left:
            place = left.pop()
            if place in found:
                continue
            found.add(place)
            kind = self._kind[place]
            if self._accepts[place] is None and (not kind or kind in where):
                left.extend(self._ways[place])
        return frozenset(found)

    # ---- building, from the end to the beginning

    def _place(self, ways: tuple[int, ...] = (), accepts: Callable[[str], bool] | None = None, kind: str = "") -> int:
        if len(self._ways) >= MAX_STATES:
            raise _Refused("too large; repeats such as {1,100} inside others multiply")
        self._ways.append(ways)
        self._accepts.append(accepts)
        self._kind.append(kind)
        return len(self._ways) - 1

    def _sequence(self, tree: Any, following: int, flags: int) -> int:
        for item in reversed(list(tree)):
            following = self._item(item, following, flags)
        return following

    def _item(self, item: Any, following: int, flags: int) -> int:
        kind, value = item
        if kind in _REPEATS:
            return self._repeat(value[0], value[1], value[2], following, flags)
        if kind is _constants.SUBPATTERN:
            return self._sequence(value[-1], following, (flags | value[1]) & ~value[2])
        if kind is _constants.BRANCH:
            return self._place(tuple(self._sequence(branch, following, flags) for branch in value[1]))
        if kind is _constants.AT:
            return self._place((following,), kind="begin" if value in _BEGINNINGS else "end")
        return self._place((following,), _acceptance(item, flags))

    def _repeat(self, least: int, most: Any, body: Any, following: int, flags: int) -> int:
        if most is _constants.MAXREPEAT:
            loop = self._place()
            self._ways[loop] = (self._sequence(body, loop, flags), following)
            start = loop
        else:
            start = following
            for _ in range(most - least):
                start = self._place((self._sequence(body, start, flags), following))
        for _ in range(least):
            start = self._sequence(body, start, flags)
        return start


# ---- single characters ----------------------------------------------------------------------------------------------


def _acceptance(item: Any, flags: int) -> Callable[[str], bool]:
    """Whether an item of a single character accepts one."""
    exact = _exact(item, flags)
    if not flags & re.IGNORECASE or item[0] is _constants.NOT_LITERAL or _negated(item):
        return exact
    return lambda character: exact(character) or exact(character.lower()) or exact(character.upper())


def _exact(item: Any, flags: int) -> Callable[[str], bool]:
    kind, value = item
    if kind is _constants.LITERAL:
        return chr(value).__eq__
    if kind is _constants.NOT_LITERAL:
        if flags & re.IGNORECASE:
            excluded = chr(value).lower()
            return lambda character: character.lower() != excluded
        return chr(value).__ne__
    if kind is _constants.ANY:
        return (lambda character: True) if flags & re.DOTALL else "\n".__ne__
    tests = [_member(member, flags) for member in value if member[0] is not _constants.NEGATE]
    if not _negated(item):
        return lambda character: any(test(character) for test in tests)
    if not flags & re.IGNORECASE:
        return lambda character: not any(test(character) for test in tests)
    return lambda character: (
        not any(test(form) for form in {character, character.lower(), character.upper()} for test in tests)
    )


def _negated(item: Any) -> bool:
    return item[0] is _constants.IN and any(kind is _constants.NEGATE for kind, _ in item[1])


def _member(member: Any, flags: int) -> Callable[[str], bool]:
    kind, value = member
    if kind is _constants.LITERAL:
        return chr(value).__eq__
    if kind is _constants.RANGE:
        low, high = value
        return lambda character: low <= ord(character) <= high
    return _category(str(value), bool(flags & re.ASCII))


@lru_cache(32)
def _category(name: str, ascii_only: bool) -> Callable[[str], bool]:
    letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[name.rsplit("_", 1)[-1]]
    pattern = "\\" + (letter.upper() if "_NOT_" in name else letter)
    fullmatch = re.compile(pattern, re.ASCII if ascii_only else 0).fullmatch
    return lambda character: fullmatch(character) is not None
