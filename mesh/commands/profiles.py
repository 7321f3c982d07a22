"""ServiceProfiles made from what is known of a service: an OpenAPI document, or requests that were seen. Pure.

    OpenAPI 2 and 3   path and method → route; `{name}` → one segment; x-linkerd-retryable, x-linkerd-timeout as Linkerd
    tap               requests → routes; segments that look like ids (numbers, UUIDs, hashes) → one segment each

Routes are written the specific before the general, for the first that matches wins: `/books/new` before `/books/{id}`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from mesh.api.durations import InvalidDuration, parse_duration

Manifest = dict[str, Any]
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SEGMENT = "[^/]*"
RETRYABLE, TIMEOUT = "x-linkerd-retryable", "x-linkerd-timeout"
ROUTE_LIMIT = 20
"""Routes learned from tap at most, as Linkerd's `--tap-route-limit`."""

_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_PARAMETER = re.compile(r"\{[^{}/]*\}")
_ID = re.compile(
    r"\d+|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|(?=.*\d)[0-9a-fA-F]{12,}"
)


class InvalidOpenApi(ValueError):
    """Not an OpenAPI document that routes can be made from; the text says where and why."""


def manifest(name: str, routes: list[Manifest]) -> Manifest:
    """A ServiceProfile of the authority `name` (`web.shop.svc.cluster.local`), in the service's own namespace."""
    return {
        "apiVersion": "linkerd.io/v1alpha2",
        "kind": "ServiceProfile",
        "metadata": {"name": name, "namespace": name.split(".")[1]},
        "spec": {"routes": routes},
    }


def template(name: str) -> str:
    """A ServiceProfile to fill in: all fields, explained, as YAML that can be applied as it is."""
    return f"""\
# ServiceProfile of {name}: edit, then `kubectl apply -f` it.
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata:
  name: {name}
  namespace: {name.split(".")[1]}
spec:
  # Requests are told apart by the first route that matches them.
  routes:
  - name: '/authors/{{id}}'
    # Required: what a request must be like. method and pathRegex (it must match the whole path), or all, any, not of
    # further conditions.
    condition:
      pathRegex: '/authors/\\d+'
      method: POST
    # Whether failed requests may be sent again, out of the budget below. Not retryable by default.
    isRetryable: false
    # How long a request may take, retries included. Without it: as long as it likes.
    timeout: 300ms
    # Which statuses count as failures. Without it: 500 to 599.
    responseClasses:
    - condition:
        status:
          min: 500
          max: 599
      isFailure: true
  # How many retries there may be: a share of the requests, and so many a second in any case. These are the defaults.
  retryBudget:
    retryRatio: 0.2
    minRetriesPerSecond: 10
    ttl: 10s
"""


# ---- OpenAPI


def from_open_api(document: object) -> list[Manifest]:
    """The routes of an OpenAPI document (2.0, 3.x), parsed from YAML or JSON.

    Raises:
        InvalidOpenApi: no paths, or an extension with a value that cannot be used.
    """
    paths = document.get("paths") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or not isinstance(paths, Mapping) or not paths:
        raise InvalidOpenApi("has no paths: not an OpenAPI document")
    base = _base(document)
    routes = []
    for path in sorted(map(str, paths), key=_specific_first):
        item = paths[path]
        if not isinstance(item, Mapping):
            raise InvalidOpenApi(f"paths.{path}: must be a mapping of methods")
        routes += [_operation(base + path, method, item[method]) for method in METHODS if method in item]
    if not routes:
        raise InvalidOpenApi("paths: none has an operation")
    return routes


def path_regex(path: str) -> str:
    """An expression for the paths of a template such as `/books/{id}`."""
    pieces = _PARAMETER.split(path)
    return SEGMENT.join(_SPECIAL.sub(lambda match: f"\\{match.group()}", piece) for piece in pieces)


def _base(document: Mapping[str, Any]) -> str:
    """`basePath` (2.0), or the path of the first server (3.x)."""
    base = document.get("basePath")
    if base is None:
        servers = document.get("servers")
        first = servers[0] if isinstance(servers, list) and servers else {}
        base = urlsplit(str(first.get("url", "")) if isinstance(first, Mapping) else "").path
    return str(base).rstrip("/")


def _operation(path: str, method: str, operation: object) -> Manifest:
    name = f"{method.upper()} {path}"
    if not isinstance(operation, Mapping):
        raise InvalidOpenApi(f"paths.{path}.{method}: must be a mapping")
    route: Manifest = {"name": name, "condition": {"method": method.upper(), "pathRegex": path_regex(path)}}
    retryable, timeout = operation.get(RETRYABLE), operation.get(TIMEOUT)
    if retryable is not None:
        if not isinstance(retryable, bool):
            raise InvalidOpenApi(f"paths.{path}.{method}.{RETRYABLE}: must be true or false")
        route["isRetryable"] = retryable
    if timeout is not None:
        try:
            parse_duration(str(timeout))
        except InvalidDuration as error:
            raise InvalidOpenApi(f"paths.{path}.{method}.{TIMEOUT}: {error}") from None
        route["timeout"] = str(timeout)
    classes = list(_classes(operation.get("responses")))
    if classes:
        route["responseClasses"] = classes
    return route


def _classes(responses: object) -> Iterable[Manifest]:
    """Each status that the document knows, a failure from 500 on; `default` and ranges such as 5XX say nothing new."""
    if not isinstance(responses, Mapping):
        return
    for status in sorted(int(text) for text in map(str, responses) if re.fullmatch(r"[1-5]\d\d", text)):
        yield {"condition": {"status": {"min": status, "max": status}}, "isFailure": status >= 500}


# ---- tap


def from_requests(requests: Mapping[tuple[str, str], int], limit: int = ROUTE_LIMIT) -> list[Manifest]:
    """Routes of requests that were seen, the most frequent `limit` of them.

    Args:
        requests: how often each method and path (a query is left out) was seen.
    """
    seen: Counter[tuple[str, str]] = Counter()
    for (method, path), count in requests.items():
        seen[method.upper(), template_of(path)] += count
    kept = [route for route, _ in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:limit]]
    return [
        {"name": f"{method} {path}", "condition": {"method": method, "pathRegex": path_regex(path)}}
        for method, path in sorted(kept, key=lambda route: (_specific_first(route[1]), route[0]))
    ]


def template_of(path: str) -> str:
    """`/books/17/pages` → `/books/{id}/pages`. Braces of the path's own are written away: they would be parameters."""
    plain = path.partition("?")[0].replace("{", "%7B").replace("}", "%7D")
    return "/".join("{id}" if _ID.fullmatch(segment) else segment for segment in plain.split("/"))


def _specific_first(path: str) -> tuple[int, tuple[bool, ...], str]:
    """Order of templates: by place, literal segments before parameters."""
    segments = path.split("/")
    return 0, tuple(bool(_PARAMETER.search(segment)) for segment in segments), path
