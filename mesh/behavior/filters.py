"""What a route does to the requests and responses that pass it, apart from where they go. Pure functions over bytes.

    request ─► failure(rng)? ─► redirect()? ─► request(): headers, host, path ─► mirrors ─► backend
    response ◄─ response(): headers ◄─────────────────────────────────────────────────────── backend

The order is linkerd2-proxy's for what it has (failure injector, redirect, header modifiers); URLRewrite and
RequestMirror are in the Gateway API and not in Linkerd. Header names are lower case, paths carry their query. Every
change was compiled when the route was built; a route without filters has none of this (`Route.filters` is None).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from mesh.api.messages import FiltersSpec, HeaderChange, PathChange

Headers = list[tuple[bytes, bytes]]

_DEFAULT_PORTS = {b"http": 80, b"https": 443}


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of a share of the requests goes to `authority`; nobody waits for its answer."""

    authority: str
    percent: float

    def wanted(self, rng: Random) -> bool:
        """Whether this request is to be copied."""
        return self.percent >= 100.0 or rng.random() * 100.0 < self.percent


class _Headers:
    """A header modifier: set replaces, add appends, remove takes out."""

    __slots__ = ("_append", "_drop", "_replace")

    def __init__(self, change: HeaderChange) -> None:
        self._replace = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in change.set]
        self._append = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in change.add]
        self._drop = frozenset(name for name, _ in self._replace) | {n.encode("latin-1") for n in change.remove}

    def apply(self, headers: Headers) -> Headers:
        drop = self._drop
        changed = [field for field in headers if field[0] not in drop] if drop else list(headers)
        changed += self._replace
        changed += self._append
        return changed


class _Path:
    """Replaces a path or its matched prefix; the query stays."""

    __slots__ = ("_prefix_length", "_value")

    def __init__(self, change: PathChange) -> None:
        self._value = change.value.encode("latin-1")
        self._prefix_length = len(change.prefix.rstrip("/")) if change.prefix is not None else None

    def apply(self, path: bytes) -> bytes:
        mark = path.find(b"?")
        query = path[mark:] if mark >= 0 else b""
        if self._prefix_length is None:
            return self._value if b"?" in self._value else self._value + query
        rest = (path[:mark] if mark >= 0 else path)[self._prefix_length :]
        if rest in (b"", b"/"):
            return (self._value if self._value.endswith(b"/") else self._value + rest or b"/") + query
        return self._value.rstrip(b"/") + (rest if rest.startswith(b"/") else b"/" + rest) + query


class Filters:
    """The compiled filters of one route or backend."""

    __slots__ = ("_failure", "_path", "_redirect", "_redirect_path", "_request", "_response", "_rewrite", "mirrors")

    def __init__(self, spec: FiltersSpec) -> None:
        self._failure = spec.failure
        self._redirect = spec.redirect
        self._redirect_path = _path(spec.redirect.path if spec.redirect is not None else None)
        self._rewrite = spec.rewrite.hostname.encode() if spec.rewrite and spec.rewrite.hostname else None
        self._path = _path(spec.rewrite.path if spec.rewrite is not None else None)
        self._request = _Headers(spec.request_headers) if spec.request_headers is not None else None
        self._response = _Headers(spec.response_headers) if spec.response_headers is not None else None
        self.mirrors = tuple(Mirror(mirror.authority, mirror.percent) for mirror in spec.mirrors)

    def failure(self, rng: Random) -> int | None:
        """The status to answer instead of sending the request (a failure that was asked for)."""
        failure = self._failure
        if failure is None or (failure.percent < 100.0 and rng.random() * 100.0 >= failure.percent):
            return None
        return failure.status

    def redirect(self, scheme: bytes, authority: bytes, path: bytes) -> tuple[int, bytes] | None:
        """Status and location, or None: the request goes on. A redirect to where the request came from is none, as in
        linkerd2-proxy. The scheme's own port is left out."""
        rule = self._redirect
        if rule is None:
            return None
        new_scheme = rule.scheme.encode() if rule.scheme is not None else scheme
        host, port = _split(authority)
        new_port = rule.port
        if new_port is None:
            # A changed scheme brings its own port; else the port stays that of the request.
            new_port = _DEFAULT_PORTS.get(new_scheme) if rule.scheme is not None and new_scheme != scheme else port
        new_host = rule.hostname.encode() if rule.hostname is not None else host
        if new_port is not None and new_port != _DEFAULT_PORTS.get(new_scheme):
            new_host += b":%d" % new_port
        new_path = self._redirect_path.apply(path) if self._redirect_path is not None else path
        location = new_scheme + b"://" + new_host + new_path
        if location == scheme + b"://" + authority + path:
            return None
        return rule.status, location

    def request(self, path: bytes, authority: bytes, headers: Headers) -> tuple[bytes, bytes, Headers]:
        """What to send: path with query, authority, headers. Arguments are not changed. A rewritten host keeps the
        request's port off, as the Gateway API asks: it is the hostname alone that is sent."""
        if self._path is not None:
            path = self._path.apply(path)
        if self._rewrite is not None:
            authority = self._rewrite
        if self._request is not None:
            headers = self._request.apply(headers)
        return path, authority, headers

    def response(self, headers: Headers) -> Headers:
        """The response's headers for the client."""
        return self._response.apply(headers) if self._response is not None else headers

    @property
    def changes_responses(self) -> bool:
        return self._response is not None


def compile_filters(spec: FiltersSpec | None) -> Filters | None:
    """None where there is nothing to do."""
    return Filters(spec) if spec is not None and spec != FiltersSpec() else None


def _path(change: PathChange | None) -> _Path | None:
    return _Path(change) if change is not None else None


def _split(authority: bytes) -> tuple[bytes, int | None]:
    host, colon, port = authority.rpartition(b":")
    if colon and port.isdigit():
        return host, int(port)
    return authority, None
