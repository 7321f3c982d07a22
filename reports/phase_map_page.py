"""stub"""

from sim.phase_map import PhaseMap


def page(made: PhaseMap) -> str:
    return ""
