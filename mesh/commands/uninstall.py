"""`gameday mesh uninstall` and `gameday mesh prune`: what to delete, found in the cluster by label."""

from __future__ import annotations

import sys

from mesh.commands.cluster import DEFAULTS, ClusterOptions, connected, fixed_namespaces
from mesh.commands.errors import CommandFailed
from mesh.commands.output import applying, progress


def uninstall(
    *,
    apply: bool = False,
    force: bool = False,
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Print all that is the mesh's as YAML for `kubectl delete -f -`: custom resource definitions too, and with them
    every resource of their kinds.

    Parameters
    ----------
    apply
        Delete it, and wait until it is gone, instead of printing it.
    force
        Although there are pods with a sidecar: they go on with their last certificate until it expires.
    """
    from mesh.deploy.apply import remove
    from mesh.deploy.owned import injected_pods, owned_objects
    from mesh.deploy.text import to_yaml

    fixed_namespaces(cluster)
    with connected(cluster) as client, applying():
        pods = injected_pods(client)
        if pods and not force:
            more = f" and {len(pods) - 3} more" if len(pods) > 3 else ""
            raise CommandFailed(
                f"{len(pods)} pods have a sidecar ({', '.join(pods[:3])}{more}); take it out first "
                "(gameday mesh uninject, then restart them), or give --force"
            )
        found = owned_objects(client)
        if not found:
            progress("there is no mesh in this cluster: nothing to remove")
        elif apply:
            remove(client, found, tell=progress)
        else:
            sys.stdout.write(to_yaml(found))
    return 0


def prune(
    *,
    apply: bool = False,
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Print what an older version left, as YAML for `kubectl delete -f -`: ours by label, and not part of this version.

    Parameters
    ----------
    apply
        Delete it instead of printing it.
    """
    from mesh.deploy.apply import remove
    from mesh.deploy.installed import NotInstalled, read_installed
    from mesh.deploy.objects import crd_objects, install_objects
    from mesh.deploy.owned import stale_objects
    from mesh.deploy.text import to_yaml

    fixed_namespaces(cluster)
    with connected(cluster) as client, applying():
        try:
            found = read_installed(client)
        except NotInstalled as error:
            raise CommandFailed(str(error)) from None
        current = [*crd_objects(found.values), *install_objects(found.values, found.credentials)]
        stale = stale_objects(client, current)
        if not stale:
            progress("nothing to prune")
        elif apply:
            remove(client, stale, tell=progress)
        else:
            sys.stdout.write(to_yaml(stale))
    return 0
