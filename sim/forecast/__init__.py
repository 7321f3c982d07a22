"""From replications to prediction intervals."""
