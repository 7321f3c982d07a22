"""One file a fault; the registry is in `chaos.faults.catalogue`."""
