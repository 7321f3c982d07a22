"""Regular expressions of routes, from users' manifests against paths that strangers send.

Linkerd's run in linear time (Rust's `regex`); Python's backtrack, and one such as `(a+)+b` can hold the event loop for
minutes. Two bounds keep that out. `hazard` names what such an expression does wrong, and the control plane refuses
it before it reaches a proxy; and the proxy matches no text longer than what its expression can take within some
milliseconds. An expression always has to match the whole text, as in Linkerd.

`hazard` reads the expression's parse tree and refuses
- what linear engines do not have: backreferences, look-around, conditionals;
- an unbounded repeat within an unbounded repeat, unless the inner one must stop before the outer one can go on:
  `(/[^/]+)*` passes, `(a+)+`, `(.*,)*` and `(\\w+\\s?)*` do not;
- more than `MAX_FREE_REPEATS` free repeats: those that may go on where what follows could begin, such as
  both of `.*x.*y`.

Rejected: an automaton of our own (much code where manifests say `/users/[0-9]+`), and the `re2` package (a native
dependency in the proxy for the same).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

MAX_TEXT = 8192
MAX_TEXT_OF_QUADRATIC = 512
"""For expressions with two free repeats, whose cost grows with the square of the text (about 2 ms at this length)."""
MAX_PATTERN = 1024
"""The Gateway API's bound for a path; header values may be longer there."""
MAX_FREE_REPEATS = 2
FEW = 8
"""A repeat bounded by more counts as unbounded."""

_ALPHABET = frozenset(range(129))
"""Characters as sets of ASCII codes; 128 stands for all others."""


def compile_whole(pattern: str) -> Callable[[str], bool]:
    """A function that says whether a text matches the whole of `pattern`. Raises re.error."""
    fullmatch = re.compile(pattern).fullmatch
    try:
        free = _Reading(look_ahead=True).free_repeats(_parser.parse(pattern), frozenset(), repeated=False)
    except _Hazard:
        free = MAX_FREE_REPEATS
    longest = MAX_TEXT if free < MAX_FREE_REPEATS else MAX_TEXT_OF_QUADRATIC
    return lambda text: len(text) <= longest and fullmatch(text) is not None


def hazard(pattern: str) -> str | None:
    """Why `pattern` cannot be used, or None."""
    if len(pattern) > MAX_PATTERN:
        return f"an expression of more than {MAX_PATTERN} characters"
    try:
        re.compile(pattern)
        free = _Reading(look_ahead=False).free_repeats(_parser.parse(pattern), frozenset(), repeated=False)
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a regular expression: {error}"
    except _Hazard as error:
        return str(error)
    if free > MAX_FREE_REPEATS:
        return f"more than {MAX_FREE_REPEATS} repeats (* or +) that can run into what follows them"
    return None


class _Hazard(Exception):
    pass


_AMBIGUOUS = "a repeat (* or +) inside another that can match the same text in several ways"


_UNSUPPORTED = (_constants.GROUPREF, _constants.GROUPREF_EXISTS, _constants.ASSERT, _constants.ASSERT_NOT)


class _Reading:
    """One reading of a parse tree."""

    def __init__(self, *, look_ahead: bool) -> None:
        """`look_ahead`: as the control plane makes of a profile's `all` and `not`; users may not write it."""
        self._look_ahead = look_ahead

    def free_repeats(self, tree: Any, following: frozenset[int], *, repeated: bool) -> int:
        """How many free repeats `tree` has. `following`: characters that may come after it; `repeated`: it stands in an
        unbounded repeat. Raises _Hazard."""
        items = list(tree)
        free = 0
        for index, (kind, value) in enumerate(items):
            rest = items[index + 1 :]
            after = _first(rest) | (following if _nullable(rest) else frozenset())
            if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
                least, most, body = value
                if most > 1 and _nullable(body):
                    raise _Hazard(_AMBIGUOUS)
                if most <= FEW or least == most:
                    free += most * self.free_repeats(
                        body, after | (_first(body) if most > 1 else frozenset()), repeated=repeated
                    )
                    continue
                if _all(body) & after:
                    if repeated:
                        raise _Hazard(_AMBIGUOUS)
                    free += 1
                self.free_repeats(body, after | _first(body), repeated=True)
            elif kind is _constants.SUBPATTERN:
                free += self.free_repeats(value[-1], after, repeated=repeated)
            elif kind is _constants.BRANCH:
                seen: frozenset[int] = frozenset()
                most_free = 0
                for branch in value[1]:
                    first = _first(branch)
                    if repeated and first & seen:
                        raise _Hazard("alternatives inside a repeat (* or +) that begin alike")
                    seen |= first
                    most_free = max(most_free, self.free_repeats(branch, after, repeated=repeated))
                free += most_free
            elif kind in (_constants.ASSERT, _constants.ASSERT_NOT) and self._look_ahead:
                free += self.free_repeats(value[1], frozenset(), repeated=repeated)
            elif kind in _UNSUPPORTED:
                raise _Hazard("backreferences and look-around are not supported")
        return free


def _nullable(tree: Any) -> bool:
    """Whether `tree` can match nothing."""
    for kind, value in tree:
        if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
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
        found |= _characters(item, _first)
        if not _nullable([item]):
            break
    return found


def _all(tree: Any) -> frozenset[int]:
    """Characters that can occur in a match of `tree`."""
    found: frozenset[int] = frozenset()
    for item in tree:
        found |= _characters(item, _all)
    return found


def _characters(item: Any, inside: Callable[[Any], frozenset[int]]) -> frozenset[int]:
    kind, value = item
    if kind is _constants.LITERAL:
        return _bit(value)
    if kind is _constants.NOT_LITERAL:
        return _ALPHABET - _bit(value) if value < 128 else _ALPHABET  # 128 may be inside and outside at once
    if kind is _constants.ANY:
        return _ALPHABET - {ord("\n")}
    if kind is _constants.IN:
        return _class(value)
    if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
        return inside(value[2])
    if kind is _constants.SUBPATTERN:
        return inside(value[-1])
    if kind is _constants.BRANCH:
        return frozenset().union(*(inside(branch) for branch in value[1]))
    if kind is _constants.AT:
        return frozenset()
    return _ALPHABET


def _bit(code: int) -> frozenset[int]:
    return frozenset({min(code, 128)})


def _class(members: Any) -> frozenset[int]:
    found: set[int] = set()
    negated = False
    for kind, value in members:
        if kind is _constants.NEGATE:
            negated = True
        elif kind is _constants.LITERAL:
            found |= _bit(value)
        elif kind is _constants.RANGE:
            found |= {min(code, 128) for code in range(value[0], min(value[1], 128) + 1)} or {128}
        else:
            found |= _category(str(value))
    return (_ALPHABET - found) | {128} if negated else frozenset(found)


@lru_cache(16)
def _category(name: str) -> frozenset[int]:
    letter = {"DIGIT": "d", "SPACE": "s", "WORD": "w"}[name.rsplit("_", 1)[-1]]
    matches = re.compile("\\" + (letter.upper() if "_NOT_" in name else letter)).fullmatch
    return frozenset(code for code in range(128) if matches(chr(code))) | {128}
