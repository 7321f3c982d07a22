"""What a Service says of the protocol of a port, so that proxies need not detect it.

    appProtocol  http ─► http1      kubernetes.io/h2c ─► http2      anything else ─► opaque
    config.linkerd.io/opaque-ports, else the default opaque ports ─► opaque
    nothing ─► detect

An `appProtocol` goes before the annotation (linkerd2 `outbound/index.rs`). A protocol that nobody here knows is opaque:
its bytes pass, and no proxy waits for a first read that may never come.
"""

from __future__ import annotations

from mesh.api.resources import Service
from mesh.control.translate.problems import Complain, annotation, ignore_problems

OPAQUE_PORTS = "config.linkerd.io/opaque-ports"
DEFAULT_OPAQUE_PORTS = frozenset({25, 587, 3306, 4444, 5432, 6379, 9300, 11211})
APP_PROTOCOLS = {"http": "http1", "kubernetes.io/h2c": "http2"}


def protocol_of(service: Service, authority: str, complain: Complain = ignore_problems) -> str:
    """`detect`, `http1`, `http2` or `opaque` for the authority's port."""
    text = authority.rpartition(":")[2]
    port = int(text) if text.isdigit() else 0
    opaque = opaque_ports(service.metadata.annotations.get(OPAQUE_PORTS), complain)
    for listed in service.spec.ports:
        if listed.port == port and listed.app_protocol:
            return APP_PROTOCOLS.get(listed.app_protocol.lower(), "opaque")
    return "opaque" if port in opaque else "detect"


def opaque_ports(text: str | None, complain: Complain = ignore_problems) -> frozenset[int]:
    """Ports and ranges such as `4222,6000-6100`; the defaults where the annotation is not there."""
    if text is None:
        return DEFAULT_OPAQUE_PORTS
    ports: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        low, dash, high = part.partition("-")
        bounds = (low, high if dash else low)
        if not all(b.isascii() and b.isdigit() and 1 <= int(b) <= 65_535 for b in bounds) or int(bounds[0]) > int(
            bounds[1]
        ):
            complain(annotation(OPAQUE_PORTS), f"{part!r} is not a port or a range such as 6000-6100")
            continue
        ports.update(range(int(bounds[0]), int(bounds[1]) + 1))
    return frozenset(ports)
