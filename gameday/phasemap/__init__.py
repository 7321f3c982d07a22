"""`gameday phase-map`: options, the map on a terminal, the files."""
