"""How many standard errors a 90 % interval reaches to either side, where days are too few to tell their own spread.

Student's t by degrees of freedom: the table where the series of `student_95` is coarse, the series beyond it.
"""

from __future__ import annotations

from sim.forecast.predict import student_95

TABLE = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86)
"""From one degree of freedom on."""


def t90(freedom: int) -> float:
    """The 95 % quantile of Student's t, for at least one degree of freedom."""
    return TABLE[freedom - 1] if freedom <= len(TABLE) else student_95(freedom)
