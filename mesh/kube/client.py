"""How programs reach a Kubernetes API server, and pods and services through it.

    client = connect(context="kind-shop")                            # CLI, runner: kubeconfig, as kubectl finds it
    proxy_get(client, "shop", "pods", "cart-1:4191", "/metrics")     # through the API server: no port-forward
    with proxy_lines(client, "linkerd-viz", "services", "viz:8084", "/v1/tap") as lines: ...

`connect` asks the server for its version before it returns, so that a wrong context or a cluster that is gone is one
line for the user and not a traceback from whatever was called first. Which files and context are used follows kubectl
(flag, KUBECONFIG with several files, ~/.kube/config); without any of them the pod's own service account.

Rejected: kubectl as a subprocess (a dependency, and its port-forward drops streams without a sign).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

import httpx2
import yaml
from lightkube import AsyncClient, Client, KubeConfig
from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, SERVICE_ACCOUNT, SingleConfig
from lightkube.core.exceptions import ConfigError

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 15.0

Target = Literal["pods", "services"]


class ClusterUnreachable(Exception):
    """No cluster to speak to: one line that says what, where and what to do."""


class ProxyFailed(Exception):
    """The API server could not reach the pod or service, or that answered with an error."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        """HTTP status; None where there was no answer."""


def connect(context: str | None = None, kubeconfig: str | None = None) -> Client:
    """A client for the cluster that `context` names in the kubeconfig (None: its current one).

    Raises:
        ClusterUnreachable: no such file or context, no answer within 5 s, or credentials refused.
    """
    config = find_config(context, kubeconfig)
    where = f"{config.cluster.server} (context {config.context_name})"
    try:
        client = Client(config, timeout=httpx2.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS))
        response = http_of(client).get("/version", timeout=CONNECT_SECONDS)
    except (httpx2.HTTPError, ConfigError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise ClusterUnreachable(
            f"cluster {where} does not answer: {reason}; check that it runs, or choose another with --context"
        ) from None
    if response.status_code in (401, 403):
        raise ClusterUnreachable(
            f"cluster {where} refuses these credentials ({response.status_code}); log in again, or choose another "
            "user with --context"
        )
    if response.status_code >= 400:
        raise ClusterUnreachable(f"cluster {where} is not usable: GET /version answered {response.status_code}")
    return client


def in_cluster() -> AsyncClient:
    """A client with the pod's own service account.

    Raises:
        ClusterUnreachable: not in a pod, or one without a mounted token.
    """
    return AsyncClient(service_account_config(), timeout=httpx2.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS))


def service_account_config(directory: str = SERVICE_ACCOUNT) -> SingleConfig:
    """The API server and credentials that Kubernetes mounts into a pod. Raises ClusterUnreachable."""
    try:
        config = KubeConfig.from_service_account(directory).get()
    except (ConfigError, KeyError, OSError) as error:
        raise ClusterUnreachable(
            f"no service account in {directory} ({error}); run inside a pod with automountServiceAccountToken, "
            "or give a kubeconfig"
        ) from None
    return cast(SingleConfig, config)


def find_config(context: str | None = None, kubeconfig: str | None = None) -> SingleConfig:
    """The cluster, user and namespace to use, read from the files that kubectl would read.

    Raises:
        ClusterUnreachable: nothing found, a file that cannot be read, or a context that it does not have.
    """
    named = kubeconfig or os.environ.get("KUBECONFIG", "")
    paths = [Path(name).expanduser() for name in named.split(os.pathsep if kubeconfig is None else "\0") if name]
    if not paths:
        paths = [Path(DEFAULT_KUBECONFIG).expanduser()]
    found = [path for path in paths if path.is_file()]
    if not found:
        if kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            return service_account_config()
        raise ClusterUnreachable(f"no kubeconfig at {paths[0]}; create a cluster, or give --kubeconfig")
    try:
        config = _merged(found).get(context)
    except (ConfigError, KeyError) as error:
        reason = f"names {error}, which it does not have" if isinstance(error, KeyError) else str(error)
        known = ", ".join(sorted(_merged(found).contexts)) or "none"
        raise ClusterUnreachable(f"{found[0]}: {reason}; contexts there: {known}; choose one with --context") from None
    return cast(SingleConfig, config)


def _merged(paths: list[Path]) -> KubeConfig:
    """Several files as one; the first that says something wins, as with kubectl."""
    merged: KubeConfig | None = None
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text())
            config = KubeConfig.from_dict(content, fname=path)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            raise ClusterUnreachable(f"{path}: not a kubeconfig ({reason})") from None
        if merged is None:
            merged = config
            continue
        merged.clusters = config.clusters | merged.clusters
        merged.users = config.users | merged.users
        merged.contexts = config.contexts | merged.contexts
        merged.current_context = merged.current_context or config.current_context
    assert merged is not None, "called with at least one path"
    return merged


def http_of(client: Client) -> httpx2.Client:
    """The client's own HTTP connection pool, for paths that lightkube has no method for.

    The attribute is private to lightkube; this is the one place that knows (the version is pinned).
    """
    return client._client._client


def async_http_of(client: AsyncClient) -> httpx2.AsyncClient:
    """As `http_of`."""
    return client._client._client


def proxy_path(namespace: str, target: Target, name_port: str, path: str) -> str:
    """The API server's path to `path` on a port of a pod or service (`name:port`)."""
    return f"/api/v1/namespaces/{namespace}/{target}/{name_port}/proxy/{path.lstrip('/')}"


