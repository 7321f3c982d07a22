"""One control-plane process: the components of its configuration, from start to SIGTERM.

    read files ─► take addresses ─► (identity: sign own leaf | others: ask identity) ─► serve ─► SIGTERM ─► end streams

Admin answers from the start, so that `/ready` can say no. A component accepts connections only once it has a leaf. What
differs on Kubernetes is in `kubernetes.py`, imported only there: its client takes 20 MB and a fifth of a second.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
import time
from collections.abc import Coroutine

from mesh.control.admin import admin_handler
from mesh.control.anchors import TrustAnchors
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
GOODBYE_SECONDS = 2.0
"""For background work to end properly, such as giving up a lease."""


class AddressTaken(Exception):
    """A listen address cannot be had."""


class NoCluster(Exception):
    """--kubernetes, and no API server to speak to."""


class Process:
    """Everything that runs in this process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.trust_domain = config.trust_domain
        self.anchors = TrustAnchors(config.anchors_path, config.anchors, Log("control", config.log_level))
        self._servers: list[HttpServer] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT; the exit code.

        Raises:
            InvalidCredentials, IssuerUnavailable, RegistryUnreadable, AddressTaken, NoCluster: nothing was served.
        """
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        log = Log("control", self._config.log_level)
        loop.set_exception_handler(lambda _, context: _unexpected(log, context))
        try:
            await self._start()
            self.spawn(self.anchors.watch(), log)
            await self._stop.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*(server.close() for server in self._servers))
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=GOODBYE_SECONDS)
        log.info("stopped")
        return self._exit_code

    async def _start(self) -> None:
        config = self._config
        if config.kubernetes is not None:
            from mesh.control.kubernetes import Cluster

            cluster = Cluster(config.kubernetes, self)
            if config.identity is not None:
                await cluster.start_identity(config.identity)
            for discovery in config.discoveries:
                await cluster.start_discovery(discovery)
            return
        if config.identity is not None:
            await self._start_identity(config.identity)
        for discovery in config.discoveries:
            await self._start_discovery(discovery)

    async def _start_identity(self, config: IdentityConfig) -> None:
        log, metrics = self.tools(config.server)
        assert config.issuer is not None, "checked with the flags"
        assert config.verifier is not None, "checked with the flags"
        issuers = IssuerDirectory(config.issuer, self._config.anchors, log, metrics, time.time)
        issuers.load()
        credentials = server_credentials(config.server.local_name, self._config.anchors, require_client=False)
        self.anchors.on_change(issuers.trust)
        self.anchors.on_change(credentials.trust)
        terms = LeafTerms(config.leaf_lifetime, config.clock_skew)
        identity = Identity(issuers, config.verifier, terms, self._config.trust_domain, credentials, log, metrics)
        identity.certify_itself()
        server = HttpServer("identity", identity.handle, metrics, credentials.context)
        await self.admin(config.server.admin, admin_handler(metrics, lambda: identity.ready), metrics)
        await self.bind(server, config.server.listen)
        await server.serve()
        log.info("serving", address=config.server.listen, name=config.server.local_name)
        self.spawn(identity.watch_issuer(), log)

    async def _start_discovery(self, config: DiscoveryConfig) -> None:
        log, metrics = self.tools(config.server)
        assert config.registry is not None, "checked with the flags"
        files = RegistryFiles(config.registry, log, metrics)
        discovery = Discovery(files, log, metrics, config.cluster)
        discovery.load()
        credentials = server_credentials(config.server.local_name, self._config.anchors, require_client=True)
        self.anchors.on_change(credentials.trust)
        renewal = Renewal(credentials, config.identity, config.token, config.min_refresh, log, metrics)
        serves_policy = config.server.component == "policy"
        handler = discovery.policy_handler() if serves_policy else discovery.destination_handler()
        server = HttpServer(config.server.component, handler, metrics, credentials.context)
        debug = discovery.policy_debug_handler() if serves_policy else discovery.destination_debug_handler()
        ready = asyncio.Event()
        await self.admin(config.server.admin, admin_handler(metrics, ready.is_set, debug), metrics)
        await self.bind(server, config.server.listen)

        async def serve() -> None:
            await renewal.first()
            await server.serve()
            ready.set()
            log.info("serving", address=config.server.listen, name=config.server.local_name)
            await renewal.run()

        self.spawn(discovery.watch_registry(), log)
        self.spawn(serve(), log)

    # ---- what a component's start needs

    def tools(self, server: ServerConfig) -> tuple[Log, Metrics]:
        return Log(server.component, self._config.log_level), Metrics()

    async def admin(self, address: Address, handler: Handler, metrics: Metrics) -> None:
        server = HttpServer("admin", handler, metrics)
        await self.bind(server, address)
        await server.serve()

    async def bind(self, server: HttpServer, address: Address) -> None:
        try:
            await server.bind(address.host, address.port)
        except OSError as error:
            raise AddressTaken(f"cannot listen on {address}: {error.strerror or error}") from None
        self._servers.append(server)

    def spawn(self, work: Coroutine[object, object, None], log: Log) -> None:
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
    except (InvalidFlags, InvalidCredentials, IssuerUnavailable, RegistryUnreadable, AddressTaken, NoCluster) as error:
        print(f"mesh.control: {error}", file=sys.stderr)
        return BAD_FLAGS
