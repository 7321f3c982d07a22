"""What this proxy knows of the destinations it was asked for, fed by two watches for each.

    authority ──► DiscoveryCache ──► Entry: Destination (mesh.behavior) + driver + watches + requests that wait

An entry is asked for when a request first names it, held while requests use it, and forgotten with its watches when it
idled out. While the control plane is away, entries keep what they last heard; a new one stays empty, and requests for
it are answered 504 after `DISCOVERY_TIMEOUT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from random import Random
from time import monotonic

from mesh.api.messages import Endpoint, Endpoints, OutboundPolicy, Profile
from mesh.behavior.cache import DiscoveryCache
from mesh.behavior.destination import is_address
from mesh.behavior.outcome import Cause
from mesh.proxy.config import Config
from mesh.proxy.control import ControlClient
from mesh.proxy.driver import Credentials
from mesh.proxy.outbound.entry import Entry
from mesh.proxy.outbound.mirror import Mirrors
from mesh.proxy.outbound.tcp import TcpOutbound, Waiter
from mesh.proxy.request import Request
from mesh.proxy.telemetry import OutboundTelemetry

AUTHORITY = re.compile(r"[a-z0-9._-]+:[0-9]{1,5}|\[[0-9a-f:.]+\]:[0-9]{1,5}")
"""What may stand in a watch's path."""


