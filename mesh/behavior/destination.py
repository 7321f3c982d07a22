"""A destination as a client proxy sees it: what discovery said so far, and the router and backend made of it.

Usable once endpoints, profile and outbound policy have each been heard. Later messages change it in place; when the
watches end, what was last heard stays (the control plane may be gone for a while).

An address outside the cluster has no endpoints. Where an EgressNetwork covers it, it is its own endpoint, and the
network's routes apply; where none does it is not found, which of an address is known only once its policy was heard.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Generic, TypeVar

import msgspec

from mesh.api.messages import Endpoint, Endpoints, EndpointsChange, NotFound, OutboundPolicy, Profile, WatchMessage
from mesh.behavior.backend import Backend, BackendSettings, Driver, Multiplex
from mesh.behavior.filters import Filters
from mesh.behavior.routes import NO_BACKEND, Router, build_router

T = TypeVar("T")
C = TypeVar("C")


class Destination(Generic[T, C]):
    """One entry of the discovery cache."""

    def __init__(self, authority: str, settings: BackendSettings, driver: Driver[T, C], rng: Random) -> None:
        self.authority = authority
        self._settings = settings
        self._served = {settings.multiplex: (driver, settings)}
        self._rng = rng
        self._endpoints: dict[str, Endpoint] | None = None
        self._profile: Profile | None = None
        self._policy: OutboundPolicy | None = None
        self._unknown = False
        self.router: Router | None = None
        self.backend: Backend[T, C] | None = None
        """Of the protocol that the settings speak of."""
        self.backends: dict[Multiplex, Backend[T, C]] = {}
        """That one, and those of other protocols that were asked for."""
        self.backend_authorities: frozenset[str] = frozenset()
        """Other destinations that this one's routes send or copy requests to: to be watched along with it."""

    @property
    def usable(self) -> bool:
        return self.router is not None and self.backend is not None

    def serve(self, now: float, driver: Driver[T, C], settings: BackendSettings) -> None:
        """Adds a backend for another protocol, with a driver of its own: pools and estimates differ by protocol, as
        linkerd2-proxy has a stack for each."""
        self._served[settings.multiplex] = (driver, settings)
        self._build(now)

    def apply(self, now: float, message: WatchMessage) -> None:
        """Takes in one message of any of the destination's watches."""
        match message:
            case NotFound():
                self._unknown = True
            case Endpoints():
                self._unknown = False
                self._endpoints = {e.address: e for e in message.endpoints}
            case EndpointsChange():
                known = self._endpoints if self._endpoints is not None else {}
                for address in message.remove:
                    known.pop(address, None)
                known.update((e.address, e) for e in message.add)
                self._endpoints = known
            case Profile():
                if self._same_rules(message, self._profile):
                    return
                self._profile = message
                self.router = None
            case OutboundPolicy():
                if self._same_rules(message, self._policy):
                    return
                self._policy = message
                self.router = None
            case _:
                raise TypeError(f"{type(message).__name__} does not speak of a destination")
        self._build(now)

    @property
    def not_found(self) -> bool:
        """The registry knows no such destination."""
        if not self._unknown or not is_address(self.authority):
            return self._unknown
        return self._policy is not None and not self._policy.egress

    @property
    def protocol(self) -> str:
        """`detect`, `http1`, `http2` or `opaque`: what is known of the port."""
        if self._profile is not None and self._profile.opaque:
            return "opaque"
        if self._endpoints and all(endpoint.opaque for endpoint in self._endpoints.values()):
            return "opaque"  # a pod's own address, or a Service that was not told what its pods were
        return self._policy.protocol if self._policy is not None else "detect"

    @property
    def egress(self) -> str:
        """`allow` or `deny` where an EgressNetwork covers the address, else empty."""
        return self._policy.egress if self._policy is not None else ""

    def _build(self, now: float) -> None:
        if self._profile is None or self._policy is None:
            return
        endpoints = self._endpoints
        if endpoints is None and self._unknown and self._policy.egress:
            endpoints = {self.authority: Endpoint(address=self.authority, pod="", namespace="")}
        if endpoints is None:
            return
        if self.router is None:
            self.router = build_router(self._profile, self._policy, now)
            self.backend_authorities = _authorities(self.router)
        policy, ruled = self._policy, not self._profile.exists
        for multiplex, (driver, own) in self._served.items():
            settings = replace(
                own,
                queue=policy.queue,
                accrual=policy.failure_accrual if ruled else None,
                load_bias=policy.load_bias if ruled else None,
            )
            backend = self.backends.get(multiplex)
            if backend is None:
                backend = self.backends[multiplex] = Backend(settings, driver, self._rng, now)
            else:
                backend.configure(now, settings)
            backend.update(now, endpoints.values())
        self.backend = self.backends[self._settings.multiplex]

    @staticmethod
    def _same_rules(new: Profile | OutboundPolicy, old: Profile | OutboundPolicy | None) -> bool:
        """Whether only version and time differ: then budgets and breakers keep their state."""
        return (
            old is not None and msgspec.structs.replace(new, version=old.version, published_at=old.published_at) == old
        )


def is_address(authority: str) -> bool:
    """Whether it is `ip:port` and not `name:port`; no top-level domain ends in a digit."""
    host = authority.rpartition(":")[0]
    return host.endswith("]") or host[-1:].isdigit()


def _authorities(router: Router) -> frozenset[str]:
    found: set[str] = set()
    for route in router.routes:
        filters: list[Filters | None] = [route.filters]
        for backend in route.backends:
            filters.append(backend.filters)
            if backend.authority is not None and backend.authority != NO_BACKEND:
                found.add(backend.authority)
        found.update(mirror.authority for some in filters if some is not None for mirror in some.mirrors)
    return frozenset(found)
