"""What is installed in a cluster: its values, trust anchors and issuer. An upgrade starts from these."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from lightkube import Client

from mesh.api.values import CONFIG_KEY, CONFIG_MAP, InvalidValues, Values, load_values
from mesh.deploy import paths
from mesh.deploy.labels import DESTINATION, IDENTITY, INJECTOR, ISSUER, NAMESPACE, TRUST_ROOTS, TRUST_ROOTS_KEY
from mesh.deploy.objects import Credentials


class NotInstalled(Exception):
    """The cluster has no mesh, or half of one: one line for the user."""


@dataclass(frozen=True, slots=True)
class Installed:
    values: Values
    credentials: Credentials


def is_installed(client: Client) -> bool:
    """Whether a mesh is there already. Raises paths.RequestFailed."""
    return paths.get(client, paths.CONFIG_MAP, CONFIG_MAP, NAMESPACE) is not None


def is_complete(client: Client) -> bool:
    """Whether that mesh has all of its components; an install that was interrupted leaves one that has not. Raises
    paths.RequestFailed."""
    deployments = (IDENTITY, DESTINATION, INJECTOR)
    return is_installed(client) and all(paths.get(client, paths.DEPLOYMENT, name, NAMESPACE) for name in deployments)


def read_installed(client: Client) -> Installed:
    """The values and credentials that the cluster's mesh was installed with.

    Raises:
        NotInstalled: they are not there, or cannot be read.
        paths.RequestFailed: the API server refused.
    """
    config = paths.get(client, paths.CONFIG_MAP, CONFIG_MAP, NAMESPACE)
    if config is None:
        raise NotInstalled(
            f"no ConfigMap {NAMESPACE}/{CONFIG_MAP} in this cluster; install first: gameday mesh install"
        )
    try:
        values = load_values(config.get("data", {}).get(CONFIG_KEY, ""))
    except InvalidValues as error:
        raise NotInstalled(f"ConfigMap {NAMESPACE}/{CONFIG_MAP} cannot be read: {error}") from None
    return Installed(values, _credentials(client, values))


def _credentials(client: Client, values: Values) -> Credentials:
    if values.identity.external_ca:
        return Credentials("")
    roots = paths.get(client, paths.CONFIG_MAP, TRUST_ROOTS, NAMESPACE)
    anchors = (roots or {}).get("data", {}).get(TRUST_ROOTS_KEY)
    if not anchors:
        raise NotInstalled(
            f"no ConfigMap {NAMESPACE}/{TRUST_ROOTS} with {TRUST_ROOTS_KEY}: restore it, or uninstall and install anew"
        )
    if values.identity.issuer.external:
        return Credentials(anchors)
    secret = paths.get(client, paths.SECRET, ISSUER, NAMESPACE)
    data = (secret or {}).get("data", {})
    if not data.get("tls.crt") or not data.get("tls.key"):
        raise NotInstalled(f"no Secret {NAMESPACE}/{ISSUER} with tls.crt and tls.key: restore it, or rotate the issuer")
    return Credentials(anchors, *(base64.b64decode(data[key]).decode() for key in ("tls.crt", "tls.key")))
