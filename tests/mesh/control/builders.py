"""Resources and credentials for the control plane's tests."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from mesh.api.messages import CertifyRequest
from mesh.api.resources import (
    HTTPRoute,
    HTTPRouteSpec,
    Metadata,
    ParentRef,
    RouteMatch,
    RouteRule,
    Service,
    ServicePort,
    ServiceSpec,
)
from mesh.control.log import Log
from mesh.control.names import identity_name
from mesh.control.pki import Authority, create_csr, create_issuer, create_key, create_trust_anchor
from mesh.control.tokens import TokenSigner, TokenVerifier

NOW = 1_800_000_000.0
CART = identity_name("cart", "shop")


@dataclass
class Realm:
    """A trust anchor, an issuer and a token key, all made at `NOW`."""

    anchor: Authority = field(default_factory=lambda: create_trust_anchor(now=NOW))
    issuer: Authority = field(init=False)
    signer: TokenSigner = field(default_factory=TokenSigner.generate)

    def __post_init__(self) -> None:
        self.issuer = create_issuer(self.anchor, now=NOW)

    @property
    def verifier(self) -> TokenVerifier:
        return TokenVerifier.from_pem(self.signer.public_pem.encode())

    def request(self, identity: str = CART, *, csr: str | None = None, token: str | None = None) -> CertifyRequest:
        return CertifyRequest(
            identity=identity,
            token=token if token is not None else self.signer.sign("shop", "cart", NOW + 3600),
            csr=csr if csr is not None else create_csr(create_key(), identity),
        )


def service(annotations: dict[str, str] | None = None, port: int = 8080) -> Service:
    return Service(
        metadata=Metadata(name="cart", namespace="shop", annotations=annotations or {}),
        spec=ServiceSpec(ports=(ServicePort(port=port, name="http"),)),
    )


def route(name: str, *matches: RouteMatch, annotations: dict[str, str] | None = None) -> HTTPRoute:
    return HTTPRoute(
        metadata=Metadata(name=name, namespace="shop", annotations=annotations or {}),
        spec=HTTPRouteSpec(parent_refs=(ParentRef(name="cart"),), rules=(RouteRule(matches=matches),)),
    )


def silent_log() -> tuple[Log, io.StringIO]:
    stream = io.StringIO()
    return Log("test", "debug", stream, lambda: NOW), stream
