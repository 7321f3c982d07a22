"""The embedded world: control plane, proxies and apps as processes on addresses of their own in 127.0.0.0/8.

world.py        what the runner holds: starts the supervisor, reads world.json
supervisor.py   a process of its own: starts, watches, restarts, ends everything
wire.py         the relay before a pod that a network-throttle will hit
layout.py       which processes there are, with their command lines
addresses.py    a range of addresses that is this run's alone
registry.py     the manifests that the control plane reads
recover.py      cleans up after a run whose runner died
"""
