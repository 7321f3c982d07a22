"""The proxies that are compared, one file each: a place in a chain → the command that runs it there.

All do the same work: one worker thread, keep-alive on every leg, no access log; else their defaults. Ours has all on
that a mesh has on (`benchmarks.mesh.FEATURES`); its control plane runs beside it and is not counted.
"""
