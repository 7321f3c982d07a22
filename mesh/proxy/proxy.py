"""One proxy process, put together.

admin listener                       at once
identity ──► first certificate       /ready answers 503 until then
outbound and inbound listeners       only then, as Linkerd does
SIGTERM                              /ready answers 503; inbound drains, then outbound; exit within the grace period
SIGTERM again                        exit at once
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from random import Random
from time import monotonic

from mesh.api.messages import WatchMessage
from mesh.proxy.admin import Admin
from mesh.proxy.config import Address, Config, ControlService
from mesh.proxy.control import ControlClient
from mesh.proxy.identity import IdentityClient
from mesh.proxy.inbound.service import InboundService
from mesh.proxy.log import LogControl
from mesh.proxy.metrics import Registry, Sample
from mesh.proxy.observation import Observation
from mesh.proxy.outbound.discovery import Discovery
from mesh.proxy.outbound.service import OutboundService
from mesh.proxy.server import http2
from mesh.proxy.tcp import Relays
from mesh.proxy.telemetry import DirectionTelemetry, OutboundTelemetry, ProcessTelemetry
from mesh.proxy.wire.contexts import Contexts

VERSION = "0.1.0"
LAG_PROBE_SECONDS = 0.1
IPV6_TWIN = {"0.0.0.0": "::", "127.0.0.1": "::1"}
"""What a listener of IPv4 is called in IPv6."""
DRAIN_LOOK_SECONDS = 0.05
ARRIVAL_SECONDS = 0.1
"""After a listener closed: for connections that it took in last to say what they came for."""
LAST_REQUEST_SECONDS = 1.0
"""How long an HTTP/1 connection at rest stays open for one more request, which is answered with `connection: close`.
HTTP/1 has no GOAWAY: a close may cross a request on its way, and its client cannot tell if it was served (nginx has
`keepalive_min_timeout` for this). hyper, and so linkerd2-proxy, closes at once."""
OUTBOUND_SHARE = 0.25
"""Of the grace period, which is the outbound side's to drain in even where inbound connections stay to the end."""

log = logging.getLogger("proxy")


class _NoIdentity:
    """Identity is disabled: plaintext both ways."""

    contexts: Contexts | None = None


