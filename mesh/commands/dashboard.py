"""`gameday mesh dashboard`: the web UI of viz on a loopback port, through the API server.

    browser ──► 127.0.0.1:PORT ──► API server ──► service viz:8084

What is passed on: GET of the UI and its API, with the tap token that the user's kubeconfig can read. The port answers
to whoever can reach it, so pages of other sites must not use it: requests with another Host (DNS rebinding) or from
another site (Origin, Sec-Fetch-Site) are refused. Threads and not asyncio: the Kubernetes client is synchronous, and
there is one user.
"""

from __future__ import annotations

import signal
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from mesh.commands.cluster import DEFAULTS, ClusterOptions
from mesh.commands.errors import CommandFailed
from mesh.commands.viz_api import SILENCE_SECONDS, VizApi, viz
from mesh.kube.client import CONNECT_SECONDS, REQUEST_SECONDS, http_of
from mesh.viz.gate import HEADER

DEFAULT_PORT = 50750
"""Linkerd's."""
PASSED = ("content-type", "content-security-policy", "x-content-type-options", "referrer-policy", "cache-control")


def dashboard(*, port: int = DEFAULT_PORT, cluster: ClusterOptions = DEFAULTS) -> int:
    """Serve the web UI on this machine and print its address. Ctrl-C ends it.

    Parameters
    ----------
    port
        On 127.0.0.1; 0 takes a free one.
    """
    with viz(cluster) as api:
        api.present()
        server = make_server(api, port)
        print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
        print("Ctrl-C ends it.", file=sys.stderr)
        serve(server)
    return 0


def make_server(api: VizApi, port: int) -> DashboardServer:
    """Raises CommandFailed where the port cannot be had."""
    try:
        return DashboardServer(api, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CommandFailed(f"cannot listen on 127.0.0.1:{port}: {reason}; choose another --port, or 0") from None


def serve(server: DashboardServer) -> None:
    """Until SIGINT or SIGTERM."""

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.serve_forever(poll_interval=0.2)
    finally:
        server.server_close()
        for number, handler in before.items():
            signal.signal(number, handler)


class DashboardServer(ThreadingHTTPServer):
    """Passes requests on to viz."""

    daemon_threads = True
    block_on_close = False
    """A stream under way ends with the process, not before it."""
    allow_reuse_address = True

    def __init__(self, api: VizApi, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.api = api
        self.token = api.token()
        number = self.server_address[1]
        self.hosts = {f"{name}:{number}" for name in ("127.0.0.1", "localhost", "[::1]")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a tab breaks its streams: nothing to report."""
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: DashboardServer

    def do_GET(self) -> None:
        refusal = self._refusal()
        if refusal is not None:
            self._answer(*refusal)
            return
        path, _, query = self.path.partition("?")
        url = self.server.api.path(path) + (f"?{query}" if query else "")
        timeout = httpx2.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS, read=SILENCE_SECONDS)
        headers = {HEADER: self.server.token, "accept-encoding": "identity"}
        try:
            with http_of(self.server.api.client).stream("GET", url, headers=headers, timeout=timeout) as response:
                self._pass_on(response)
        except httpx2.HTTPError as error:
            self._answer(HTTPStatus.BAD_GATEWAY, f"the cluster does not answer: {error or type(error).__name__}")

    def _refusal(self) -> tuple[HTTPStatus, str] | None:
        if self.headers.get("host", "") not in self.server.hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, "open the address that `gameday mesh dashboard` printed"
        origin = self.headers.get("origin")
        site = self.headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") or (origin and origin.removeprefix("http://") not in self.server.hosts):
            return HTTPStatus.FORBIDDEN, "not for pages of other sites"
        path = self.path.partition("?")[0]
        known = path == "/" or path.startswith(("/api/", "/static/"))
        if not known or ".." in path or "%" in path or "//" in path:
            return HTTPStatus.NOT_FOUND, "not found"
        return None

    def _pass_on(self, response: httpx2.Response) -> None:
        self.send_response(response.status_code)
        for name in PASSED:
            if name in response.headers:
                self.send_header(name, response.headers[name])
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for piece in response.iter_raw():
                if piece:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    self.wfile.flush()
        except httpx2.HTTPError:
            self.close_connection = True  # without the last chunk: the browser sees that it broke off
            return
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = text.encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the user's."""
