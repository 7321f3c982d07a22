"""Handshakes take turns, so that a burst of them keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mesh.proxy.wire.handshakes import TURN_SECONDS, Turns, turns

STEP_SECONDS = TURN_SECONDS * 0.7


class Loop:
    """A loop of which only the next turn matters, and a clock that steps move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: deque[Callable[[], None]] = deque()
        self.turns = Turns(self.due.append, lambda: self.now)

    def turn(self) -> float:
        """Runs what is due by now; how long that took."""
        began = self.now
        for _ in range(len(self.due)):
            self.due.popleft()()
        return self.now - began


class Shaking:
    def __init__(self, loop: Loop, done: list[int], number: int, *, fails: bool = False) -> None:
        self.loop, self.done, self.number, self.fails = loop, done, number, fails

    def step(self) -> None:
        self.loop.now += STEP_SECONDS
        self.done.append(self.number)
        if self.fails:
            raise RuntimeError


def test_a_lone_handshake_is_served_at_once() -> None:
    loop, done = Loop(), list[int]()
    assert loop.turns.take(Shaking(loop, done, 0))
    assert done == [0]


def test_a_burst_takes_a_millisecond_of_each_turn_and_goes_in_the_order_of_its_coming() -> None:
    loop, done = Loop(), list[int]()
    at_once = [loop.turns.take(Shaking(loop, done, number)) for number in range(100)]
    assert at_once[:3] == [True, True, False]
    assert loop.now < TURN_SECONDS + STEP_SECONDS
    while loop.due:
        assert loop.turn() < TURN_SECONDS + STEP_SECONDS
    assert done == list(range(100))
    assert len(loop.turns) == 0


def test_who_comes_while_others_wait_goes_behind_them() -> None:
    loop, done = Loop(), list[int]()
    for number in range(5):
        loop.turns.take(Shaking(loop, done, number))
    loop.turn()
    assert not loop.turns.take(Shaking(loop, done, 9))
    while loop.due:
        loop.turn()
    assert done == [0, 1, 2, 3, 4, 9]


def test_time_spent_in_one_turn_does_not_count_in_the_next() -> None:
    loop, done = Loop(), list[int]()
    for number in range(10):
        assert loop.turns.take(Shaking(loop, done, number))
        loop.turn()
    assert not loop.due


def test_one_that_raises_does_not_hold_up_the_line() -> None:
    loop, done = Loop(), list[int]()
    for number in range(6):
        loop.turns.take(Shaking(loop, done, number, fails=number == 3))
    raised = 0
    while loop.due:
        try:
            loop.turn()
        except RuntimeError:
            raised += 1
    assert (done, raised) == (list(range(6)), 1)


def test_each_loop_has_a_line_of_its_own() -> None:
    async def line() -> Turns:
        assert turns() is turns()
        return turns()

    assert asyncio.run(line()) is not asyncio.run(line())
