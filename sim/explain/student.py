"""Student's t: how wide a 90 % interval is that rests on a few days."""

from __future__ import annotations

NORMAL = 1.645
T90 = (
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812,
    1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729,
)  # fmt: skip


def t90(freedom: int) -> float:
    """Standard errors to either side, by degrees of freedom; 1 at least."""
    return T90[freedom - 1] if freedom <= len(T90) else NORMAL
