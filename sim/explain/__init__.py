"""What would have saved the SLO, at what price, and why it burned."""
