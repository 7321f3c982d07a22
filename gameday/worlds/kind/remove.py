"""Takes a run's world away: the cluster, where it was made for the run; else all that the run put into it."""

from __future__ import annotations

from pathlib import Path

from gameday.errors import WorldFailed
from gameday.worlds.kind import cluster
from gameday.worlds.kind.access import KUBECONFIG, client_of
from gameday.worlds.kind.mesh import uninstall
from gameday.worlds.kind.names import CONTROL_COMPONENT_LABEL, RUN_LABEL
from gameday.worlds.kind.objects import delete_labelled, delete_namespaces, namespaces, save_logs
from gameday.worlds.kind.record import Made
from mesh.deploy.labels import NAMESPACE as MESH_NAMESPACE

NAMESPACES_SECONDS = 120.0


def remove_world(made: Made, run_dir: Path) -> list[str]:
    """Returns what was done, one line each. Safe to do twice.

    Raises:
        WorldFailed: the cluster does not answer, or something stayed.
    """
    if made.created and made.cluster is not None:
        if made.cluster not in cluster.clusters():
            return [f"cluster {made.cluster} is gone"]
        cluster.delete(made.cluster, run_dir / KUBECONFIG)
        return [f"deleted cluster {made.cluster}"]
    if made.cluster is not None and made.cluster not in cluster.clusters():
        return [f"cluster {made.cluster} is gone, and everything of the run with it"]
    client = client_of(run_dir)
    done: list[str] = []
    # By the label as well as by the record: never one that somebody else made under the same name.
    existing = namespaces(client)
    ours = [name for name in made.namespaces if existing.get(name, {}).get(RUN_LABEL) == made.run]
    ours = [name for name in ours if name != MESH_NAMESPACE]
    for name in made.guests:
        if name in existing and name != MESH_NAMESPACE:
            delete_labelled(client, made.run, name)
            done.append(f"took the run's objects out of namespace {name}")
    left = delete_namespaces(client, ours, NAMESPACES_SECONDS)
    if left:
        raise WorldFailed(f"namespaces {', '.join(left)} do not go away; see kubectl get namespace -o yaml")
    done += [f"deleted namespace {name}" for name in ours]
    delete_labelled(client, made.run)
    if made.mesh and existing.get(MESH_NAMESPACE, {}).get(RUN_LABEL) == made.run:
        uninstall(client)
        done.append("uninstalled the mesh")
    return done or ["nothing was left"]


def keep_logs(made: Made, run_dir: Path) -> None:
    """Saves the last log lines of the run's pods and of the control plane into the run's folder."""
    where = [(MESH_NAMESPACE, CONTROL_COMPONENT_LABEL)]
    where += [(name, f"{RUN_LABEL}={made.run}") for name in [*made.namespaces, *made.guests] if name != MESH_NAMESPACE]
    try:
        save_logs(client_of(run_dir), where, run_dir / "logs")
    except (WorldFailed, FileNotFoundError):
        return  # no cluster to ask
