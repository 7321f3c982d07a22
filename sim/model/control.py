"""The control plane in the twin: who is up, what it says, and when proxies hear of it.

Three components as in the mesh: `destination` streams endpoints and profiles, `policy` streams outbound policies,
`identity` signs leaves. Messages are those that `mesh.control.translate` made of the scenario. A watch is mTLS: to
be taken up it needs its component, a valid leaf of the proxy and one of the component. One that runs outlives both
leaves. A watch that broke, or was never up, is tried again with the proxy's own backoff (100 ms to 10 s), which is
why clients that were cut off for half a minute come back seconds after the control plane does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from random import Random
from typing import Any

from mesh.api.messages import Endpoint, Endpoints
from mesh.behavior.backoff import Backoff
from mesh.behavior.renewal import next_attempt_delay
from scenarios.model import IdentitySettings
from sim.model.app import AppPod
from sim.model.calendar import Calendar
from sim.model.draws import Draws
from sim.model.parameters import Delays
from sim.model.proxy import Known
from sim.model.setup import Rules

COMPONENTS = ("identity", "destination", "policy")
WATCHED = ("destination", "policy")
SIGNING_CPU_SECONDS = 0.006
"""Of a renewal, until identity signs: its handshake with the proxy, at both ends, the token, the signature."""
INSTALLING_CPU_SECONDS = 0.010
"""From there until the proxy uses the leaf: contexts for OpenSSL (7 ms), and a handshake with itself (3 ms)."""
CPU_SPREAD = (0.8, 1.25)
Working = Callable[[float], Generator[Any, Any, None]]
"""Lasts as long as a process takes for so much CPU, on the machine as it is then."""
BACKOFF = (0.1, 10.0, 0.1)
"""Of a watch that broke: minimum, maximum, jitter, as `mesh.proxy.control` has them."""


class LeafHolder:
    """Somebody's certificate: a pod's or a component's."""

    def __init__(
        self,
        expires_at: float,
        next_attempt_at: float,
        wants: Callable[[], bool],
        changed: Callable[[float | None], None],
    ) -> None:
        """`wants`: whether its owner is alive to ask. `changed` hears of each new leaf, and of the loss of one."""
        self.next_attempt_at = next_attempt_at
        self.expires_at: float | None = expires_at
        self.wants = wants
        self._changed = changed

    def renew(self, expires_at: float) -> None:
        self.expires_at = expires_at
        self._changed(expires_at)

    def forget(self) -> None:
        """The owner died: its leaf lived in its memory."""
        self.expires_at = None
        self._changed(None)


def expiry(signed_at: float, settings: IdentitySettings, zero_at: float) -> float:
    """When a leaf expires that is signed then. X.509 has whole seconds (RFC 5280, 4.1.2.5), and what is beyond is cut
    off: where a leaf lives for seconds only, that brings every renewal forward."""
    life = settings.leaf_lifetime + settings.clock_skew
    return math.floor(zero_at + signed_at + life) - zero_at


class _Watch:
    """One proxy's stream from one component about one destination."""

    __slots__ = ("backoff", "component", "known", "live")

    def __init__(self, known: Known, component: str) -> None:
        self.known = known
        self.component = component
        self.backoff = Backoff(*BACKOFF)
        self.live = False


