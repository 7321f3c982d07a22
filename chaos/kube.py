"""Steps on a Kubernetes API server: `kube:<access file>:<API path>`.

The access file (JSON: kubeconfig, context) lies in the run's folder and says which cluster and as whom; its path is
part of the url, as the socket's is in the embedded world, so that a step read from the ledger needs nothing else. In
the cluster the path is empty and the pod's service account is used: `in_cluster` makes such a step of any other.

A 404 means that what would be mended is gone (`WorldGone`). A server that does not answer is *not* gone: Deployments
stay scaled to zero whether it answers or not, so that is a failure, to be tried again.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import httpx2
import msgspec
from lightkube import Client

from chaos.requests import KUBE, Step, StepFailed, WorldGone
from mesh.kube.client import ClusterUnreachable, find_config, http_of, service_account_config

TIMEOUT_SECONDS = 5.0


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Which cluster, and as whom."""

    kubeconfig: str | None = None
    """None: where kubectl would look."""
    context: str | None = None


def read_access(path: Path) -> Access:
    """Raises FileNotFoundError."""
    return msgspec.json.decode(path.read_bytes(), type=Access)


def in_cluster(step: Step) -> Step:
    """The same step for one who runs in the cluster; other kinds of url as they are."""
    if not step.url.startswith(KUBE):
        return step
    return msgspec.structs.replace(step, url=f"{KUBE}:{_split(step.url)[1]}")


def perform_kube(step: Step) -> bytes:
    """Does one step; returns the answer's body.

    Raises:
        WorldGone, StepFailed.
    """
    access, path = _split(step.url)
    try:
        answer = _http(access).request(
            step.method, path, content=step.body.encode() or None, headers={"content-type": step.content_type}
        )
    except (ClusterUnreachable, FileNotFoundError) as error:
        raise StepFailed(f"{step.method} {path}: {error}") from None
    except httpx2.HTTPError as error:
        raise StepFailed(f"{step.method} {path}: {error or type(error).__name__}") from None
    if answer.status_code == 404:
        raise WorldGone(f"{step.method} {path}: not there")
    if answer.status_code >= 300:
        raise StepFailed(f"{step.method} {path}: {answer.status_code} {_message(answer.content)}")
    return answer.content


def _split(url: str) -> tuple[str, str]:
    access, _, path = url.removeprefix(KUBE).partition(":")
    return access, path


@lru_cache(maxsize=8)
def _http(access: str) -> httpx2.Client:
    if access:
        found = read_access(Path(access))
        config = find_config(found.context, found.kubeconfig)
    else:
        config = service_account_config()
    return http_of(Client(config, timeout=httpx2.Timeout(TIMEOUT_SECONDS)))


def _message(body: bytes) -> str:
    """The API server's own words where they are there."""
    try:
        return str(msgspec.json.decode(body)["message"])[:300]
    except (msgspec.DecodeError, KeyError, TypeError):
        return body[:300].decode(errors="replace")
