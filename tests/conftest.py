"""Settings that hold for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from mesh import native

native.check()  # tests of what was compiled from other sources would say nothing

# No deadline for one example: a busy machine is no bug. In CI the examples are the same each time, so that a red run
# means that a change broke something; on a developer's machine they are new each time, and find what nobody thought of.
settings.register_profile("gameday", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "gameday")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts, here and in what is started, and afterwards it does what it did before.

    A shell that starts tests in its background has them ignore it, and so do commands once they were interrupted.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
