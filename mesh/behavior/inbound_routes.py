"""Which inbound route a request takes: HTTPRoutes whose parent is the port's Server, and the probes' routes.

The control plane sends routes with the most specific first, so the first that matches is the one. Nearly always there
are only the default route and exact paths of probes; those are found by one look into a dict, and only what has
conditions beyond method and exact path is tried in turn.

Paths are compared as the client wrote them, without the query, and nothing is decoded or resolved: what the app makes
of `/a/../b` or `%2e` is not known here, so a route that must be kept closed is safer as one that lists what is open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from urllib.parse import parse_qsl

from mesh.api.messages import InboundRoute, ValueMatch
from mesh.behavior.regexes import compile_whole

Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")


class InboundRouter(Generic[T]):
    """Finds what stands for the route that a request takes."""

    __slots__ = ("_exact", "_ordered")

    def __init__(self, routes: Sequence[tuple[InboundRoute, T]]) -> None:
        """`routes`: each with what `find` is to return for it."""
        plain = len(routes)
        for index, (route, _) in enumerate(routes):
            if not _is_plain(route):
                plain = index
                break
        # Only the leading ones: a later exact path must not overtake an earlier route with a hostname.
        self._exact: dict[tuple[str, bytes], T] = {}
        for route, found in routes[:plain]:
            self._exact.setdefault((route.method, route.path_exact.encode()), found)
        self._ordered = [(_Match(route), found) for route, found in routes[plain:]]

    def find(self, method: str, target: bytes, authority: bytes, headers: Headers) -> T | None:
        """For the route of a request for `target` (path and query); None where no route matches."""
        path, _, query = target.partition(b"?")
        if self._exact:
            # A route for this very method is the more specific one.
            found = self._exact.get((method, path))
            if found is None:
                found = self._exact.get(("", path))
            if found is not None:
                return found
        for match, value in self._ordered:
            if match.matches(method, path, query, authority, headers):
                return value
        return None


def _is_plain(route: InboundRoute) -> bool:
    return bool(route.path_exact) and not (route.hostname or route.headers or route.query_params)


class _Match:
    __slots__ = ("_everything", "_exact", "_headers", "_host", "_method", "_prefix", "_query", "_regex", "_suffix")

    def __init__(self, route: InboundRoute) -> None:
        self._method = route.method
        self._exact = route.path_exact.encode()
        self._prefix = route.path_prefix.rstrip("/").encode()
        self._regex = compile_whole(route.path_regex) if route.path_regex else None
        host = route.hostname.lower().encode()
        self._suffix = host[1:] if host.startswith(b"*.") else b""
        self._host = b"" if self._suffix else host
        self._headers = [(match.name.lower().encode(), _value(match)) for match in route.headers]
        self._query = [(match.name, _value(match)) for match in route.query_params]
        self._everything = not (route.hostname or route.headers or route.query_params) and (
            not (self._method or self._exact or self._prefix or self._regex)
        )

    def matches(self, method: str, path: bytes, query: bytes, authority: bytes, headers: Headers) -> bool:
        if self._everything:
            return True
        return (
            (not self._method or method == self._method)
            and self._has_path(path)
            and (not (self._host or self._suffix) or self._has_host(authority))
            and all(any(n == name and test(v.decode("latin-1")) for n, v in headers) for name, test in self._headers)
            and (not self._query or self._has_query(query))
        )

    def _has_path(self, path: bytes) -> bool:
        if self._exact:
            return path == self._exact
        if self._prefix:
            # Whole segments: `/admin` has `/admin/x` and not `/administrator`.
            return path == self._prefix or path.startswith(self._prefix + b"/")
        return self._regex is None or self._regex(path.decode("latin-1"))

    def _has_host(self, authority: bytes) -> bool:
        host = authority.lower()
        name, colon, port = host.rpartition(b":")
        if colon and port.isdigit():
            host = name
        return host == self._host if self._host else host.endswith(self._suffix) and len(host) > len(self._suffix)

    def _has_query(self, query: bytes) -> bool:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        return all(any(name == wanted and test(value) for name, value in pairs) for wanted, test in self._query)


def _value(match: ValueMatch) -> Callable[[str], bool]:
    if match.regex:
        return compile_whole(match.value)
    return match.value.__eq__
