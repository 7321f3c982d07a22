"""`gameday mesh check`: is the mesh healthy, and where it is not, why, and what to do.

gather (asks the cluster, once) ─► Facts ─► checks (pure functions, by category) ─► results ─► text, JSON, exit code
"""
