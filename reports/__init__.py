"""SLO arithmetic and everything a run leaves to read."""
