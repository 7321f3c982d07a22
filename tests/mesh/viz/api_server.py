"""As much of an API server as the viz commands need: version, one Secret, and the proxy subresource of the service viz.

Behind it is a real viz; like the real one it takes the client's own authorization away and passes the rest on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

VIZ = "/api/v1/namespaces/linkerd-viz/services/viz:8084/proxy"


class ApiServer:
    """`viz`: base URL of what is behind the service; empty: not installed. `token`: in the Secret."""

    def __init__(self, viz: str, token: str = "") -> None:
        self.viz = viz
        self.token = token
        self.ready = True
        self._session = aiohttp.ClientSession()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/version", self._version)
        app.router.add_get("/api/v1/namespaces/linkerd-viz/secrets/viz-tap", self._secret)
        app.router.add_get(VIZ + "/{path:.*}", self._proxy)
        return app

    async def close(self) -> None:
        await self._session.close()

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"gitVersion": "v1.34.4"})

    async def _secret(self, request: web.Request) -> web.Response:
        if not self.token:
            return _status(403, 'secrets "viz-tap" is forbidden')
        data = {"token": base64.b64encode(self.token.encode()).decode()}
        return web.json_response({"kind": "Secret", "data": data})

    async def _proxy(self, request: web.Request) -> web.StreamResponse:
        if not self.viz:
            return _status(404, 'services "viz" not found')
        if not self.ready:
            return _status(503, 'no endpoints available for service "viz:8084"')
        url = f"{self.viz}/{request.match_info['path']}"
        headers = {name: value for name, value in request.headers.items() if name.lower().startswith("l5d-")}
        async with self._session.get(url, params=request.query, headers=headers) as behind:
            answer = web.StreamResponse(status=behind.status)
            for name in ("content-type", "content-security-policy"):
                if name in behind.headers:
                    answer.headers[name] = behind.headers[name]
            await answer.prepare(request)
            async for piece in behind.content.iter_any():
                await answer.write(piece)
            return answer


def _status(code: int, message: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return web.Response(status=code, body=json.dumps(body).encode(), content_type="application/json")


@asynccontextmanager
async def api_server(directory: Path, viz: str, token: str = "") -> AsyncIterator[tuple[ApiServer, str]]:
    """A running one, and a kubeconfig for it."""
    made = ApiServer(viz, token)
    runner = web.AppRunner(made.application(), handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "test", "user": {}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "shop"}}],
            }
        )
    )
    try:
        yield made, str(kubeconfig)
    finally:
        await made.close()
        await runner.cleanup()
