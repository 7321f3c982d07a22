"""The cluster that a command works on: the options that all commands share, the connection, and errors as one line.

    @app.command
    def edges(resource: str, *, cluster: ClusterOptions = DEFAULTS, output: Output = "table") -> int:
        with connected(cluster) as client:
            pods = client.list(Pod, namespace=namespace_of(cluster, client))

Whatever the Kubernetes API answers within the block, the user sees one line with what, where and what to do: no access,
no such thing, nobody there. A bug in our own code stays a traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mesh.commands.errors import CommandFailed

if TYPE_CHECKING:
    from lightkube import Client

LINKERD_NAMESPACE = "linkerd"
VIZ_NAMESPACE = "linkerd-viz"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Options of every command that speaks to a cluster."""

    context: str | None = None
    """Context of the kubeconfig; the current one without it."""
    kubeconfig: str | None = None
    """Path of the kubeconfig; $KUBECONFIG or ~/.kube/config without it."""
    linkerd_namespace: Annotated[str, Parameter(name=("--linkerd-namespace", "-L"))] = LINKERD_NAMESPACE
    """Namespace of the control plane."""
    viz_namespace: str = VIZ_NAMESPACE
    """Namespace of the viz extension."""
    namespace: Annotated[str | None, Parameter(name=("--namespace", "-n"))] = None
    """Namespace to look at; the context's own without it."""


DEFAULTS = ClusterOptions()


@contextmanager
def connected(options: ClusterOptions) -> Iterator[Client]:
    """A client of the chosen cluster, closed at the end.

    Raises:
        CommandFailed: no such context, nobody answers, or the API refused a call made within the block.
    """
    import httpx2
    from lightkube.core.exceptions import ApiError

    from mesh.kube.client import ClusterUnreachable, ProxyFailed, connect

    try:
        client = connect(options.context, options.kubeconfig)
    except ClusterUnreachable as error:
        raise CommandFailed(str(error)) from None
    where = describe(options, client)
    try:
        yield client
    except ApiError as error:
        raise refused(error, where) from None
    except (ClusterUnreachable, ProxyFailed) as error:
        raise CommandFailed(str(error)) from None
    except httpx2.HTTPStatusError as error:
        raise CommandFailed(_status_line(error.response.status_code, error.request.url.path, where)) from None
    except httpx2.TimeoutException:
        raise CommandFailed(f"{where}: the API server did not answer in time; is it overloaded?") from None
    except httpx2.HTTPError as error:
        raise CommandFailed(f"{where}: {error}; is the cluster running, and the --context right?") from None
    finally:
        client.close()


def namespace_of(options: ClusterOptions, client: Client) -> str:
    """The namespace that `-n` names, else the context's own."""
    return options.namespace or client.namespace or "default"


def describe(options: ClusterOptions, client: Client) -> str:
    """The cluster as errors name it: `context kind-test (https://127.0.0.1:6443)`."""
    config = client.config
    return f"context {options.context or config.context_name} ({config.cluster.server})"


def refused(error: Exception, where: str) -> CommandFailed:
    """What the API's refusal (a lightkube ApiError) means to the user."""
    status = getattr(error, "status", None)
    code = getattr(status, "code", None)
    text = re.sub(r"\s+", " ", str(getattr(status, "message", None) or error)).strip()
    match code:
        case 401:
            hint = "not logged in: renew the credentials in the kubeconfig"
        case 403:
            hint = "you are not allowed to: ask for a role that allows it, or choose another --context"
        case 404 if text.startswith("the server could not find the requested resource"):
            hint = "the CRD is missing: see `gameday mesh check`"
        case 404:
            hint = "see the name, and the namespace (-n)"
        case 409:
            hint = "somebody else changed it: try again"
        case 429 | 503 | 504:
            hint = "the API server is busy or not ready: try again"
        case _:
            hint = "see `gameday mesh check`"
    return CommandFailed(f"{where}: {text}; {hint}")


def _status_line(status: int, path: str, where: str) -> str:
    match status:
        case 401:
            hint = "not logged in: renew the credentials in the kubeconfig"
        case 403:
            hint = "you are not allowed to: ask for a role that allows it"
        case 404:
            hint = "no such pod, service or path"
        case _:
            hint = "the pod or service behind it does not answer; is it ready?"
    return f"{where}: HTTP {status} from {path}; {hint}"
