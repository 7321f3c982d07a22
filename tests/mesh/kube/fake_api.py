"""An API server that keeps objects in memory: list in pages, watch with bookmarks, 410, conflicts, patches.

Each write gets the next resourceVersion; events are kept so that a watch can start anywhere after `compact()`. Faults
are switched on by attributes. It speaks real HTTP, so that the client under test is the real one.

    async with FakeApi() as api:
        api.put(kinds.POD, pod("cart-0"))
        client = api.client()
"""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Self

import httpx2
from aiohttp import web

from mesh.kube.api import Api
from mesh.kube.kinds import Kind

Object = dict[str, Any]
Key = tuple[str, str]


class FakeApi:
    """Objects by collection path; `/apis/G/V/plural`, whatever the namespace."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[Key, Object]] = {}
        self.log: list[tuple[int, str, str, Object]] = []
        """resourceVersion, collection, event type, object."""
        self.version = 1
        self.compacted = 0
        self.absent: set[str] = set()
        """API groups that are not installed."""
        self.forbidden: set[str] = set()
        """Plurals that answer 403."""
        self.down = False
        """Every request gets 503."""
        self.mute = False
        """Watches are accepted and say nothing."""
        self.slow_seconds = 0.0
        """How long a list takes."""
        self.twice = False
        """Each event is sent twice."""
        self.token_review: Callable[[Object], Object] = lambda spec: {"authenticated": False}
        self.requests: list[tuple[str, str]] = []
        self._changed = asyncio.Condition()
        self._streams: set[asyncio.Task[Any]] = set()
        self._runner: web.AppRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port = 0

    # ---- running

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drop_watches()
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Api:
        return Api(httpx2.AsyncClient(base_url=self.url, timeout=5.0, trust_env=False))

    # ---- what tests do to it

    def put(self, kind: Kind, object_: Object) -> Object:
        """Creates or replaces; returns the object as stored."""
        collection = self.objects.setdefault(kind.path(), {})
        stored = copy.deepcopy(object_)
        meta = stored.setdefault("metadata", {})
        key = (meta.get("namespace", "") if kind.namespaced else "", meta["name"])
        known = collection.get(key)
        self.version += 1
        meta["resourceVersion"] = str(self.version)
        meta.setdefault("uid", known["metadata"]["uid"] if known else f"uid-{self.version}")
        collection[key] = stored
        self._record(kind.path(), "MODIFIED" if known else "ADDED", stored)
        return copy.deepcopy(stored)

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        stored = self.objects[kind.path()].pop((namespace, name))
        self.version += 1
        stored["metadata"]["resourceVersion"] = str(self.version)
        self._record(kind.path(), "DELETED", stored)

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return copy.deepcopy(self.objects.get(kind.path(), {}).get((namespace, name)))

    def all(self, kind: Kind) -> list[Object]:
        return list(self.objects.get(kind.path(), {}).values())

    def compact(self) -> None:
        """Forgets all events: a watch from an older version gets 410."""
        self.compacted = self.version
        self.log.clear()

    def drop_watches(self) -> None:
        """Breaks every open stream off."""
        for stream in list(self._streams):
            stream.cancel()

    def _record(self, path: str, event: str, stored: Object) -> None:
        self.log.append((self.version, path, event, copy.deepcopy(stored)))
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self._notify()))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # ---- requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if self.down:
            return _status(503, "etcd is down")
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "34"})
        parts = request.path.strip("/").split("/")
        root, rest = (parts[:2], parts[2:]) if parts[0] == "api" else (parts[:3], parts[3:])
        if parts[0] == "apis" and parts[1] in self.absent:
            return _status(404, "the server could not find the requested resource")
        namespace = ""
        if len(rest) >= 3 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        plural, *named = rest
        path = "/".join(["", *root, plural])
        if plural in self.forbidden:
            return _status(403, f"{plural} is forbidden")
        body = await request.json() if request.can_read_body else {}
        if plural == "tokenreviews":
            return web.json_response({"status": self.token_review(body["spec"])}, status=201)
        if not named:
            if request.method == "POST":
                return self._create(path, namespace, body)
            if request.query.get("watch") == "true":
                return await self._watch(request, path, namespace)
            return await self._list(request, path, namespace)
        return self._one(request, path, (namespace, named[0]), body)

    def _create(self, path: str, namespace: str, body: Object) -> web.Response:
        meta = body["metadata"]
        if "name" not in meta:
            meta["name"] = f"{meta['generateName']}{self.version}"
        if (namespace, meta["name"]) in self.objects.get(path, {}):
            return _status(409, f"{meta['name']} already exists")
        if namespace:
            meta["namespace"] = namespace
        return web.json_response(self._store(path, (namespace, meta["name"]), body), status=201)

    def _store(self, path: str, key: Key, body: Object) -> Object:
        known = self.objects.setdefault(path, {}).get(key)
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        body["metadata"].setdefault("uid", known["metadata"]["uid"] if known else f"uid-{self.version}")
        self.objects[path][key] = body
        self._record(path, "MODIFIED" if known else "ADDED", body)
        return body

    def _one(self, request: web.Request, path: str, key: Key, body: Object) -> web.Response:
        known = self.objects.get(path, {}).get(key)
        if known is None:
            return _status(404, f"{key[1]} not found")
        match request.method:
            case "PUT":
                given = body["metadata"].get("resourceVersion")
                if given not in (None, known["metadata"]["resourceVersion"]):
                    return _status(409, "the object has been modified")
                return web.json_response(self._store(path, key, body))
            case "PATCH":
                assert request.content_type == "application/merge-patch+json", request.content_type
                given = body.get("metadata", {}).get("resourceVersion")
                if given not in (None, known["metadata"]["resourceVersion"]):
                    return _status(409, "the object has been modified")
                return web.json_response(self._store(path, key, _merged(known, body)))
            case "DELETE":
                self.objects[path].pop(key)
                self.version += 1
                known["metadata"]["resourceVersion"] = str(self.version)
                self._record(path, "DELETED", known)
                return web.json_response({"kind": "Status", "status": "Success"})
        return web.json_response(known)

    async def _list(self, request: web.Request, path: str, namespace: str) -> web.Response:
        await asyncio.sleep(self.slow_seconds)
        found = [
            stored
            for key, stored in sorted(self.objects.get(path, {}).items())
            if (not namespace or key[0] == namespace) and _selected(stored, request)
        ]
        token, limit = request.query.get("continue", "0.0"), int(request.query.get("limit", "0")) or len(found) or 1
        version, start = (int(part) for part in token.split("."))
        if version and version < self.compacted:
            return _status(410, "The provided continue parameter is too old")
        meta = {"resourceVersion": str(version or self.version)}
        if start + limit < len(found):
            meta["continue"] = f"{version or self.version}.{start + limit}"
        return web.json_response({"kind": "List", "metadata": meta, "items": found[start : start + limit]})

    async def _watch(self, request: web.Request, path: str, namespace: str) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion") or self.version)
        response = web.StreamResponse()
        response.content_type = "application/json"
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            await response.prepare(request)
            if since < self.compacted:
                error = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                await _line(response, {"type": "ERROR", "object": error})
                return response
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", "60")) if not self.mute else 60):
                await self._stream(response, request, path, namespace, since)
        except TimeoutError:
            if request.query.get("allowWatchBookmarks") == "true":
                await _line(
                    response, {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}
                )
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass
        finally:
            self._streams.discard(task)
        return response

    async def _stream(
        self, response: web.StreamResponse, request: web.Request, path: str, namespace: str, since: int
    ) -> None:
        while True:
            start, latest = bisect_right(self.log, since, key=itemgetter(0)), self.version
            for _, where, event, stored in self.log[start:]:
                if where != path or self.mute:
                    continue
                elsewhere = namespace and stored["metadata"].get("namespace") != namespace
                if elsewhere or not _selected(stored, request):
                    continue
                for _ in range(2 if self.twice else 1):
                    await _line(response, {"type": event, "object": stored})
            since = max(since, latest)
            async with self._changed:
                await self._changed.wait_for(lambda: self.version > since)  # noqa: B023


def _selected(stored: Object, request: web.Request) -> bool:
    meta = stored["metadata"]
    for term in filter(None, request.query.get("labelSelector", "").split(",")):
        name, sign, value = term.partition("=")
        labels = meta.get("labels", {})
        if (sign and labels.get(name) != value) or name not in labels:
            return False
    for term in filter(None, request.query.get("fieldSelector", "").split(",")):
        name, _, value = term.partition("=")
        assert name == "metadata.name", name
        if meta["name"] != value:
            return False
    return True


def _merged(known: Object, patch: Object) -> Object:
    """RFC 7386."""
    result = copy.deepcopy(known)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = _merged(result.get(name) or {}, value)
        else:
            result[name] = value
    return result


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "code": code, "message": message}, status=code)


async def _line(response: web.StreamResponse, event: Object) -> None:
    await response.write(json.dumps(event).encode() + b"\n")


@contextmanager
def api_thread() -> Iterator[FakeApi]:
    """A server on a loop of its own, for clients that are other processes."""
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    holder: list[FakeApi] = []

    async def serve() -> None:
        async with FakeApi() as api:
            holder.append(api)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield holder[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
