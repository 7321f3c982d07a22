"""How good the forecasts are: suites of real runs, their scores, the acceptance lines, the track record."""
