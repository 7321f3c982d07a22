"""The HTTP side: API, streams, web UI; and the admin server beside it.

    GET /api/{stat,stat-inbound,stat-outbound,routes,edges,certificates}?resource=deploy/web&namespace=shop&window=1m
    GET /api/topology?namespace=shop&window=1m
    GET /api/tap?resource=…&method=…&path=…&authority=…&to=…&max-rps=…    JSON lines, until the client leaves
    GET /api/top?resource=…                                               JSON lines, all rows once a second
    GET /                                                                 the web UI; files under /static/

Without `namespace` all namespaces are meant. Errors are `{"error": "one line"}` with 400, 403, 404 or 503.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from mesh.viz.counters import Counters
from mesh.viz.fleet import Fleet
from mesh.viz.gate import HEADER, Gate
from mesh.viz.identity import LeafKeeper, NoLeaf
from mesh.viz.queries import QUESTIONS, BadQuery, NotFound, answer, tap_query_of
from mesh.viz.tap import TAPPING, TapRefused, TapStream
from mesh.viz.top import Top

WEB = Path(__file__).parent / "web"
FILES = {
    "index.html": "text/html; charset=utf-8",
    "viz.css": "text/css; charset=utf-8",
    "viz.js": "text/javascript; charset=utf-8",
}
HEARTBEAT_SECONDS = 5.0
"""A blank line where a stream is quiet, so that a client that left is noticed."""
MAX_STREAMS = 32
TOP_SECONDS = 1.0
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The handlers. `leaf` None: there is no tap, as the process was not told how to get a certificate."""

    def __init__(
        self,
        fleet: Fleet,
        gate: Gate,
        leaf: LeafKeeper | None,
        counters: Counters,
        interval: float,
        ready: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._gate = gate
        self._leaf = leaf
        self._counters = counters
        self._interval = interval
        self._ready = ready
        self._streams = 0
        counters.gauges["viz_streams"] = lambda: float(self._streams)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[_errors])
        for question in QUESTIONS:
            app.router.add_get(f"/api/{question}", self._asking(question))
        app.router.add_get("/api/tap", self._tap)
        app.router.add_get("/api/top", self._top)
        app.router.add_get("/", _file("index.html"))
        for name in FILES:
            app.router.add_get(f"/static/{name}", _file(name))
        return app

    def admin(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/live", _text("live\n"))
        app.router.add_get("/ready", self._readiness)
        app.router.add_get("/metrics", self._metrics)
        return app

    # ---- answers

    def _asking(self, question: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if not self._ready():
                raise _Unavailable("the list of pods is not in yet; try again in a moment")
            found = answer(self._fleet, question, request.query, time.time(), self._interval)
            return web.Response(body=msgspec.json.encode(found), content_type="application/json", headers=SECURITY)

        return handle

    async def _tap(self, request: web.Request) -> web.StreamResponse:
        stream = await self._open(request)
        response = await self._begin(request)
        async with _counted(self):
            async for event in stream.events(HEARTBEAT_SECONDS):
                await response.write(b"\n" if event is None else json.dumps(event).encode() + b"\n")
        return response

    async def _top(self, request: web.Request) -> web.StreamResponse:
        stream = await self._open(request)
        top = Top((member.pod for member in stream.members), by_workload=request.query.get("by") == "workload")
        notes: list[str] = []
        tapping = 0
        response = await self._begin(request)
        loop = asyncio.get_running_loop()
        async with _counted(self):
            began = due = loop.time()
            async for event in stream.events(TOP_SECONDS / 2):
                if event is not None and event["event"] == "note":
                    if event["text"] == TAPPING:
                        tapping += 1
                    else:
                        notes.append(f"{event.get('namespace', '')}/{event.get('pod', '')}: {event['text']}")
                        del notes[:-20]
                elif event is not None:
                    top.add(event)
                if loop.time() >= due:
                    due = loop.time() + TOP_SECONDS
                    await response.write(_snapshot(top, notes, tapping, loop.time() - began))
            await response.write(_snapshot(top, notes, tapping, loop.time() - began))
        return response

    async def _open(self, request: web.Request) -> TapStream:
        query = tap_query_of(request.query)
        if not await self._gate.admits(request.headers.get(HEADER, "")):
            self._counters.add("viz_taps_refused_total")
            raise _Forbidden("this client may not tap: it did not show the token of the Secret viz-tap")
        if self._leaf is None:
            raise _Unavailable("viz runs without a certificate (--identity-addr), so no proxy lets it tap")
        if self._streams >= MAX_STREAMS:
            raise _Unavailable(f"{MAX_STREAMS} taps are open already")
        try:
            self._leaf.context()
        except NoLeaf as error:
            raise _Unavailable(f"viz has no certificate to tap with: {error}") from None
        return TapStream(self._fleet, query, self._leaf.context)

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        headers = {"content-type": "application/x-ndjson", "x-accel-buffering": "no", **SECURITY}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        return response

    # ---- admin

    async def _readiness(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ready\n") if self._ready() else web.Response(text="not ready\n", status=503)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=self._counters.exposition())

    def stream_began(self) -> None:
        self._streams += 1
        self._counters.add("viz_taps_total")

    def stream_ended(self) -> None:
        self._streams -= 1


class _counted:  # noqa: N801 – reads as a block
    def __init__(self, api: Api) -> None:
        self._api = api

    async def __aenter__(self) -> None:
        self._api.stream_began()

    async def __aexit__(self, *error: object) -> None:
        self._api.stream_ended()


class _Unavailable(Exception):
    pass


class _Forbidden(Exception):
    pass


_STATUS: dict[type[Exception], int] = {
    BadQuery: 400,
    NotFound: 404,
    TapRefused: 404,
    _Forbidden: 403,
    _Unavailable: 503,
}


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except tuple(_STATUS) as error:
        return _error(_STATUS[type(error)], str(error))
    except web.HTTPException as error:
        return _error(error.status, f"{request.path}: {error.reason.lower()}")
    except ConnectionResetError:
        raise asyncio.CancelledError from None  # the client of a stream left: nobody to answer


def _error(status: int, text: str) -> web.Response:
    body = json.dumps({"error": text}).encode()
    return web.Response(status=status, body=body, content_type="application/json", headers=SECURITY)


def _snapshot(top: Top, notes: list[str], tapping: int, seconds: float) -> bytes:
    found: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "tapping": tapping,
        "rows": top.rows,
        "notes": notes,
        "folded": top.folded,
    }
    return msgspec.json.encode(found) + b"\n"


def _file(name: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        body = (WEB / name).read_bytes()
        return web.Response(body=body, headers={"content-type": FILES[name], **SECURITY})

    return handle


def _text(text: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text)

    return handle
