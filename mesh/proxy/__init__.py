"""The data plane: one process beside each pod."""
