"""The container images and how they are built.

    mesh.Dockerfile   gameday/mesh    proxy, control plane, viz, init program
    agent.Dockerfile  gameday/agent   the whole project: load, scraping, faults, reports
    *.packages        which entries of requirements.lock each installs (`locked.py` picks them out)

`build` calls `docker build` with the repository's root as the context; by hand it is
`docker build -f mesh/deploy/images/mesh.Dockerfile .`.
"""
