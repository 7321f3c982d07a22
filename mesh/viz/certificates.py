"""Certificates of the data plane: when each proxy's leaf and its trust anchors expire, and how renewing goes."""

from __future__ import annotations

import msgspec

from mesh.viz.fleet import Fleet
from mesh.viz.flows import ANCHORS_EXPIRE, LEAF_EXPIRES, LEAF_REFRESHED, LEAF_REFRESHES
from mesh.viz.resources import Resource


class Certificate(msgspec.Struct, kw_only=True):
    """One proxy. Times are Unix seconds; None: its proxy did not say (never scraped, or it has none)."""

    namespace: str
    pod: str
    kind: str
    workload: str
    identity: str
    expires_at: float | None
    refreshed_at: float | None
    anchors_expire_at: float | None
    renewals: float = 0.0
    renewal_errors: float = 0.0
    age_seconds: float | None
    """Since the scrape that this was read from."""


def certificates(fleet: Fleet, resource: Resource, now: float) -> list[Certificate]:
    """Running proxies, the first to expire first, those that nothing is known of before all."""
    found = []
    for member in fleet.running():
        pod, history = member.pod, member.history
        if not pod.meshed or not resource.holds(pod):
            continue
        refreshes = history.gauges(LEAF_REFRESHES)
        found.append(
            Certificate(
                namespace=pod.namespace,
                pod=pod.name,
                kind=pod.kind,
                workload=pod.owner,
                identity=pod.identity,
                expires_at=history.gauge(LEAF_EXPIRES),
                refreshed_at=history.gauge(LEAF_REFRESHED),
                anchors_expire_at=history.gauge(ANCHORS_EXPIRE),
                renewals=sum(value for labels, value in refreshes.items() if 'result="ok"' in labels),
                renewal_errors=sum(value for labels, value in refreshes.items() if 'result="error"' in labels),
                age_seconds=None if history.last_at is None else now - history.last_at,
            )
        )
    return sorted(found, key=lambda c: (c.expires_at or 0.0, c.namespace, c.pod))
