"""The app's ports: for each its policy and its connections.

    INBOUND_APP_ADDR      one port, known from the start, kept for ever: nothing is redirected (local world)
    original destination  any port of the pod's; declared ones (INBOUND_PORTS) are watched from the start, others from
                          their first connection until nobody has used them for the discovery idle time

The app is dialled at the address that the client dialled, not on loopback: what an app serves on 127.0.0.1 only is
meant for nobody else, and its programs in the pod that trust loopback must not meet strangers there (linkerd2 2.11
changed it for this reason).

A port that nobody declared has no policy yet when its first connection comes. That connection waits for it, for
`POLICY_SECONDS` at most; Linkerd lets it in or out by the default policy meanwhile, and so a Server that forbids may
come too late for it.

`MAX_PORTS` bounds what a port scan costs: 65,535 policies and watches otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from random import Random

from mesh.api.messages import WatchMessage
from mesh.proxy.config import Address, Config
from mesh.proxy.inbound.app import AppPool
from mesh.proxy.inbound.policy import PortPolicy
from mesh.proxy.telemetry import DirectionTelemetry

MAX_PORTS = 128
"""Beside the declared ones."""
POLICY_SECONDS = 1.0

Watch = Callable[[int, Callable[[WatchMessage], None]], "asyncio.Task[None] | None"]
"""Begins to watch the policy of a port; None where nobody can be asked."""


class Port:
    """One port of the app."""

    def __init__(self, ports: Ports, address: Address, *, keep: bool) -> None:
        config = ports.config
        self.address = address
        self.keep = keep
        default = config.default_policy
        if address.port in config.require_identity_ports:
            default = default.replace("-unauthenticated", "-authenticated")
        self.policy = PortPolicy(
            default,
            ports.telemetry.registry,
            cluster_networks=config.cluster_networks,
            identity_enabled=config.identity is not None,
        )
        self.opaque_by_default = address.port in config.opaque_ports
        self.users = 0
        """HTTP connections and relays."""
        self.used_at = ports.loop.time()
        self.watch: asyncio.Task[None] | None = None
        self._ports = ports
        self._pool: AppPool | None = None
        self._waiting: list[Callable[[], None]] | None = None
        """Who waits for the policy; None: nobody needs to."""

    @property
    def protocol(self) -> str:
        """What the port speaks, as its policy says."""
        told = self.policy.protocol
        return "opaque" if told == "detect" and self.opaque_by_default else told

    @property
    def pool(self) -> AppPool:
        """Connections to the app."""
        if self._pool is None:
            ports = self._ports
            config = replace(ports.config, app=self.address)
            self._pool = AppPool(config, ports.loop, ports.rng, ports.telemetry)
            self.policy.on_change(self._pool.forget_series)
        return self._pool

    def when_known(self, go_on: Callable[[], None]) -> None:
        """Calls `go_on` once the policy is known, or has been waited for long enough; now, where it is."""
        if self._waiting is None:
            go_on()
        else:
            self._waiting.append(go_on)

    def begin_watch(self, watch: Watch, *, hold: bool) -> None:
        """Asks for the policy. `hold`: connections wait for it."""
        self.watch = watch(self.address.port, self._heard)
        if hold and self.watch is not None:
            self._waiting = []
            self._ports.loop.call_later(POLICY_SECONDS, self._settle)

    def used(self) -> None:
        self.users += 1

    def unused(self) -> None:
        self.users -= 1
        self.used_at = self._ports.loop.time()

    def shut_down(self) -> None:
        if self.watch is not None:
            self.watch.cancel()
        if self._pool is not None:
            self._pool.shut_down()

    def _heard(self, message: WatchMessage) -> None:
        self.policy.apply(message)
        self._settle()

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, None
        for go_on in waiting or ():
            go_on()


class Ports:
    """All of them."""

    def __init__(
        self, config: Config, loop: asyncio.AbstractEventLoop, rng: Random, telemetry: DirectionTelemetry
    ) -> None:
        self.config = config
        self.loop = loop
        self.rng = rng
        self.telemetry = telemetry
        self.app = Port(self, config.app, keep=True) if config.app is not None else None
        """The only one, where nothing is redirected."""
        self.on_new: Callable[[Port], None] | None = None
        self._watch: Watch | None = None
        self._known: dict[Address, Port] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def start(self, watch: Watch) -> None:
        """From now on policies can be asked for."""
        self._watch = watch
        if self.app is not None:
            self.app.begin_watch(watch, hold=False)
            return
        for ip in sorted(self.config.inbound_ips):
            for port in sorted(self.config.inbound_ports):
                self._add(Address(ip, port), keep=True)

    def at(self, address: Address | None) -> Port | None:
        """The port for a connection that was meant for `address` (None: for us); None: not ours to serve."""
        if self.app is not None:
            return self.app
        if address is None or not self._is_ours(address):
            return None
        return self._known.get(address) or self._add(address, keep=False)

    def named(self, number: int, host: str) -> Port | None:
        """The port that a transport header names, on a connection that came to `host`."""
        if self.app is not None:
            return self.app if number == self.app.address.port else None
        return self.at(Address(host, number))

    def shut_down(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for port in (*self._known.values(), *filter(None, (self.app,))):
            port.shut_down()

    def __len__(self) -> int:
        return len(self._known) + (self.app is not None)

    # ---- inside

    def _is_ours(self, address: Address) -> bool:
        return not self.config.inbound_ips or address.host in self.config.inbound_ips

    def _add(self, address: Address, *, keep: bool) -> Port | None:
        if not keep and not self._has_room():
            return None
        port = self._known[address] = Port(self, address, keep=keep)
        if self.on_new is not None:
            self.on_new(port)
        if self._watch is not None:
            port.begin_watch(self._watch, hold=True)
        if not keep and self._sweep is None:
            self._sweep = self.loop.call_later(self.config.inbound_discovery_idle, self._forget_idle)
        return port

    def _has_room(self) -> bool:
        found = [port for port in self._known.values() if not port.keep]
        if len(found) < MAX_PORTS:
            return True
        idle = [port for port in found if not port.users]
        if not idle:
            return False
        self._forget(min(idle, key=lambda port: port.used_at))
        return True

    def _forget_idle(self) -> None:
        self._sweep = None
        due = self.loop.time() - self.config.inbound_discovery_idle
        for port in [port for port in self._known.values() if not port.keep and not port.users]:
            if port.used_at <= due:
                self._forget(port)
        if any(not port.keep for port in self._known.values()):
            self._sweep = self.loop.call_later(self.config.inbound_discovery_idle, self._forget_idle)

    def _forget(self, port: Port) -> None:
        del self._known[port.address]
        port.shut_down()
