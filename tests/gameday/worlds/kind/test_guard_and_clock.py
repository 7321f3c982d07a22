from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gameday.worlds.kind.clock import best
from gameday.worlds.kind.guard import forbidden
from gameday.worlds.kind.names import run_label
from gameday.worlds.kind.record import Made, read_made

NEEDED = ("gameday", "linkerd", "load", "shop")
RUN = {"gameday.run": "one"}


def test_a_free_cluster_may_be_used() -> None:
    assert forbidden(NEEDED, {"default": {}, "kube-system": {}}, "one", ()) is None


def test_what_the_run_made_itself_is_its_own() -> None:
    assert forbidden(NEEDED, dict.fromkeys(NEEDED, RUN), "one", ()) is None


def test_another_runs_namespaces_are_never_touched_even_when_given() -> None:
    why = forbidden(NEEDED, {"gameday": RUN}, "two", ("gameday",))
    assert why is not None
    assert "gameday recover one" in why


def test_somebodys_namespace_is_named_with_what_to_say() -> None:
    why = forbidden(NEEDED, {"shop": {}, "linkerd": {"team": "mesh"}}, "one", ("shop",))
    assert why is not None
    assert "--allow-namespace linkerd" in why
    assert "--allow-namespace shop" not in why
    assert forbidden(NEEDED, {"shop": {}, "linkerd": {}}, "one", ("shop", "linkerd")) is None


@given(st.dictionaries(st.sampled_from([*NEEDED, "other"]), st.sampled_from([{}, RUN, {"gameday.run": "x"}])))
def test_a_run_starts_only_where_nothing_it_needs_is_anybody_elses(existing: dict[str, dict[str, str]]) -> None:
    free = all(existing.get(name, RUN).get("gameday.run") == "one" for name in NEEDED)
    assert (forbidden(NEEDED, existing, "one", ()) is None) is free


def test_of_several_answers_the_quickest_tells_the_offset() -> None:
    offset = best([(10.0, 10.5, 10.8), (20.0, 20.031, 20.002), (30.0, 30.2, 30.3)])
    assert offset.seconds == pytest.approx(0.030)
    assert offset.error == pytest.approx(0.001)
    assert not offset.too_far
    assert offset.correction == pytest.approx(0.030)


def test_an_offset_within_its_own_error_is_not_corrected_and_a_far_clock_is_refused() -> None:
    assert best([(10.0, 10.003, 10.004)]).correction == 0.0
    assert best([(10.0, 10.061, 10.002)]).too_far
    assert not best([(10.0, 10.061, 10.04)]).too_far, "it may be the way there"


@given(st.text(min_size=1, max_size=90))
def test_any_runs_name_becomes_a_label(name: str) -> None:
    label = run_label(name)
    assert len(label) <= 63
    assert all(c.isascii() and (c.isalnum() or c in "-.") for c in label)
    assert label == run_label(name)


def test_what_was_made_is_read_back(tmp_path: Path) -> None:
    assert read_made(tmp_path) is None
    made = Made(run="one", cluster="c", created=True, namespaces=["gameday"], mesh=True)
    made.write(tmp_path)
    assert read_made(tmp_path) == made
