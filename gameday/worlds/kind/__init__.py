"""A game day on Kubernetes: a kind cluster of its own, or any cluster that a context names.

world.py        what the runner holds: brings everything up in order, takes it down
cluster.py      kind and docker as commands
guard.py        which namespaces a run may touch
access.py       the runner's way to the API server, from the files in the run's folder
names.py        namespaces, labels, ports
mesh.py         the mesh installed with the scenario's identity lifetimes
manifests.py    application, agent, reaper and ledger as Kubernetes objects
agent.py        the program in the cluster that sends load, scrapes, and keeps what it saw in a spool
spool.py        the spool: a file that grows, read from any offset
pods.py         pods as processes of a run: stable names, scrape targets, what happened to them
messages.py     what agent and runner say to each other
stream.py       the runner's end: reads the spool over one connection, survives its loss, fills the run store
clock.py        how far the agent's clock is from ours
recover.py      cleans up after a run whose runner died
doctor.py       what this machine lacks for it
"""
