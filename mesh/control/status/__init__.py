"""What became of a route or policy, written into its status: decided in `verdicts.py`, written by `writer.py`."""
