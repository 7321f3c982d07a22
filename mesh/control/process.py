"""One control-plane process: the components of its configuration, from start to SIGTERM.

    read files ─► take addresses ─► (identity: sign own leaf | others: ask identity) ─► serve ─► SIGTERM ─► end streams

Admin answers from the start, so that `/ready` can say no. A component accepts connections only once it has a leaf.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
import time
from collections.abc import Coroutine

from mesh.control.admin import admin_handler
from mesh.control.certify import IssuerUnavailable, LeafTerms
from mesh.control.config import Address, Config, DiscoveryConfig, IdentityConfig, InvalidFlags, ServerConfig, parse
from mesh.control.credentials import server_credentials
from mesh.control.discovery import Discovery
from mesh.control.http import Handler, HttpServer
from mesh.control.identity import Identity
from mesh.control.issuer import IssuerDirectory
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.pki import InvalidCredentials
from mesh.control.registry.files import RegistryFiles, RegistryUnreadable
from mesh.control.renewal import Renewal

FAILED = 1
BAD_FLAGS = 2


class AddressTaken(Exception):
    """A listen address cannot be had."""


class Process:
    """Everything that runs in this process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._servers: list[HttpServer] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT; the exit code.

        Raises:
            InvalidCredentials, IssuerUnavailable, RegistryUnreadable, AddressTaken: nothing was served.
        """
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        log = Log("control", self._config.log_level)
        loop.set_exception_handler(lambda _, context: _unexpected(log, context))
        try:
            if self._config.identity is not None:
                await self._start_identity(self._config.identity)
            for discovery in self._config.discoveries:
                await self._start_discovery(discovery)
            await self._stop.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*(server.close() for server in self._servers))
        log.info("stopped")
        return self._exit_code

    async def _start_identity(self, config: IdentityConfig) -> None:
        log, metrics = self._tools(config.server)
        issuers = IssuerDirectory(config.issuer, self._config.anchors, log, metrics, time.time)
        issuers.load()
        credentials = server_credentials(config.server.local_name, self._config.anchors, require_client=False)
        terms = LeafTerms(config.leaf_lifetime, config.clock_skew)
        identity = Identity(issuers, config.verifier, terms, self._config.trust_domain, credentials, log, metrics)
        identity.certify_itself()
        server = HttpServer("identity", identity.handle, metrics, credentials.context)
        await self._admin(config.server.admin, admin_handler(metrics, lambda: identity.ready), metrics)
        await self._bind(server, config.server.listen)
        await server.serve()
        log.info("serving", address=config.server.listen, name=config.server.local_name)
        self._spawn(identity.watch_issuer(), log)

    async def _start_discovery(self, config: DiscoveryConfig) -> None:
        log, metrics = self._tools(config.server)
        files = RegistryFiles(config.registry, log, metrics)
        discovery = Discovery(files, self._config.trust_domain, log, metrics, config.cluster)
        discovery.load()
        credentials = server_credentials(config.server.local_name, self._config.anchors, require_client=True)
        renewal = Renewal(credentials, config.identity, config.token, config.min_refresh, log, metrics)
        serves_policy = config.server.component == "policy"
        handler = discovery.policy_handler() if serves_policy else discovery.destination_handler()
        server = HttpServer(config.server.component, handler, metrics, credentials.context)
        debug = discovery.policy_debug_handler() if serves_policy else discovery.destination_debug_handler()
        ready = asyncio.Event()
        await self._admin(config.server.admin, admin_handler(metrics, ready.is_set, debug), metrics)
        await self._bind(server, config.server.listen)

        async def serve() -> None:
            await renewal.first()
            await server.serve()
            ready.set()
            log.info("serving", address=config.server.listen, name=config.server.local_name)
            await renewal.run()

        self._spawn(discovery.watch_registry(), log)
        self._spawn(serve(), log)

    def _tools(self, server: ServerConfig) -> tuple[Log, Metrics]:
        return Log(server.component, self._config.log_level), Metrics()

    async def _admin(self, address: Address, handler: Handler, metrics: Metrics) -> None:
        server = HttpServer("admin", handler, metrics)
        await self._bind(server, address)
        await server.serve()

    async def _bind(self, server: HttpServer, address: Address) -> None:
        try:
            await server.bind(address.host, address.port)
        except OSError as error:
            raise AddressTaken(f"cannot listen on {address}: {error.strerror or error}") from None
        self._servers.append(server)

    def _spawn(self, work: Coroutine[object, object, None], log: Log) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda done: self._died(log, done))
        self._tasks.append(task)

    def _died(self, log: Log, task: asyncio.Task[None]) -> None:
        """A background task ends by cancellation or by a bug; a server whose renewals died must not look healthy."""
        if not task.cancelled():
            log.error("background work failed; stopping", reason=repr(task.exception()))
            self._exit_code = FAILED
            self._stop.set()


def _unexpected(log: Log, context: dict[str, object]) -> None:
    error = context.get("exception")
    if isinstance(error, (ConnectionError, TimeoutError, ssl.SSLError)):
        log.debug("connection failed", reason=error)
        return
    log.error("unexpected", reason=repr(error) if error is not None else context.get("message"))


def main(arguments: list[str] | None = None) -> int:
    """The program. Exit codes: 0 stopped on request, 1 a bug, 2 flags or files that cannot be used."""
    import uvloop

    try:
        config = parse(sys.argv[1:] if arguments is None else arguments)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Process(config).run())
    except (InvalidFlags, InvalidCredentials, IssuerUnavailable, RegistryUnreadable, AddressTaken) as error:
        print(f"mesh.control: {error}", file=sys.stderr)
        return BAD_FLAGS
