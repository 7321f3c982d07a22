"""Plays one service of a topology.

    http_proxy=http://IP:4140 python -m scenarios.workload --app FILE --service NAME --listen IP:PORT --admin IP:PORT

With --direct, calls go straight to the services' names: for pods whose traffic is intercepted.

Exit 2 with one line on wrong input; SIGTERM and SIGINT stop accepting, let the requests under way finish, exit 0.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import uvloop

from scenarios.load.application import load_application
from scenarios.load.problems import InvalidScenario
from scenarios.model import Application, AppService
from scenarios.workload.admin import Admin
from scenarios.workload.client import DirectClient, ProxyClient
from scenarios.workload.http import Connection, Handler
from scenarios.workload.station import Station

_GRACE_SECONDS = 5.0
"""Kubernetes gives 30; a drill must not wait that long for a frozen workload."""

_NAMES_SECONDS = 60.0


class InvalidInput(ValueError):
    """One line for the person who typed it."""


def _address(text: str, what: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 <= int(port[:6]) <= 65535:
        raise InvalidInput(f"{what}: {text!r} is not ip:port")
    return host, int(port)


def _proxy(environment: Mapping[str, str], service: AppService) -> tuple[str, int] | None:
    url = environment.get("http_proxy", "")
    if not url:
        if any(route.calls for route in service.routes):
            raise InvalidInput(f"http_proxy is not set, and {service.name} calls other services")
        return None
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        port = parts.port or 80
    except ValueError:
        raise InvalidInput(f"http_proxy: {url!r} is not http://ip:port") from None
    if not parts.hostname:
        raise InvalidInput(f"http_proxy: {url!r} is not http://ip:port")
    return parts.hostname, port


def _service(app: Application, name: str) -> AppService:
    try:
        service = app.service(name)
    except KeyError:
        known = ", ".join(known.name for known in app.services)
        raise InvalidInput(f"no service {name!r} in topology {app.name}; there is {known}") from None
    if service.command is not None:
        raise InvalidInput(f"{name} is played by its own command, not by the workload")
    return service


async def _addresses(app: Application, service: AppService) -> dict[str, tuple[str, int]]:
    """Where the services are that this one calls. Names may be younger than we are: asked again for a while."""
    loop = asyncio.get_running_loop()
    found: dict[str, tuple[str, int]] = {}
    called = {call.service for route in service.routes for stage in route.calls for call in stage}
    for callee in (app.service(name) for name in sorted(called)):
        deadline = loop.time() + _NAMES_SECONDS
        while callee.authority not in found:
            try:
                # The dot at the end spares the search list, which is five more questions.
                answers = await loop.getaddrinfo(f"{callee.host}.", callee.port, type=socket.SOCK_STREAM)
                found[callee.authority] = (str(answers[0][4][0]), callee.port)
            except OSError as error:
                if loop.time() > deadline:
                    raise InvalidInput(f"{callee.host}: {error.strerror or error}") from None
                await asyncio.sleep(0.5)
    return found


async def _listen(
    handler: Handler, address: tuple[str, int], open_connections: set[Connection], *, keeps_body: bool
) -> asyncio.Server:
    def connection() -> Connection:
        return Connection(handler, open_connections, keeps_body=keeps_body)

    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(connection, *address, backlog=1024, reuse_address=True)
    except OSError as error:
        raise InvalidInput(f"cannot listen on {address[0]}:{address[1]}: {error.strerror or error}") from None


async def serve(arguments: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Runs until told to stop. Raises InvalidInput and InvalidScenario before anything listens."""
    app = load_application(Path(arguments.app))
    service = _service(app, arguments.service)
    listen = _address(arguments.listen, "--listen")
    admin_listen = _address(arguments.admin, "--admin")
    loop = asyncio.get_running_loop()
    # Replicas share the run's seed and must not roll the same dice.
    replica = arguments.replica or arguments.listen
    rng = Random(f"{arguments.seed}/{service.name}/{replica}") if arguments.seed is not None else Random()
    client: ProxyClient | DirectClient | None
    if arguments.direct:
        client = DirectClient(await _addresses(app, service), loop)
    else:
        proxy = _proxy(environment, service)
        client = ProxyClient(*proxy, loop) if proxy is not None else None
    station = Station(app, service, client, rng, loop)
    connections: set[Connection] = set()
    admin_connections: set[Connection] = set()
    server = await _listen(station.handle, listen, connections, keeps_body=False)
    admin = await _listen(Admin(station).handle, admin_listen, admin_connections, keeps_body=True)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gc.collect()
    gc.freeze()
    print(f"{service.name} listens on {arguments.listen}, admin on {arguments.admin}", flush=True)
    await stop.wait()

    server.close()
    for connection in list(connections):
        connection.finish()
    deadline = loop.time() + _GRACE_SECONDS
    while connections and loop.time() < deadline:
        await asyncio.sleep(0.02)
    admin.close()
    for connection in list(admin_connections):
        connection.finish()
    if client is not None:
        client.close()
    print(f"{service.name} stops, {len(connections)} requests unanswered", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scenarios.workload", description="Plays one service of a topology."
    )
    parser.add_argument("--app", required=True, help="the application file")
    parser.add_argument("--service", required=True)
    parser.add_argument("--listen", required=True, metavar="IP:PORT")
    parser.add_argument("--admin", required=True, metavar="IP:PORT")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--replica", default=None, help="what tells this replica's dice apart; --listen without it")
    parser.add_argument("--direct", action="store_true", help="call services by name, not through http_proxy")
    arguments = parser.parse_args(argv)
    run: Callable[..., None] = uvloop.run
    try:
        run(serve(arguments, os.environ))
    except (InvalidInput, InvalidScenario) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
