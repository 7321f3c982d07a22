"""Everything that an install consists of, in the order in which it is applied.

    crds → namespace → config → identity → destination → injector → viz → network policies

Each part is a function of its own (`mesh.deploy.parts`); its objects say by themselves whether they are there
(`mesh.deploy.template`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.api.values import Values
from mesh.deploy.crds import crds, gateway_routes
from mesh.deploy.parts.destination import destination
from mesh.deploy.parts.identity import identity
from mesh.deploy.parts.injector import injector
from mesh.deploy.parts.namespace import config, namespace
from mesh.deploy.parts.network import network_policies
from mesh.deploy.parts.viz import viz
from mesh.deploy.template import ABSENT, Builder, Is, Node, When, evaluate
from mesh.deploy.values import merge, to_mapping


@dataclass(frozen=True, slots=True)
class Credentials:
    """What identity starts from, as PEM. Empty issuer: the Secret is somebody else's."""

    trust_anchors: str
    issuer_certificate: str = ""
    issuer_key: str = ""


def all_crds() -> list[Node]:
    return [*crds(), *(When(Is("installGatewayAPI"), node) for node in gateway_routes())]


PARTS: Mapping[str, Builder] = {
    "namespace": namespace,
    "config": config,
    "identity": identity,
    "destination": destination,
    "proxy-injector": injector,
    "viz": viz,
    "network-policies": network_policies,
}
"""By name; a part is one file of the chart."""


def install_objects(values: Values, credentials: Credentials) -> list[dict[str, Any]]:
    """All objects but CRDs, as plain dictionaries."""
    context = context_of(values, credentials)
    return [found for part in PARTS.values() for node in part() if (found := evaluate(node, context)) is not ABSENT]


def crd_objects(values: Values) -> list[dict[str, Any]]:
    """The CRDs: applied first, for nothing of the kinds they define exists before."""
    context = context_of(values, Credentials(""))
    return [found for node in all_crds() if (found := evaluate(node, context)) is not ABSENT]


def context_of(values: Values, credentials: Credentials) -> dict[str, Any]:
    """The fields that templates name: values, and credentials where Linkerd's chart has them."""
    tls = {"crtPEM": credentials.issuer_certificate, "keyPEM": credentials.issuer_key}
    given = {"identityTrustAnchorsPEM": credentials.trust_anchors, "identity": {"issuer": {"tls": tls}}}
    return merge(to_mapping(values), given)
