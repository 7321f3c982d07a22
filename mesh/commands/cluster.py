"""The cluster that a command works on: the options that all commands share, the connection, and errors as one line.

    @app.command
    def edges(resource: str, *, cluster: ClusterOptions = DEFAULTS, output: Output = "table") -> int:
        with connected(cluster) as client:
            pods = client.list(Pod, namespace=namespace_of(cluster, client))

Whatever the Kubernetes API answers within the block, the user sees one line with what, where and what to do: no access,
no such thing, nobody there. A bug in our own code stays a traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec
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
        raise refused(error.status.code or 0, error.status.message or str(error), where) from None
    except (ClusterUnreachable, ProxyFailed) as error:
        raise CommandFailed(str(error)) from None
    except httpx2.HTTPStatusError as error:
        answer = error.response
        raise refused(answer.status_code, _message(answer.content, f"HTTP {answer.status_code}"), where) from None
    except httpx2.TimeoutException:
        raise CommandFailed(f"{where}: the API server did not answer in time; is it overloaded?") from None
    except httpx2.HTTPError as error:
        raise CommandFailed(f"{where}: {error}; is the cluster running, and the --context right?") from None
    finally:
        client.close()


def fixed_namespaces(options: ClusterOptions) -> None:
    """For commands that change the mesh itself: where its parts lie is fixed.

    Raises:
        CommandFailed: another namespace was asked for.
    """
    if (options.linkerd_namespace, options.viz_namespace) != (LINKERD_NAMESPACE, VIZ_NAMESPACE):
        raise CommandFailed(
            f"the mesh installs into {LINKERD_NAMESPACE} and {VIZ_NAMESPACE} only;"
            " leave --linkerd-namespace (-L) and --viz-namespace out"
        )


def namespace_of(options: ClusterOptions, client: Client) -> str:
    """The namespace that `-n` names, else the context's own."""
    return options.namespace or client.namespace or "default"


def describe(options: ClusterOptions, client: Client) -> str:
    """The cluster as errors name it: `context kind-test (https://127.0.0.1:6443)`."""
    config = client.config
    return f"context {options.context or config.context_name} ({config.cluster.server})"


def refused(status: int, text: str, where: str) -> CommandFailed:
    """What a refusal of the API server, or of a pod behind it, means to the user."""
    said = " ".join(text.split()) or f"HTTP {status}"
    if status == 404 and said.startswith("the server could not find the requested resource"):
        hint = "the CRD is missing: see `gameday mesh check`"
    else:
        hint = HINTS.get(status, "see `gameday mesh check`")
    return CommandFailed(f"{where}: {said}; {hint}")


HINTS = {
    401: "not logged in: renew the credentials in the kubeconfig",
    403: "you are not allowed to: ask for a role that allows it, or choose another --context",
    404: "see the name, and the namespace (-n)",
    409: "somebody else changed it: try again",
    **dict.fromkeys((429, 503, 504), "the API server, or the pod behind it, is busy or not ready: try again"),
}


def _message(body: bytes, otherwise: str) -> str:
    """The message of a Kubernetes Status, where the body is one."""
    try:
        status = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return otherwise
    return str(status.get("message") or otherwise) if isinstance(status, dict) else otherwise
