from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import chaos.ledger
from chaos.ledger import Ledger
from chaos.requests import Step, StepFailed, WorldGone

NAMES = st.sampled_from(["a", "b", "c"])


def test_the_rollback_is_on_disk_before_anything_is_applied(tmp_path: Path) -> None:
    Ledger(tmp_path, create=True).begin("f", "pod-kill", "text", [Step("POST", "http://127.0.0.1:1/up", "{}")], 5.0)
    record = Ledger(tmp_path).records()[0]
    assert record.state == "injecting"
    assert record.rollback == (Step("POST", "http://127.0.0.1:1/up", "{}"),)
    assert record.deadline == pytest.approx(time.time() + 5.0, abs=1.0)


def test_a_fault_that_may_or_may_not_have_gone_in_is_reverted(tmp_path: Path, target) -> None:
    ledger = Ledger(tmp_path, create=True)
    ledger.begin("f", "k", "t", [Step("DELETE", f"{target.url}/faults")], 5.0)
    assert ledger.revert_all() == ["f"]
    assert target.asked == [("DELETE", "/faults", "")]
    assert not ledger.injected("f"), "whoever injects learns that it was reverted meanwhile"
    assert ledger.records()[0].state == "reverted"


def test_a_revert_that_fails_is_kept_and_can_be_tried_again(tmp_path: Path, target) -> None:
    ledger = Ledger(tmp_path, create=True)
    ledger.begin("f", "k", "t", [Step("POST", f"{target.url}/up")], 5.0)
    ledger.injected("f")
    target.status = 500
    with pytest.raises(StepFailed, match="500"):
        ledger.revert("f")
    assert ledger.records()[0].state == "failed"
    target.status = 200
    assert ledger.revert("f")
    assert not ledger.revert("f"), "nothing is left to undo"


def test_a_disk_that_cannot_be_written_keeps_no_fault_in_place(tmp_path: Path, target) -> None:
    ledger = Ledger(tmp_path, create=True)
    for name in ("f", "g"):
        ledger.begin(name, "k", "t", [Step("DELETE", f"{target.url}/{name}")], 5.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        assert ledger.revert_all() == ["f", "g"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert target.asked == [("DELETE", "/f", ""), ("DELETE", "/g", "")]
    assert [record.state for record in ledger.records()] == ["injecting", "injecting"]
    assert ledger.revert_all() == ["f", "g"], "undone once more, now with a note of it"
    assert [record.state for record in ledger.records()] == ["reverted", "reverted"]


def test_a_world_that_is_gone_has_no_faults_left(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, create=True)
    ledger.begin("f", "k", "t", [Step("POST", f"unix:{tmp_path}/nobody:/up")], 5.0)
    assert ledger.revert("f")
    assert ledger.records()[0].state == "reverted"


def test_a_killed_pod_among_the_targets_does_not_keep_the_others_from_being_mended(tmp_path: Path, target) -> None:
    ledger = Ledger(tmp_path, create=True)
    ledger.begin("f", "k", "t", [Step("DELETE", "http://127.0.0.1:1/"), Step("DELETE", f"{target.url}/faults")], 5.0)
    ledger.injected("f")
    assert ledger.revert("f")
    assert target.asked == [("DELETE", "/faults", "")]


def test_a_run_that_is_over_takes_no_faults(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, create=True)
    ledger.close_run()
    with pytest.raises(ValueError, match="too late"):
        ledger.begin("f", "k", "t", [], 5.0)


def test_there_is_no_ledger_where_no_run_was(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Ledger(tmp_path)


class AnyOrder(RuleBasedStateMachine):
    """Two processes with the same ledger do what they like; the world answers, refuses, or is gone."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name)
        self._ledgers = [Ledger(path, create=True), Ledger(path)]
        self._in_world: dict[str, bool] = {}
        self._answer: type[StepFailed] | None = None
        self._was = chaos.ledger.perform_all
        chaos.ledger.perform_all = self._perform  # type: ignore[assignment]

    def teardown(self) -> None:
        chaos.ledger.perform_all = self._was
        for ledger in self._ledgers:
            ledger.close()
        self._folder.cleanup()

    def _perform(self, steps: tuple[Step, ...]) -> None:
        if self._answer is not None:
            if self._answer is WorldGone:
                self._in_world = {}
            raise self._answer("no")
        for step in steps:
            self._in_world.pop(step.url, None)

    @rule(answer=st.sampled_from([None, StepFailed, WorldGone]))
    def world_answers(self, answer: type[StepFailed] | None) -> None:
        self._answer = answer

    @rule(name=NAMES, who=st.integers(0, 1), dies=st.booleans())
    def inject(self, name: str, who: int, dies: bool) -> None:
        ledger = self._ledgers[who]
        if any(record.name == name and record.open for record in ledger.records()):
            with pytest.raises(ValueError, match="injected already"):
                ledger.begin(name, "k", "t", [], 1.0)
            return
        ledger.begin(name, "k", "t", [Step("POST", name)], 1.0)
        self._in_world[name] = True
        if not dies:
            assert ledger.injected(name)

    @rule(name=NAMES, who=st.integers(0, 1))
    def revert(self, name: str, who: int) -> None:
        try:
            self._ledgers[who].revert(name)
        except StepFailed:
            assert self._answer is StepFailed

    @rule(who=st.integers(0, 1))
    def revert_all(self, who: int) -> None:
        self._ledgers[who].revert_all()
        if self._answer is not StepFailed:
            assert not self._in_world

    @invariant()
    def what_is_in_the_world_is_open_in_the_ledger(self) -> None:
        open_now = {record.name for record in self._ledgers[0].records() if record.open}
        assert set(self._in_world) <= open_now

    @invariant()
    def times_say_what_states_say(self) -> None:
        for record in self._ledgers[1].records():
            assert (record.reverted_at is not None) == (record.state == "reverted")
            assert record.state != "injected" or record.injected_at is not None
            assert record.open == (record in self._ledgers[1].expired(record.deadline))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
