"""The game day itself: the command line, the worlds, the phases of a run, and the run store."""

__version__ = "0.1.0"
