"""From a baseline window to posteriors of what the model needs."""