def proxy_get(
    client: Client,
    namespace: str,
    target: Target,
    name_port: str,
    path: str,
    *,
    params: Mapping[str, str] | None = None,
    timeout: float = REQUEST_SECONDS,
) -> bytes:
    """The body of `GET path` on a pod or service, asked through the API server.

    Raises:
        ProxyFailed: no answer, or a status of 400 and above.
    """
    return proxy_request(client, "GET", namespace, target, name_port, path, params=params, timeout=timeout)


def proxy_request(
    client: Client,
    method: str,
    namespace: str,
    target: Target,
    name_port: str,
    path: str,
    *,
    body: bytes | None = None,
    params: Mapping[str, str] | None = None,
    timeout: float = REQUEST_SECONDS,
) -> bytes:
    """As `proxy_get`, with any method and a body."""
    url = proxy_path(namespace, target, name_port, path)
    try:
        response = http_of(client).request(method, url, content=body, params=params, timeout=timeout)
    except httpx2.HTTPError as error:
        raise ProxyFailed(f"{target} {namespace}/{name_port}: {error or type(error).__name__}") from None
    if response.status_code >= 400:
        raise _failed(namespace, target, name_port, response.status_code, response.content)
    return response.content


@contextmanager
def proxy_lines(
    client: Client,
    namespace: str,
    target: Target,
    name_port: str,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    params: Mapping[str, str] | None = None,
    silence: float | None = None,
) -> Iterator[Iterator[str]]:
    """The lines of an answer as they come; the stream is closed when the block ends.

    `silence`: seconds without a byte after which the stream counts as dead; None waits for ever.

    Raises:
        ProxyFailed: as `proxy_get`, and when the stream breaks off.
    """
    url = proxy_path(namespace, target, name_port, path)
    timeout = httpx2.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS, read=silence)
    try:
        with http_of(client).stream(method, url, content=body, params=params, timeout=timeout) as response:
            if response.status_code >= 400:
                raise _failed(namespace, target, name_port, response.status_code, response.read())
            yield response.iter_lines()
    except httpx2.HTTPError as error:
        raise ProxyFailed(f"{target} {namespace}/{name_port}: {error or type(error).__name__}") from None


def _failed(namespace: str, target: Target, name_port: str, status: int, body: bytes) -> ProxyFailed:
    return ProxyFailed(f"{target} {namespace}/{name_port}: {status} {_said(body)}", status)


def _said(body: bytes) -> str:
    """The message of a Kubernetes Status, the `error` of our own programs, or the beginning of what else was said."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    text = (answer.get("message") or answer.get("error")) if isinstance(answer, dict) else None
    return " ".join(str(text or body[:200].decode("utf-8", "replace")).split())
