"""The twin: forecasts a game day before it happens, scores the forecast after.

    observation ──► calibrate ──► parameters ─┐
    scenario ─────► setup (policy as read) ───┴─► model ──► record ──► quantities ──► forecast ──► score
                      └── changes ───────────────► model ─────────────────────────────► counterfactual

`model/` is the discrete-event model; it runs the objects of `mesh.behavior` that the proxy runs. `replicate` plays
it on all cores. `observation` and `results` are the data at both ends, which the rest of Gameday reads and writes.
"""
