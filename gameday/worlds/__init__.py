"""Where a game day takes place. Each world is a folder here and a line in `gameday.worlds.catalogue`."""