class ControlPlane:
    """All three components."""

    def __init__(
        self,
        calendar: Calendar,
        rules: dict[str, Rules],
        identity: IdentitySettings,
        zero_at: float,
        discovery: Draws,
        delays: Delays,
        random: Random,
        certifying: Random,
        working: Working,
        leaves: dict[str, LeafHolder],
    ) -> None:
        """`zero_at`: Unix time of second 0. `leaves`: of the components that are watched."""
        self._calendar = calendar
        self._agenda = calendar.agenda
        self._rules = dict(rules)
        self._identity = identity
        self._zero_at = zero_at
        self._discovery = discovery
        self._delays = delays
        self._random = random
        self._certifying = certifying
        self._working = working
        self._leaves = leaves
        self._up = dict.fromkeys(COMPONENTS, True)
        self._watches: dict[Known, tuple[_Watch, ...]] = {}
        self._pods: dict[str, list[tuple[AppPod, Endpoint]]] = {authority: [] for authority in rules}
        self._unready: set[str] = set()
        self._version = 1

    # ---- what exists

    def register(self, authority: str, pod: AppPod, endpoint: Endpoint) -> None:
        """A pod behind a service, ready from the start."""
        self._pods[authority].append((pod, endpoint))

    def set_ready(self, authority: str, pod: AppPod, ready: bool) -> None:
        """A pod's readiness changed: watchers hear of it after the usual delay, if destination is up."""
        (self._unready.discard if ready else self._unready.add)(pod.name)
        self._version += 1
        if self._up["destination"]:
            self._agenda.call_at(self._agenda.now + self._delays.endpoint_update, self._publish, authority)

    def _publish(self, authority: str) -> None:
        message = self._endpoints(authority)
        for known, watches in list(self._watches.items()):
            if known.authority == authority and watches[0].live:
                known.destination.apply(self._agenda.now, message)
                known.heard()

    def _endpoints(self, authority: str) -> Endpoints:
        ready = tuple(endpoint for pod, endpoint in self._pods[authority] if pod.name not in self._unready)
        return Endpoints(version=self._version, published_at=0.0, endpoints=ready)

    def knows(self, authority: str) -> bool:
        """Whether there is such a service."""
        return authority in self._rules

    def rule(self, authority: str, rules: Rules) -> None:
        """Somebody applied a manifest: proxies hear of it after the usual delay, if policy is up."""
        self._rules[authority] = rules
        if self._up["policy"]:
            self._agenda.call_at(self._agenda.now + self._delays.endpoint_update, self._publish_rules, authority)

    def _publish_rules(self, authority: str) -> None:
        policy = self._rules[authority].policy
        for known, watches in list(self._watches.items()):
            if known.authority == authority and watches[1].live:
                known.destination.apply(self._agenda.now, policy)
                known.heard()

    # ---- watches

    def watch(self, known: Known) -> None:
        """A proxy asks for a destination it does not know."""
        watches = self._watches[known] = tuple(_Watch(known, component) for component in WATCHED)
        for watch in watches:
            self._agenda.call_at(self._agenda.now + self._discovery.next(), self._attempt, watch)

    def unwatch(self, known: Known) -> None:
        self._watches.pop(known, None)

    def _attempt(self, watch: _Watch) -> None:
        """Takes the watch up, or tries again later."""
        known = watch.known
        if not known.watching or watch.live:
            return
        if not self._reachable(known, watch.component):
            self._retry(watch)
            return
        watch.live = True
        watch.backoff.reset()
        now = self._agenda.now
        rules = self._rules[known.authority]
        if watch.component == "destination":
            known.destination.apply(now, rules.profile)
            known.destination.apply(now, self._endpoints(known.authority))
        else:
            known.destination.apply(now, rules.policy)
        known.heard()

    def _retry(self, watch: _Watch) -> None:
        self._agenda.call_at(self._agenda.now + watch.backoff.next(self._random), self._attempt, watch)

    def _reachable(self, known: Known, component: str) -> bool:
        if not self._up[component]:
            return False
        if not known.proxy.meshed:
            return True
        now = self._agenda.now
        proxy, holder = known.proxy, self._leaves[component]
        if proxy.leaf is None or holder.expires_at is None:
            return False  # who never had a leaf does not ask, or does not listen
        if now < proxy.leaf and now < holder.expires_at:
            return True
        proxy.handshake_failures += 1
        proxy.tallies.refused.add(now)
        return False

    # ---- up and down

    def is_up(self, component: str) -> bool:
        return self._up[component]

    def down(self, component: str) -> None:
        """Its process dies: streams break, and its own leaf is gone."""
        self._up[component] = False
        if component in self._leaves:
            self._leaves[component].forget()
        for watches in list(self._watches.values()):
            for watch in watches:
                if watch.component == component and watch.live:
                    watch.live = False
                    self._retry(watch)

    def up(self, component: str) -> None:
        """Back. Who watches it finds out by himself."""
        self._up[component] = True
        for name, holder in self._leaves.items():
            if self._up[name] and self._up["identity"] and holder.expires_at is None:
                holder.renew(self.new_expiry())

    def new_expiry(self) -> float:
        """When a leaf that is issued now expires."""
        return expiry(self._calendar.now, self._identity, self._zero_at)

    # ---- identity

    def renewal(self, holder: LeafHolder) -> Generator[Any, Any, None]:
        """SimPy process: one leaf, from now to the end of time. The schedule is `mesh.behavior.renewal`'s."""
        settings = self._identity
        calendar = self._calendar
        delay = max(0.0, holder.next_attempt_at - calendar.now)
        while True:
            yield calendar.timeout(delay)
            if self._up["identity"] and holder.wants():
                spread = self._certifying.uniform(*CPU_SPREAD)
                yield from self._working(SIGNING_CPU_SECONDS * spread)
                if self._up["identity"]:
                    expires_at = self.new_expiry()
                    yield from self._working(INSTALLING_CPU_SECONDS * spread)
                    if holder.wants():
                        holder.renew(expires_at)
            delay = next_attempt_delay(calendar.now, holder.expires_at, settings.min_refresh, settings.max_refresh)
