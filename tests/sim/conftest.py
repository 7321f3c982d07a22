"""Lies here so that pytest puts this folder on the path, for `sim_builders` and `twin_traces`."""
