"""Who still shows a certificate that hangs from a trust anchor: asked before the anchor is dropped.

    every proxy, every server of the control plane ─ handshake ─► chain ─► does it hold without the anchor?

A rotation breaks at this point (linkerd2 #4287): the issuer is new, leaves of the old one live on for up to a day, and
a bundle without their anchor makes all peers refuse them at once. The certificates come from where `check --proxy` has
them. A leaf that has expired holds nothing up, nor does an anchor that has: dropping it loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from lightkube import Client

from mesh.api.values import Values
from mesh.commands.check import data_plane_facts
from mesh.commands.check.certificates import expiry, read, vouched
from mesh.commands.check.cluster_facts import PROXY, pod_of
from mesh.commands.check.facts import Proxy, Served
from mesh.commands.check.reader import Reader
from mesh.commands.check.served_facts import SERVERS, served
from mesh.kube.client import http_of

MESH_SERVERS = frozenset(server.component for server in SERVERS if server.account)
"""The others show certificates of webhooks, which hang from no trust anchor."""


@dataclass(frozen=True, slots=True)
class Holders:
    """Who needs an anchor, and of whom that is not known; each with a name for people."""

    hanging: tuple[str, ...]
    unseen: tuple[str, ...]


def holders_in(
    client: Client,
    namespace: str,
    values: Values,
    dropped: x509.Certificate,
    rest: Sequence[x509.Certificate],
    now: float,
) -> Holders:
    """Asks the whole cluster. `now`: Unix seconds; `rest`: the anchors that would be left."""
    reader = Reader(http_of(client))
    path = f"/api/v1/namespaces/{namespace}/pods"
    pods = reader.learn("pods", lambda: tuple(map(pod_of, reader.list(path))), ())
    own = served(client.config, namespace, pods, values)
    found = data_plane_facts.learn(reader, client, None, values)
    holders = holders_among(found["proxies"], own, dropped, rest, now)
    refused = tuple(text for name, text in reader.unknown.items() if name in ("pods", "data_pods"))
    return Holders(holders.hanging, (*refused, *holders.unseen))


def holders_among(
    proxies: Iterable[Proxy],
    own: Iterable[Served],
    dropped: x509.Certificate,
    rest: Sequence[x509.Certificate],
    now: float,
) -> Holders:
    """The same of certificates that were seen. A proxy that is not ready and shows none serves nobody: left out."""
    shown = [(proxy.pod.place, proxy.chain_pem, bool(proxy.pod.containers.get(PROXY))) for proxy in proxies]
    shown += [
        (f"{server.pod} ({server.component})", server.chain_pem, True)
        for server in own
        if server.component in MESH_SERVERS
    ]
    hanging, unseen = [], []
    for who, pem, ready in shown:
        chain = read(pem, "leaf") if pem else []
        if not chain:
            unseen += [who] if ready else []
        elif expiry(chain[0]) > now and vouched(chain, [dropped]) and not vouched(chain, rest):
            hanging.append(who)
    return Holders(tuple(hanging), tuple(unseen))
