"""Expressions in linear time: `re` as the oracle of what matches, and what `re` alone cannot do in time."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mesh.behavior.regexes import MAX_TEXT, compile_whole, hazard

PATTERNS = st.recursive(
    st.sampled_from(["a", "b", "[ab]", ".", "a?", "[^a]", "[^/]+", "/", ".*", r"\d", r"\w", "(?i:a)", "^", "$"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "{2,4}", "{2}", "?", "*?"])).map(lambda p: f"(?:{p[0]}){p[1]}"),
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(pattern=PATTERNS, texts=st.lists(st.text("abA/1\n", max_size=8), min_size=1, max_size=8))
def test_what_matches_is_what_matches_in_pythons_re(pattern: str, texts: list[str]) -> None:
    assume(hazard(pattern) is None)
    matches = compile_whole(pattern)
    for text in texts:
        if not ("$" in pattern and text.endswith("\n")):  # there Python's `$` is looser than RE2's
            assert matches(text) == (re.fullmatch(pattern, text) is not None), (pattern, text)


@settings(max_examples=300, deadline=None)
@given(pattern=PATTERNS)
def test_no_expression_that_is_taken_backtracks_long(pattern: str) -> None:
    """A hang is the failure: on such texts the offenders need 2**100 steps."""
    assume(hazard(pattern) is None)
    matches = compile_whole(pattern)
    for text in ("a" * 200 + "!", "ab" * 100 + "!", "/a" * 100 + "\n"):
        matches(text)


@pytest.mark.parametrize(
    ("pattern", "yes"),
    [
        ("(a+)+", "a"),
        ("(a*)*", "a"),
        ("(a|a?)+", "a"),
        ("(.*,)*", "x,"),
        (r"(\w+\s?)*", "w "),
        ("(a?){30}a{30}", "a" * 30),
        ("(x+x+)+y", "xxy"),
        (".*.*.*x", "x"),
        ("(/[^/]+)*", "/a/b"),
    ],
)
def test_the_famous_offenders_are_matched_without_backtracking(pattern: str, yes: str) -> None:
    matches = compile_whole(pattern)
    assert matches(yes)
    assert not matches(yes * 2_000 + "\n/")


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "(?!a)b", "(?<=a)b", "a*+", r"\ba", "(?m)a"])
def test_what_linear_engines_lack_is_refused(pattern: str) -> None:
    assert "not supported" in (hazard(pattern) or "")
    with pytest.raises(ValueError, match="not supported"):
        compile_whole(pattern)


@pytest.mark.parametrize("pattern", ["[", "(", "*a", "a{2,1}", "a" * 1025, "(([a-z]{1,60}-){1,60}x){1,60}"])
def test_what_is_no_expression_or_too_large_is_refused(pattern: str) -> None:
    assert hazard(pattern) is not None


@pytest.mark.parametrize(
    "pattern",
    [
        "/users/[0-9]+",
        "/u/[^/]+/o/[^/]+/i/[^/]+",
        "/api/v[0-9]/.*",
        r"(\d+\.)*\d+",
        "(?i)/cart|/basket",
        "[0-9a-f]{32}",
    ],
)
def test_what_people_write_is_taken(pattern: str) -> None:
    assert hazard(pattern) is None


def test_case_is_ignored_where_the_expression_says_so() -> None:
    matches = compile_whole("(?i)/cart/[a-c]+|[^x]")
    assert [matches(text) for text in ("/CART/aBc", "/Cart/d", "X", "y")] == [True, False, False, True]


def test_many_different_characters_do_not_grow_an_automaton_for_ever() -> None:
    matches = compile_whole("(?i)(.|..)*x")
    for start in range(0, 60_000, 100):
        assert matches("".join(map(chr, range(0x100 + start % 40_000, 0x100 + start % 40_000 + 100))) + "x")


def test_a_text_longer_than_any_head_matches_nothing() -> None:
    for pattern in ("a*", "(a|b)*"):
        assert compile_whole(pattern)("a" * MAX_TEXT)
        assert not compile_whole(pattern)("a" * (MAX_TEXT + 1))
