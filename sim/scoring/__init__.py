"""How good forecasts were, beside what else could have been said, and what they teach."""
