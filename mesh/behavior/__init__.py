"""What the mesh decides, apart from how it does it.

Pure Python: no sockets, no clock reads, no randomness of its own. Time (`now`, seconds on any monotonic clock) and a
`random.Random` are arguments. The proxy runs these objects on its event loop's clock, the twin runs the same objects on
SimPy's. Nothing here may import anything but `mesh.api` and the standard library (enforced by import-linter).
"""
