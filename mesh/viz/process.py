"""The process, from start to SIGTERM: pods ─► fleet ◄─ scraper; API over the fleet; tap with a leaf of our own."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Coroutine, Iterable
from typing import Any

from aiohttp import web

from mesh.control.config import Address, InvalidFlags
from mesh.control.log import Log
from mesh.kube.api import Api as KubernetesApi
from mesh.kube.client import ClusterUnreachable, service_account_config
from mesh.viz.config import Config, parse
from mesh.viz.counters import Counters
from mesh.viz.fleet import Fleet
from mesh.viz.gate import FileGate, Gate, OpenGate, SecretGate
from mesh.viz.identity import LeafKeeper
from mesh.viz.pods import Pod
from mesh.viz.scraper import Scraper
from mesh.viz.server import Api
from mesh.viz.sources import PodsOfCluster, PodsOfFile, PodSource, PodsUnreadable

FAILED = 1
BAD_FLAGS = 2
SHUTDOWN_SECONDS = 1.0


class AddressTaken(Exception):
    """A listen address cannot be had."""


class Process:
    """Everything that runs in this process."""

    def __init__(self, config: Config) -> None:
        """Must be made on the loop that runs it.

        Raises:
            PodsUnreadable, ClusterUnreachable: there is no list of pods.
        """
        self._config = config
        self._log = Log("viz", config.log_level)
        self._counters = Counters()
        self.fleet = Fleet(config.cluster_domain)
        self._kubernetes: KubernetesApi | None = None
        self._source, self._gate = self._where()
        self._leaf = LeafKeeper(config.identity, self._log, self._counters) if config.identity is not None else None
        self._api = Api(
            self.fleet,
            self._gate,
            self._leaf,
            self._counters,
            config.scrape_interval,
            lambda: self._source.synced,
        )
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._runners: list[web.AppRunner] = []
        self._exit_code = 0
        self.port = 0
        """Where the API listens, once it does."""

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT; the exit code."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, self._stop.set)
        try:
            await self.start()
            await self._stop.wait()
        finally:
            await self.close()
        return self._exit_code

    async def start(self) -> None:
        """Raises AddressTaken."""
        config = self._config
        await self._serve(self._api.admin(), config.admin)
        self.port = await self._serve(self._api.application(), config.listen)
        self._spawn(self._source.run(self._update))
        scraper = Scraper(
            self.fleet,
            self._log,
            self._counters,
            interval=config.scrape_interval,
            timeout=config.scrape_timeout,
            concurrency=config.scrape_concurrency,
        )
        self._spawn(scraper.run())
        if self._leaf is not None:
            self._spawn(self._leaf.run())
        if isinstance(self._gate, SecretGate):
            self._spawn(self._gate.prepare(), ends=True)
        self._log.info("serving", address=config.listen, admin=config.admin)

    async def close(self) -> None:
        """Ends streams, tasks and connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for runner in self._runners:
            await runner.cleanup()
        if self._kubernetes is not None:
            await self._kubernetes.close()
        self._log.info("stopped")

    # ---- inside

    def _where(self) -> tuple[PodSource, Gate]:
        config = self._config
        if config.pods is not None:
            gate: Gate = FileGate(config.tap_token) if config.tap_token is not None else OpenGate()
            return PodsOfFile(config.pods, self._log), gate
        self._kubernetes = KubernetesApi.of(service_account_config())
        source = PodsOfCluster(self._kubernetes, self._log, config.trust_domain, config.controller_namespace)
        return source, SecretGate(self._kubernetes, config.namespace, self._log)

    def _update(self, pods: Iterable[Pod]) -> None:
        self.fleet.update(pods, time.time())

    async def _serve(self, app: web.Application, address: Address) -> int:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, handler_cancellation=True)
        await runner.setup()
        self._runners.append(runner)
        try:
            await web.TCPSite(runner, address.host, address.port).start()
        except OSError as error:
            raise AddressTaken(f"cannot listen on {address}: {error.strerror or error}") from None
        return int(runner.addresses[0][1])

    def _spawn(self, work: Coroutine[Any, Any, None], *, ends: bool = False) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda done: self._died(done, ends))
        self._tasks.append(task)

    def _died(self, task: asyncio.Task[None], ends: bool) -> None:
        """A background task ends by cancellation or by a bug; a viz that no longer scrapes must not look healthy."""
        if task.cancelled() or (ends and task.exception() is None):
            return
        self._log.error("background work failed; stopping", reason=repr(task.exception()))
        self._exit_code = FAILED
        self._stop.set()


def main(arguments: list[str] | None = None) -> int:
    """The program. Exit codes: 0 stopped on request, 1 a bug, 2 flags or files that cannot be used."""
    import uvloop

    async def serve(config: Config) -> int:
        return await Process(config).run()

    try:
        config = parse(sys.argv[1:] if arguments is None else arguments)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(config))
    except (InvalidFlags, PodsUnreadable, ClusterUnreachable, AddressTaken) as error:
        print(f"mesh.viz: {error}", file=sys.stderr)
        return BAD_FLAGS
