"""Requests as observers see them, without a proxy around them."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field
from time import monotonic

from cryptography import x509

from mesh.api.messages import Endpoint
from mesh.control import pki
from mesh.proxy.csr import make_key_and_csr
from mesh.proxy.observe import Observer
from mesh.proxy.recorder import Recorder
from mesh.proxy.session import Session
from mesh.proxy.wire.contexts import Contexts, make_contexts
from mesh.proxy.wire.errors import AnyCause
from mesh.proxy.wire.message import Headers, RequestHead

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Side:
    """A side of the proxy. `serve` takes a request through its three moments."""

    direction: str = "inbound"
    observers: tuple[Observer, ...] = ()
    recorder: Recorder | None = None

    def serve(self, request: Asked) -> None:
        self.begin(request)
        self.finish(request)

    def begin(self, request: Asked) -> None:
        request.owner = self
        for observer in self.observers:
            observer.began(request)

    def finish(self, request: Asked) -> None:
        if request.status:
            request.responded_at = monotonic()
            for observer in self.observers:
                observer.responded(request, request.status)
        for observer in self.observers:
            observer.ended(request)
        if self.recorder is not None:
            self.recorder.ended(request)


@dataclass
class Tried:
    spec: Endpoint


@dataclass(eq=False)
class Asked:
    """A request with the attributes that `mesh.proxy.observe.Observed` names."""

    head: RequestHead
    owner: Side = field(default_factory=Side)
    session: Session = field(
        default_factory=lambda: Session("10.0.0.7:40000", "10.0.0.9:8080", identity="cart.shop.local", tls=True)
    )
    extra: Headers = field(default_factory=list)
    started_at: float = field(default_factory=monotonic)
    responded_at: float = 0.0
    status: int = 200
    grpc_status: int | None = None
    cause: AnyCause | None = None
    received: int = 3
    returned: int = 5
    attempts: int = 1
    endpoint: Tried | None = field(
        default_factory=lambda: Tried(
            Endpoint(address="10.0.0.20:4143", pod="pay-0", namespace="shop", identity="pay.shop.local")
        )
    )
    route_name: str = "checkout"
    authority: str = "pay.shop.svc.cluster.local:80"


def asked(path: str = "/orders?id=1", method: str = "GET", headers: Headers | None = None, **fields: object) -> Asked:
    head = RequestHead()
    head.method, head.path, head.authority = method, path.encode(), b"pay.shop.svc.cluster.local"
    head.headers = list(headers or [])
    return Asked(head, **fields)  # type: ignore[arg-type]


class Anchored:
    """A mesh's certificates."""

    def __init__(self) -> None:
        self.anchor = pki.create_trust_anchor()
        self.issuer = pki.create_issuer(self.anchor)

    def contexts(self, identity: str) -> Contexts:
        key, csr = make_key_and_csr(identity)
        public = x509.load_pem_x509_csr(csr.encode()).public_key()
        leaf = pki.issue_leaf(self.issuer, identity, public, now=time.time(), lifetime=3600.0, clock_skew=20.0)
        chain = "\n".join((pki.to_pem(leaf), self.issuer.certificate_pem))
        return make_contexts(self.anchor.certificate_pem, chain, key)

    def client(self, identity: str) -> ssl.SSLContext:
        return self.contexts(identity).control
