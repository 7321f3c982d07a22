"""The mesh of a run: installed with the scenario's certificate lifetimes, labelled as the run's, removed at the end.

A namespace `linkerd` that was there before (and given with --allow-namespace) is somebody's mesh: it is used as it is
and stays as it is, so its certificates must have the lifetimes that the scenario asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightkube import Client
from msgspec.structs import replace

from gameday.errors import WorldFailed
from gameday.worlds.kind.names import RUN_LABEL
from mesh.api.durations import format_duration, parse_duration
from mesh.api.values import Values
from mesh.deploy import trial
from mesh.deploy.apply import NotReady, apply_mesh, remove
from mesh.deploy.credentials import create_credentials
from mesh.deploy.installed import NotInstalled, read_installed
from mesh.deploy.objects import crd_objects, install_objects
from mesh.deploy.owned import owned_objects
from mesh.deploy.paths import RequestFailed
from scenarios.model import IdentitySettings

INBOUND_CONNECT = "300ms"
"""The proxy's own default, which the embedded world has."""
CLUSTER_WIDE = ("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace")


def values_of(identity: IdentitySettings) -> Values:
    """Values of an install whose certificates live as the scenario says. No viz: the agent looks at everything
    itself."""
    values = Values()
    issuer = replace(
        values.identity.issuer,
        issuance_lifetime=format_duration(identity.leaf_lifetime),
        clock_skew_allowance=format_duration(identity.clock_skew),
        min_refresh=format_duration(identity.min_refresh),
    )
    return replace(
        values,
        identity=replace(values.identity, issuer=issuer),
        viz=replace(values.viz, enabled=False),
        # As in the embedded world. Linkerd's 100 ms to the app are not enough where two cores run a whole cluster.
        proxy=replace(
            values.proxy, log_level="warn", shutdown_grace_period="2s", inbound_connect_timeout=INBOUND_CONNECT
        ),
    )


def install(client: Client, identity: IdentitySettings, run: str, tell: Callable[[str], None]) -> None:
    """Applies everything, and waits until it serves.

    Raises:
        WorldFailed
    """
    values = values_of(identity)
    credentials = create_credentials(values.trust_domain)
    crds, objects = crd_objects(values), install_objects(values, credentials)
    try:
        apply_mesh(client, [_marked(item, run) for item in crds], [_marked(item, run) for item in objects], tell=tell)
    except (RequestFailed, NotReady) as error:
        raise WorldFailed(f"the mesh was not installed: {error}") from None


def uninstall(client: Client) -> None:
    """Raises WorldFailed."""
    try:
        remove(client, owned_objects(client))
    except (RequestFailed, NotReady) as error:
        raise WorldFailed(f"the mesh was not removed: {error}") from None


def wait_for_injection(client: Client, namespace: str) -> None:
    """Returns once a new pod of `namespace` gets a sidecar.

    Raises:
        WorldFailed: none does.
    """
    try:
        trial.wait_for_injection(client, namespace)
    except NotReady as error:
        raise WorldFailed(str(error)) from None


def unfit(client: Client, identity: IdentitySettings) -> str | None:
    """Why the mesh that is there cannot be used for this scenario; None where it can."""
    try:
        found = read_installed(client).values.identity.issuer
    except (NotInstalled, RequestFailed) as error:
        return str(error)
    wanted = (identity.leaf_lifetime, identity.clock_skew)
    has = (parse_duration(found.issuance_lifetime), parse_duration(found.clock_skew_allowance))
    if has == wanted:
        return None
    return (
        f"its leaves live {found.issuance_lifetime} (skew {found.clock_skew_allowance}), and the scenario needs"
        f" {format_duration(wanted[0])} (skew {format_duration(wanted[1])}); let the run install its own, in another"
        " cluster"
    )


def _marked(item: dict[str, Any], run: str) -> dict[str, Any]:
    """The object with the run's label, where it lies in no namespace that has it."""
    if item["kind"] not in CLUSTER_WIDE:
        return item
    metadata = item["metadata"]
    return {**item, "metadata": {**metadata, "labels": {**metadata.get("labels", {}), RUN_LABEL: run}}}
