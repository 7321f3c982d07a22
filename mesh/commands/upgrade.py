"""`gameday mesh upgrade`: the mesh of this version, with the values, trust anchors and issuer that the cluster has.

Also the way to change values later, to put in a new issuer, and to change the bundle of trust anchors.
"""

from __future__ import annotations

import sys

from mesh.commands.cluster import DEFAULTS, ClusterOptions, connected, fixed_namespaces
from mesh.commands.errors import CommandFailed
from mesh.commands.output import applying, progress, try_injection
from mesh.commands.settings import DEFAULT_IDENTITY, DEFAULT_VALUES, IdentityOptions, ValueOptions
from mesh.control.pki import InvalidCredentials
from mesh.deploy.credentials import changed_credentials
from mesh.deploy.objects import crd_objects, install_objects
from mesh.deploy.text import to_yaml


def upgrade(
    *,
    values: ValueOptions = DEFAULT_VALUES,
    identity: IdentityOptions = DEFAULT_IDENTITY,
    crds: bool = False,
    skip_crds: bool = False,
    apply: bool = False,
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Print this version of the mesh as YAML for `kubectl apply -f -`, with what the cluster was installed with.

    --set, --values and --ha change values from now on; the identity options put in another issuer or other anchors.
    Afterwards `gameday mesh prune` prints what only the older version had.

    Parameters
    ----------
    crds
        Only the custom resource definitions.
    skip_crds
        Everything but the custom resource definitions.
    apply
        Apply it, and wait until it serves, instead of printing it.
    """
    from mesh.deploy.apply import apply_mesh
    from mesh.deploy.installed import NotInstalled, read_installed

    fixed_namespaces(cluster)
    with connected(cluster) as client, applying():
        try:
            found = read_installed(client)
            wanted = values.read(found.values, identity.external)
            credentials = changed_credentials(
                found.credentials,
                identity.files,
                external_issuer=wanted.identity.issuer.external,
                external_ca=wanted.identity.external_ca,
            )
        except (NotInstalled, InvalidCredentials) as error:
            raise CommandFailed(str(error)) from None
        definitions = [] if skip_crds else crd_objects(wanted)
        objects = [] if crds else install_objects(wanted, credentials)
        if apply:
            apply_mesh(client, definitions, objects, tell=progress)
            if objects:
                try_injection(client)
        else:
            sys.stdout.write(to_yaml([*definitions, *objects]))
    return 0
