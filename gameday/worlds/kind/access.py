"""The runner's way to the API server, from the access file in the run's folder (see `chaos.kube`).

A cluster that the run creates gets a kubeconfig of its own in the run's folder: the user's ~/.kube/config is not
touched, and `gameday recover` finds its way back.
"""

from __future__ import annotations

from pathlib import Path

import httpx2
import msgspec
from lightkube import AsyncClient, Client

from chaos.kube import Access, read_access
from gameday.errors import WorldFailed
from mesh.kube.client import ClusterUnreachable, connect, find_config

FILE = "kube.json"
KUBECONFIG = "kubeconfig"


def write_access(run_dir: Path, access: Access) -> Path:
    """The access file's path, for steps."""
    path = run_dir / FILE
    path.write_bytes(msgspec.json.encode(access))
    return path


def client_of(run_dir: Path) -> Client:
    """Raises WorldFailed: the cluster does not answer."""
    access = read_access(run_dir / FILE)
    try:
        return connect(access.context, access.kubeconfig)
    except ClusterUnreachable as error:
        raise WorldFailed(str(error)) from None


def async_client_of(run_dir: Path, read_seconds: float) -> AsyncClient:
    """For streams: `read_seconds` without a byte and the connection counts as dead."""
    access = read_access(run_dir / FILE)
    config = find_config(access.context, access.kubeconfig)
    return AsyncClient(config, timeout=httpx2.Timeout(read_seconds, connect=5.0))
