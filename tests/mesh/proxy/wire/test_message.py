"""Heads: a copy says the same and shares nothing that can change."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from mesh.proxy.wire.message import RequestHead

OTHER: dict[type, Any] = {str: "POST", bytes: b"x", list: [(b"x-a", b"1")], type(None): 3}


def fields(head: RequestHead) -> dict[str, Any]:
    """Not by `__slots__`, which compiled classes do not have."""
    names = (name for name in dir(head) if not name.startswith("_"))
    return {name: getattr(head, name) for name in names if not callable(getattr(head, name))}


def test_a_copied_head_says_the_same_in_every_field_and_has_headers_of_its_own() -> None:
    head = RequestHead()
    for name, value in fields(head).items():
        with suppress(AttributeError):  # properties
            setattr(head, name, not value if isinstance(value, bool) else OTHER[type(value)])
    copied = head.copy()
    assert fields(copied) == fields(head)
    assert head.expect_continue, "every field was changed"
    copied.headers.append((b"x-b", b"2"))
    assert head.headers == [(b"x-a", b"1")]
