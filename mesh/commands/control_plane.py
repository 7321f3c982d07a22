"""Asking the control plane: its install values, its pods, and their admin ports through the API server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightkube import Client

from mesh.api.messages import WatchMessage, decode_line
from mesh.api.values import CONFIG_KEY, CONFIG_MAP, InvalidValues, Values, load_values
from mesh.commands.cluster import ClusterOptions
from mesh.commands.errors import CommandFailed
from mesh.kube.client import ProxyFailed, http_of, proxy_get

Json = dict[str, Any]
ADMIN_PORTS = {"identity": 9990, "proxy-injector": 9995, "destination": 9996, "policy": 9997}
"""Of each container of the control plane."""


def get(client: Client, path: str, params: Mapping[str, str] | None = None) -> Json:
    """A JSON object of the API server. Raises httpx2.HTTPStatusError for a status of 400 and above."""
    response = http_of(client).get(path, params=params)
    response.raise_for_status()
    found: Json = response.json()
    return found


def values_of(client: Client, options: ClusterOptions) -> Values:
    """The install's values; the defaults where they cannot be read (they need a permission of their own)."""
    response = http_of(client).get(f"/api/v1/namespaces/{options.linkerd_namespace}/configmaps/{CONFIG_MAP}")
    if response.status_code != 200:
        return Values()
    try:
        return load_values((response.json().get("data") or {}).get(CONFIG_KEY, ""))
    except InvalidValues:
        return Values()


def pods_with(client: Client, options: ClusterOptions, container: str | None = None) -> list[tuple[str, list[str]]]:
    """The control plane's running pods and the names of their containers; those with `container` where it is given."""
    items = get(client, f"/api/v1/namespaces/{options.linkerd_namespace}/pods").get("items") or []
    found = []
    for pod in items:
        names = [entry["name"] for entry in pod["spec"]["containers"]]
        running = (pod.get("status") or {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        if running and (container is None or container in names):
            found.append((pod["metadata"]["name"], names))
    return found


def ask(client: Client, options: ClusterOptions, container: str, path: str, **params: str) -> list[WatchMessage]:
    """What destination or policy would tell a proxy: the snapshot of one watch, from its admin port.

    Raises:
        CommandFailed: no such component runs, none answers, or it refuses the question.
    """
    pods = pods_with(client, options, container)
    if not pods:
        text = f"no running pod with a container {container} in {options.linkerd_namespace}"
        raise CommandFailed(f"{text}; see `gameday mesh check`")
    problem: ProxyFailed | None = None
    for pod, _ in pods:
        place = f"{pod}:{ADMIN_PORTS[container]}"
        try:
            body = proxy_get(client, options.linkerd_namespace, "pods", place, f"/debug{path}", params=params)
        except ProxyFailed as error:
            if error.status == 400:
                raise CommandFailed(str(error).partition(" 400 ")[2]) from None
            problem = error
            continue
        return [decode_line(line) for line in body.splitlines() if line]
    raise CommandFailed(f"{problem}; see `gameday mesh check`")


def containers(pods: Sequence[tuple[str, list[str]]]) -> list[tuple[str, str, int]]:
    """Pod, container and admin port of everything that has metrics."""
    return [(pod, name, ADMIN_PORTS[name]) for pod, names in pods for name in names if name in ADMIN_PORTS]
