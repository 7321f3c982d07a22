"""Identity names: how a service account becomes the DNS name in a certificate, and back.

    <service account>.<namespace>.serviceaccount.identity.<control-plane namespace>.<trust domain>

The form is Linkerd's. The same name stands in the CSR, in the leaf's SAN, in the SNI of a connection between proxies
and in the `client_id`/`server_id` labels.
"""

from __future__ import annotations

import re

CONTROL_PLANE_NAMESPACE = "linkerd"
DEFAULT_TRUST_DOMAIN = "cluster.local"
DEFAULT_CLUSTER_DOMAIN = "cluster.local"

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")


def identity_name(service_account: str, namespace: str, trust_domain: str = DEFAULT_TRUST_DOMAIN) -> str:
    """The TLS name of a pod that runs as `service_account` in `namespace`."""
    return f"{service_account}.{namespace}.serviceaccount.identity.{CONTROL_PLANE_NAMESPACE}.{trust_domain}"


def component_name(
    component: str, trust_domain: str = DEFAULT_TRUST_DOMAIN, namespace: str = CONTROL_PLANE_NAMESPACE
) -> str:
    """The TLS name of a control-plane component (`identity`, `destination` or `policy`) that runs in `namespace`."""
    return identity_name(f"linkerd-{component}", namespace, trust_domain)


def is_label(text: str) -> bool:
    """Whether `text` can be a namespace (RFC 1123 label)."""
    return _LABEL.fullmatch(text) is not None


def is_dns_name(text: str) -> bool:
    """Whether `text` is a lower-case DNS name of at most 253 characters, without a wildcard."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None