class Proxy:
    """Owns the listeners and the long-running tasks."""

    def __init__(
        self,
        config: Config,
        environment: Mapping[str, str],
        rng: Random,
        *,
        log_control: LogControl | None = None,
        shutdown: Callable[[], None] | None = None,
    ) -> None:
        """`shutdown`: what POST /shutdown calls, where that is enabled."""
        self.config = config
        self.registry = Registry(retention=config.metrics_retain_idle)
        self._loop = loop = asyncio.get_running_loop()
        self._process = ProcessTelemetry(self.registry, VERSION)
        enabled = config.identity is not None
        outbound_telemetry = OutboundTelemetry(self.registry, enabled)
        inbound_telemetry = DirectionTelemetry(self.registry, "inbound", enabled)
        self.identity = (
            IdentityClient(config.identity, self.registry, rng, config.bind_ip) if config.identity is not None else None
        )
        credentials = self.identity if self.identity is not None else _NoIdentity()

        def context() -> ssl.SSLContext | None:
            return credentials.contexts.control if credentials.contexts is not None else None

        self._policy = self._control(config.policy, rng, context)
        destination = self._control(config.destination, rng, context)
        self.discovery = Discovery(config, loop, rng, outbound_telemetry, credentials, destination, self._policy)
        self.outbound = OutboundService(loop, rng, outbound_telemetry, self.discovery, config.max_in_flight)
        self.inbound = InboundService(config, loop, rng, inbound_telemetry, credentials)
        if self.identity is not None:
            self.identity.on_renewal(self.discovery.forgive)
        self.observation = Observation(
            config,
            self.registry,
            loop,
            rng,
            inbound=(self.inbound, inbound_telemetry),
            outbound=(self.outbound, outbound_telemetry),
            contexts=lambda: credentials.contexts,
        )
        self._admin = Admin(
            self.registry,
            lambda: self._ready,
            environment,
            recorder=self.observation.recorder,
            log=log_control,
            shutdown=shutdown if config.shutdown_endpoint else None,
        )
        self._ready = False
        self._servers: list[asyncio.Server] = []
        self._inbound_doors: list[asyncio.Server] = []
        self._outbound_doors: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._watches: set[asyncio.Task[None]] = set()
        """Of inbound policies; those of ports that nobody uses end."""
        self._telemetry = (outbound_telemetry, inbound_telemetry)
        self.registry.collect("tcp_open_connections", "gauge", "Connections now open.", self._open_connections)

    async def start(self) -> None:
        """Listens on the admin port, gets a certificate, then opens the doors."""
        await self._listen(self.config.admin_listen, self._admin.accept)
        self._tasks.append(self._loop.create_task(self._probe_lag()))
        if self.identity is not None:
            task = self._loop.create_task(self.identity.run())
            self._tasks.append(task)
            ready = self._loop.create_task(self.identity.ready.wait())
            await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                ready.cancel()
                task.result()
        self.inbound.start(self._watch_inbound)
        await self._listen(self.config.outbound_listen, self.outbound.accept, self._outbound_doors)
        await self._listen(self.config.inbound_listen, self.inbound.accept, self._inbound_doors)
        for address, target in (self.config.forwards or {}).items():
            await self._listen(address, self.outbound.forwarding(target), self._outbound_doors)
        self.observation.start()
        self._ready = True
        log.info("ready: outbound %s, inbound %s", self.config.outbound_listen, self.config.inbound_listen)

    async def drain(self) -> None:
        """Loses nothing that has arrived: sides stop accepting, finish what is under way, and close what is idle.

        Inbound first, and outbound only when inbound is done: what the app still answers it may need other services
        for, so the way out must stay open, for new connections too, as long as requests come from inside. The other way
        round, or both at once as linkerd2-proxy does, an app's last answers are errors of calls that were refused. What
        the app does on its own account afterwards is served as well while it has connections open.
        """
        self._ready = False
        grace = self.config.shutdown_grace
        deadline = monotonic() + grace
        await self._drain_side(
            self.inbound, self._inbound_doors, self.inbound.tcp.relays, deadline - OUTBOUND_SHARE * grace
        )
        await self._drain_side(self.outbound, self._outbound_doors, self.discovery.tcp.relays, deadline)
        while self._busy(self.inbound, self.inbound.tcp.relays) and monotonic() < deadline:
            await asyncio.sleep(DRAIN_LOOK_SECONDS)

    async def _drain_side(
        self,
        service: InboundService | OutboundService,
        doors: list[asyncio.Server],
        relays: Relays,
        deadline: float,
    ) -> None:
        await asyncio.sleep(0)  # takes in those that the kernel accepted already: closing would reset them
        for server in doors:
            server.close()
        service.draining = True
        now = monotonic()
        arrived, last_request = now + ARRIVAL_SECONDS, now + LAST_REQUEST_SECONDS
        while now < deadline and (now < arrived or self._busy(service, relays)):
            # All, each time: those that were still shaking hands or had not spoken become connections as we wait.
            for connection in list(service.connections):
                if now >= last_request or isinstance(connection, http2.ServerConnection):
                    connection.drain()
            await asyncio.sleep(DRAIN_LOOK_SECONDS)
            now = monotonic()

    @staticmethod
    def _busy(service: InboundService | OutboundService, relays: Relays) -> bool:
        """Connections count, not only requests: an answer may be complete here and still on its way to a slow client.
        Opaque connections end when their ends end them."""
        return bool(service.in_flight or service.connections or relays.open)

    async def stop(self) -> None:
        """Lets go of everything."""
        for server in self._servers:
            server.close()
        await self.observation.stop()
        self.discovery.stop()
        self.inbound.stop()
        for service in (self.outbound, self.inbound):
            for connection in list(service.connections):
                connection.abort()
        tasks = [*self._tasks, *self._watches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- inside

    def _watch_inbound(self, port: int, apply: Callable[[WatchMessage], None]) -> asyncio.Task[None] | None:
        """Begins to watch the policy of one of the workload's ports."""
        workload = self.config.workload
        if self._policy is None or workload is None:
            return None
        path = f"/v1/inbound/{workload.namespace}/{workload.pod}/{port}"
        task = self._loop.create_task(self._policy.watch(path, apply))
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)
        return task

    def _control(
        self, service: ControlService | None, rng: Random, context: Callable[[], ssl.SSLContext | None]
    ) -> ControlClient | None:
        if service is None:
            return None
        return ControlClient(service, context, self.registry, rng, self.config.bind_ip)

    async def _listen(
        self,
        address: Address,
        factory: Callable[[], asyncio.BaseProtocol],
        doors: list[asyncio.Server] | None = None,
    ) -> None:
        """`doors`: of the side that closes this listener when it drains; None: it stays open until `stop`."""
        hosts = [address.host]
        if doors is not None and any(":" in ip for ip in self.config.inbound_ips):
            # A pod with both families: what is redirected arrives at the same port of its own.
            hosts += filter(None, (IPV6_TWIN.get(address.host),))
        server = await self._loop.create_server(factory, hosts, address.port, backlog=1024)
        self._servers.append(server)
        if doors is not None:
            doors.append(server)

    async def _probe_lag(self) -> None:
        """Sets the gauge to the worst delay; a scrape reads it and the next probe begins anew."""
        gauge = self._process.loop_lag
        while True:
            due = monotonic() + LAG_PROBE_SECONDS
            await asyncio.sleep(LAG_PROBE_SECONDS)
            gauge.value = max(gauge.value * 0.98, monotonic() - due)

    def _open_connections(self) -> list[Sample]:
        return [(s, count) for telemetry in self._telemetry for s, count in telemetry.open_connections()]
