"""One day played with one draw of the posterior, and read in the quantities that a real run is read in."""
