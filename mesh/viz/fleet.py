"""All pods that are known, each with its proxy's history: what every answer is computed from.

A pod that is gone stays as long as its history matters: what it served a minute ago was served. Pods are also found by
address, for the proxies' metrics name endpoints without a pod where discovery knew none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mesh.viz.flows import Flow, Meanings
from mesh.viz.history import RETAIN_SECONDS, PodHistory
from mesh.viz.pods import Pod
from mesh.viz.tally import Tally

PodKey = tuple[str, str]
"""Namespace and name."""


@dataclass(slots=True)
class Member:
    """One pod and what is known of it."""

    pod: Pod
    history: PodHistory = field(default_factory=PodHistory)
    gone_at: float | None = None

    def presence(self, since: float, until: float) -> float:
        """Seconds between two times in which it ran, as far as is known; 0 for what was never scraped."""
        if self.history.first_at is None:
            return 0.0
        end = until if self.gone_at is None else min(until, self.gone_at)
        return max(0.0, end - max(since, self.history.first_at))


@dataclass(frozen=True, slots=True)
class Observed:
    """What one pod did in a window."""

    member: Member
    flows: dict[Flow, Tally]
    covered: float
    """Seconds of the window that were seen."""
    factor: float
    """Counts times this are rates per second over the window: the unseen is taken to be like the seen."""


class Fleet:
    """The pods. Times are Unix seconds, given by the caller."""

    def __init__(self, domain: str = "cluster.local") -> None:
        self.domain = domain
        """End of Services' names."""
        self.members: dict[PodKey, Member] = {}
        self.meanings = Meanings()
        self.observing_since: float | None = None
        """The first scrape of all."""
        self._by_address: dict[str, PodKey] = {}

    def update(self, pods: Iterable[Pod], now: float) -> None:
        """These are the pods that run now."""
        present = {(pod.namespace, pod.name): pod for pod in pods}
        for key, member in list(self.members.items()):
            if key in present:
                continue
            if member.gone_at is None:
                member.gone_at = now
            if now - member.gone_at > RETAIN_SECONDS:
                del self.members[key]
        for key, pod in present.items():
            known = self.members.get(key)
            if known is None:
                self.members[key] = Member(pod)
            else:
                known.pod, known.gone_at = pod, None
        self._by_address = {}
        for key, member in sorted(self.members.items(), key=lambda item: item[1].gone_at or float("inf")):
            for address in (member.pod.ip, *member.pod.addresses):
                if address:
                    self._by_address[address] = key  # the living come last and win: addresses are used again

    def running(self) -> Iterator[Member]:
        return (member for member in self.members.values() if member.gone_at is None)

    def at(self, address: str) -> Member | None:
        """Whose address that is: `host:port` of the pod's own list, or its IP."""
        key = self._by_address.get(address) or self._by_address.get(address.rpartition(":")[0].strip("[]"))
        return self.members.get(key) if key is not None else None

    def named(self, namespace: str, name: str) -> Member | None:
        return self.members.get((namespace, name))

    def observe(self, since: float, until: float) -> list[Observed]:
        """What each meshed pod did between two times."""
        begun = self.observing_since
        span = until - max(since, begun) if begun is not None else 0.0
        seen = []
        for member in self.members.values():
            if not member.pod.meshed or (member.gone_at is not None and member.gone_at <= since):
                continue
            flows, covered = member.history.window(since, until)
            presence = max(member.presence(since, until), covered)
            factor = presence / covered / max(span, presence) if covered > 0 else 0.0
            seen.append(Observed(member, flows, covered, factor))
        return seen
