"""viz, asked through the API server: answers, streams, and what its refusals mean to the user.

    with viz(cluster) as api:
        answer = api.ask("stat", resource="deploy/web", namespace="shop", window="1m")

The proxy subresource of the service is used, so there is no port-forward to drop, and RBAC on `services/proxy` decides
who may look. Who taps shows the token of the Secret `viz-tap` as well, if the kubeconfig's user may read it.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import httpx2
from cyclopts import Parameter
from lightkube import Client

from mesh.commands.cluster import ClusterOptions, connected, namespace_of
from mesh.commands.errors import CommandFailed
from mesh.commands.tables import Column, milliseconds, per_second, percent
from mesh.commands.workloads import resources
from mesh.kube.client import CONNECT_SECONDS, REQUEST_SECONDS, http_of, proxy_path
from mesh.viz.gate import HEADER, KEY
from mesh.viz.permissions import TAP_SECRET
from mesh.viz.resources import Resource

SERVICE = "viz:8084"
SILENCE_SECONDS = 30.0
"""viz writes a blank line every few seconds: a stream without a byte for this long is dead."""
HOW_TO_INSTALL = "install it with `gameday mesh install --set viz.enabled=true | kubectl apply -f -`"

Window = Annotated[str, Parameter(name=("--time-window", "-t"))]
AllNamespaces = Annotated[bool, Parameter(name=("--all-namespaces", "-A"), negative="")]

NUMBERS = (
    Column("SUCCESS", percent, right=True),
    Column("RPS", per_second, right=True),
    Column("LATENCY_P50", milliseconds, right=True, key="latency_ms_p50"),
    Column("LATENCY_P95", milliseconds, right=True, key="latency_ms_p95"),
    Column("LATENCY_P99", milliseconds, right=True, key="latency_ms_p99"),
)
"""Columns of `mesh.viz.stat.Numbers`, as Linkerd's."""
Row = dict[str, Any]


def numbers(row: Row) -> tuple[object, ...]:
    """A row's values for `NUMBERS`."""
    names = ("success", "rps", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
    return tuple(row[name] for name in names)


@dataclass(frozen=True, slots=True)
class VizApi:
    """One viz, behind one API server."""

    client: Client
    namespace: str
    """Of viz."""
    default_namespace: str
    """That a command looks at where it says none."""

    def ask(self, question: str, **parameters: str) -> dict[str, Any]:
        """The answer to `/api/<question>`; what it could not see is told on stderr.

        Raises:
            CommandFailed: viz is not there, or refuses.
        """
        path = self._path(f"/api/{question}")
        response = http_of(self.client).get(path, params=_given(parameters), timeout=REQUEST_SECONDS)
        if response.status_code != 200:
            raise self._refused(response.status_code, response.content)
        answer: dict[str, Any] = response.json()
        tell_missing(answer)
        return answer

    @contextmanager
    def stream(self, what: str, **parameters: str) -> Iterator[Iterator[dict[str, Any]]]:
        """The JSON lines of `/api/tap` or `/api/top`, as they come.

        Raises:
            CommandFailed: viz is not there or refuses, or the stream breaks off.
        """
        timeout = httpx2.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS, read=SILENCE_SECONDS)
        path = self._path(f"/api/{what}")
        headers = {HEADER: self.token()}
        try:
            with http_of(self.client).stream(
                "GET", path, params=_given(parameters), headers=headers, timeout=timeout
            ) as response:
                if response.status_code != 200:
                    raise self._refused(response.status_code, response.read())
                yield (json.loads(line) for line in response.iter_lines() if line.strip())
        except httpx2.ReadTimeout:
            raise CommandFailed(f"viz in {self.namespace} went silent; is its pod still running?") from None
        except httpx2.RemoteProtocolError:
            raise CommandFailed(f"the stream from viz in {self.namespace} broke off; try again") from None

    def token(self) -> str:
        """What viz asks of those who tap; empty where this user may not read it."""
        path = f"/api/v1/namespaces/{self.namespace}/secrets/{TAP_SECRET}"
        response = http_of(self.client).get(path, timeout=REQUEST_SECONDS)
        if response.status_code != 200:
            return ""
        return base64.b64decode((response.json().get("data") or {}).get(KEY) or "").decode()

    def path(self, path: str) -> str:
        """The API server's path to one of viz's."""
        return self._path(path)

    def present(self) -> None:
        """Raises CommandFailed unless viz answers."""
        response = http_of(self.client).get(self._path("/api/topology"), timeout=REQUEST_SECONDS)
        if response.status_code != 200:
            raise self._refused(response.status_code, response.content)

    def _path(self, path: str) -> str:
        return proxy_path(self.namespace, "services", SERVICE, path)

    def _refused(self, status: int, body: bytes) -> CommandFailed:
        try:
            said = json.loads(body)
        except ValueError:
            said = {}
        said = said if isinstance(said, dict) else {}
        if "error" in said:
            hint = f"; that takes access to secrets/{TAP_SECRET} in {self.namespace}" if status == 403 else ""
            return CommandFailed(f"{said['error']}{hint}")
        message = str(said.get("message") or body[:200].decode(errors="replace")).strip().replace("\n", " ")
        if status == 404:
            return CommandFailed(f"viz is not installed in namespace {self.namespace}: {HOW_TO_INSTALL}")
        if status == 403:
            return CommandFailed(f"{message}; looking through viz takes `get` on services/proxy in {self.namespace}")
        if status in (502, 503, 504):
            return CommandFailed(
                f"viz in {self.namespace} does not answer: {message}; "
                f"see `kubectl -n {self.namespace} get pods`, and `gameday mesh check`"
            )
        return CommandFailed(f"viz in {self.namespace} answered {status}: {message}")


@contextmanager
def viz(cluster: ClusterOptions) -> Iterator[VizApi]:
    """viz of the chosen cluster. Raises CommandFailed."""
    with connected(cluster) as client:
        yield VizApi(client, cluster.viz_namespace, namespace_of(cluster, client))


def named(api: VizApi, texts: tuple[str, ...], example: str = "deploy/web") -> list[Resource]:
    """The resources that a command was given. Raises CommandFailed."""
    found = resources(texts, api.default_namespace)
    if not found:
        raise CommandFailed(f"name a resource, such as {example}")
    return found


def target(api: VizApi, name: str, text: str | None, namespace: str | None) -> dict[str, str]:
    """The parameters of `--to` or `--from`. Raises CommandFailed."""
    if text is None:
        return {}
    (found,) = resources((text,), namespace or api.default_namespace)
    return {name: str(found), f"{name}-namespace": found.namespace}


def tell_missing(answer: Mapping[str, Any], file: Any = None) -> None:
    """Says which proxies an answer lacks, so that nobody takes a hole for a zero."""
    basis = answer.get("basis") or {}
    silent = [m for m in basis.get("missing") or () if m["reason"] or m["last_ok_seconds"] is None]
    if silent:
        shown = ", ".join(f"{m['namespace']}/{m['pod']} ({m['reason'] or 'never scraped'})" for m in silent[:3])
        more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
        total = basis["proxies"]
        print(f"note: {len(silent)} of {total} proxies cannot be scraped: {shown}{more}", file=file or sys.stderr)
    if basis and basis["observed_seconds"] < basis["window_seconds"] * 0.9:
        seen = basis["observed_seconds"]
        print(f"note: viz has watched for {seen:.0f}s of the window only", file=file or sys.stderr)
    if basis.get("cut"):
        print(f"note: {basis['cut']} series were more than viz keeps; numbers are too low", file=file or sys.stderr)


def _given(parameters: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value}