class Discovery:
    """All entries of one proxy."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        telemetry: OutboundTelemetry,
        credentials: Credentials,
        destination: ControlClient | None,
        policy: ControlClient | None,
    ) -> None:
        self.config = config
        self.loop = loop
        self.rng = rng
        self.telemetry = telemetry
        self.credentials = credentials
        self._asker = f"?ns={config.workload.namespace}" if config.workload is not None else ""
        """Routes and profiles may be meant for clients of one namespace only."""
        self._destination = destination
        self._policy = policy
        self.cache: DiscoveryCache[Entry] = DiscoveryCache(config.outbound_discovery_idle, self._evicted)
        self._expiry: asyncio.TimerHandle | None = None
        self.evictions = telemetry.registry.counters(
            "outbound_discovery_cache_evictions_total", "Destinations forgotten because nobody used them."
        ).counter()
        self.tcp = TcpOutbound(loop, config, telemetry, credentials, self)
        copies = telemetry.registry.counters("outbound_http_mirrors_total", "Copies of mirrored requests.")
        sent, dropped = copies.counter({"result": "sent"}), copies.counter({"result": "dropped"})
        self.mirrors = Mirrors(loop, rng, sent, dropped, self.abandon)
        for authority, endpoints in (config.static_endpoints or {}).items():
            self._add_static(authority, endpoints)

    def find(self, request: Request, authority: str) -> None:
        """Sends the request on when its destination is known, now or within the discovery timeout."""
        entry = self.cache.get(authority)
        if entry is None:
            if self._destination is None or self._policy is None or AUTHORITY.fullmatch(authority) is None:
                request.fail(Cause.UNKNOWN_DESTINATION)
                return
            if not self._has_room():
                request.fail(Cause.LOADSHED)
                return
            entry = self._add(authority)
        self.cache.hold(authority, request.started_at)
        if entry.known:
            self._ready(request, entry)
        else:
            entry.wait(request, partial(self._ready, request, entry), request.fail)

    def _ready(self, request: Request, entry: Entry) -> None:
        """The entry knows what to do with a request (which holds it)."""
        if not entry.destination.not_found:
            entry.route(request)
            return
        entry.release()
        target = request.session.target
        if target is None or not is_address(target):
            request.fail(Cause.UNKNOWN_DESTINATION)
        else:
            # Redirected to us on its way to an address that is nobody's service: egress.
            entry = self._address(target)
            self.cache.hold(entry.key, monotonic())
            entry.route(request)

    # ---- opaque connections (`outbound.tcp.Directory`)

    def look_up(self, waiter: Waiter, authority: str) -> None:
        """Answers the waiter, now or later, exactly once."""
        entry = self.cache.get(authority)
        if entry is None:
            if self._destination is None or self._policy is None or AUTHORITY.fullmatch(authority) is None:
                waiter.not_found(Cause.UNKNOWN_DESTINATION)
                return
            if not self._has_room():
                waiter.not_found(Cause.LOADSHED)
                return
            entry = self._add(authority)
        self.cache.hold(authority, monotonic())
        if entry.known:
            self._answer(waiter, entry)
        else:
            entry.wait(waiter, partial(self._answer, waiter, entry), waiter.not_found)

    def forget(self, waiter: Waiter, authority: str) -> None:
        """The waiter left before it was answered."""
        entry = self.cache.get(authority)
        if entry is not None:
            entry.stop_waiting(waiter)

    def _answer(self, waiter: Waiter, entry: Entry) -> None:
        if entry.destination.not_found:
            entry.release()
            waiter.not_found(Cause.UNKNOWN_DESTINATION)
        else:
            waiter.found(entry)

    def hold(self, authority: str) -> Entry:
        """The entry of a route's backend, watched from now on and held until its `release`."""
        entry = self.cache.get(authority)
        if entry is None:
            entry = self._add(authority)
        self.cache.hold(authority, monotonic())
        return entry

    def mirror(self, request: Request, authority: str) -> None:
        """Sends a copy of the request to `authority`."""
        mirror = self.mirrors.copy(request)
        if mirror is None:
            return
        copy = mirror.request
        copy.authority = authority
        copy.started_at = monotonic()
        self.find(copy, authority)
        request.copy_to(mirror)

    def abandon(self, request: Request) -> None:
        """Nobody wants the request any more, and it may still wait for its destination to be known."""
        entry = self.cache.get(request.authority)
        if entry is not None:
            entry.stop_waiting(request)

    def forgive(self) -> None:
        """Our certificate is new: endpoints that refused the old one get another try at once."""
        for _, entry in self.cache:
            entry.forgive()

    def stop(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        for _, entry in self.cache:
            entry.stop()
        self.tcp.stop()

    def _has_room(self) -> bool:
        """Whether one more destination may be remembered, if need be in the place of the one that was used least
        recently: clients can make up names faster than names idle out."""
        return len(self.cache) < self.config.max_destinations or self.cache.evict_least_recent()

    def _add(self, authority: str) -> Entry:
        assert self._destination is not None
        assert self._policy is not None
        entry = Entry(self, authority)
        self.cache.put(authority, entry, monotonic())
        entry.watches = [
            self.loop.create_task(self._destination.watch(f"/v1/destinations/{authority}{self._asker}", entry.apply)),
            self.loop.create_task(self._policy.watch(f"/v1/outbound/{authority}{self._asker}", entry.apply)),
        ]
        if self._expiry is None:
            self._expire()
        return entry

    def _add_static(self, authority: str, endpoints: tuple[str, ...]) -> None:
        """Endpoints that no control plane names: `ip:port`, or `ip:port=identity` where it is meshed. Held for ever."""
        parsed = []
        for endpoint in endpoints:
            address, _, identity = endpoint.partition("=")
            parsed.append(Endpoint(address=address, pod=address, namespace="", identity=identity or None))
        self._put_known(Entry(self, authority), parsed)
        self.cache.hold(authority, monotonic())

    def _address(self, target: str) -> Entry:
        """The entry of an address that is no service's: itself is its only endpoint, un-meshed."""
        key = f"address {target}"
        entry = self.cache.get(key)
        if entry is None:
            entry = Entry(self, target, key)
            self._put_known(entry, [Endpoint(address=target, pod="", namespace="")])
            if self._expiry is None:
                self._expire()
        return entry

    def _put_known(self, entry: Entry, endpoints: list[Endpoint]) -> None:
        self.cache.put(entry.key, entry, monotonic())
        authority = entry.authority
        entry.apply(Profile(version=0, published_at=0.0, authority=authority, exists=False))
        entry.apply(OutboundPolicy(version=0, published_at=0.0, authority=authority, exists=False))
        entry.apply(Endpoints(version=0, published_at=0.0, endpoints=tuple(endpoints)))

    def _expire(self) -> None:
        """Looks for entries that idled out, and again when the next one may (a held one: a whole idle time later)."""
        now = monotonic()
        due = self.cache.expire(now)
        latest = now + self.config.outbound_discovery_idle
        self._expiry = None
        if len(self.cache):
            wake = min(due, latest) if due is not None else latest
            self._expiry = self.loop.call_later(wake - now, self._expire)

    def _evicted(self, authority: str, entry: Entry) -> None:
        self.evictions.value += 1
        entry.stop()
