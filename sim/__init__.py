"""The twin: forecasts a game day before it happens, scores the forecast after.

    observation ──► calibration ──► parameters ─┐
    scenario ─────► setup (policy as read) ─────┴─► model ──► replication ──► forecast ──► scoring
                      └── knobs ──────────────────► model ──► replication ──► explain

`model/` is the discrete-event model; it runs the objects of `mesh.behavior` that the proxy runs. `replication/` plays
it on all cores and reads quantities from its records. `sweep/` plays one trigger many times, for the phase map.
`observation` and `results` are the data at both ends, which the rest of Gameday reads and writes.
"""
