"""`gameday mesh install`: prints what to apply, or applies it.

    gameday mesh install --ha | kubectl apply -f -

Installing over a mesh that is there would give it a new trust anchor, and every pod would refuse every other: where the
cluster can be reached, it is asked first. An install that was interrupted is gone on with: what is there keeps its
trust anchor and issuer, for identity may have started with them, and a changed bundle reaches it a minute late.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mesh.commands.cluster import DEFAULTS, ClusterOptions, connected, fixed_namespaces
from mesh.commands.errors import CommandFailed
from mesh.commands.output import applying, progress, try_injection
from mesh.commands.settings import DEFAULT_IDENTITY, DEFAULT_VALUES, IdentityOptions, ValueOptions
from mesh.control.pki import InvalidCredentials
from mesh.deploy.credentials import read_credentials
from mesh.deploy.objects import crd_objects, install_objects
from mesh.deploy.text import to_yaml
from mesh.kube.client import ClusterUnreachable, connect

if TYPE_CHECKING:
    from mesh.deploy.objects import Credentials


def install(
    *,
    values: ValueOptions = DEFAULT_VALUES,
    identity: IdentityOptions = DEFAULT_IDENTITY,
    crds: bool = False,
    skip_crds: bool = False,
    apply: bool = False,
    ignore_cluster: bool = False,
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Print the mesh as YAML for `kubectl apply -f -`: custom resource definitions, control plane, injector, viz.

    Every field of --set, with its default and the reason for it, stands in docs/kubernetes.md.

    Parameters
    ----------
    crds
        Only the custom resource definitions.
    skip_crds
        Everything but the custom resource definitions.
    apply
        Apply it, and wait until it serves, instead of printing it.
    ignore_cluster
        Do not look whether the cluster already has a mesh.
    """
    fixed_namespaces(cluster)
    wanted = values.read(external=identity.external)
    definitions = [] if skip_crds else crd_objects(wanted)
    if crds:
        sys.stdout.write(to_yaml(definitions))
        return 0
    started = None if ignore_cluster else _started(cluster)
    if identity != DEFAULT_IDENTITY or wanted.identity.issuer.external or wanted.identity.external_ca:
        started = None
    try:
        credentials = started or read_credentials(
            identity.files,
            external_issuer=wanted.identity.issuer.external,
            external_ca=wanted.identity.external_ca,
            trust_domain=wanted.trust_domain,
        )
    except InvalidCredentials as error:
        raise CommandFailed(str(error)) from None
    objects = install_objects(wanted, credentials)
    if not apply:
        sys.stdout.write(to_yaml([*definitions, *objects]))
        return 0
    from mesh.deploy.apply import apply_mesh

    with connected(cluster) as client, applying():
        apply_mesh(client, definitions, objects, tell=progress)
        try_injection(client)
    return 0


def _started(cluster: ClusterOptions) -> Credentials | None:
    """Trust anchors and issuer of an install that did not get to its end; None: there is none.

    Raises:
        CommandFailed: the cluster has a whole mesh.
    """
    from mesh.deploy.installed import NotInstalled, is_complete, read_installed

    try:
        client = connect(cluster.context, cluster.kubeconfig)
    except ClusterUnreachable as error:
        progress(f"the cluster was not asked whether it has a mesh already: {error}")
        return None
    try:
        with applying():
            if is_complete(client):
                raise CommandFailed(
                    "this cluster has a mesh already: use gameday mesh upgrade, or --ignore-cluster for another cluster"
                )
            found = read_installed(client).credentials
    except NotInstalled:
        return None
    finally:
        client.close()
    if not found.issuer_key:
        return None
    progress("an install of this cluster was interrupted: going on with its trust anchor and issuer")
    return found
