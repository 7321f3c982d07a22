"""policy.linkerd.io, who may call: Server, ServerAuthorization, AuthorizationPolicy, authentications, rate limits."""

from __future__ import annotations

from typing import Any

from mesh.behavior.authz import DEFAULT_POLICIES
from mesh.deploy.crds.definition import STATUS, column, definition
from mesh.deploy.crds.schema import (
    Schema,
    choice,
    flag,
    int_or_text,
    label_selector,
    listing,
    network,
    record,
    reference,
    rules,
    text,
    whole,
)

GROUP = "policy.linkerd.io"
_DNS_IDENTITY = r"(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_SPIFFE = r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*"
_PORT_NAME = "^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$"


def inbound() -> list[dict[str, Any]]:
    return [
        _server(),
        _server_authorization(),
        _authorization_policy(),
        _mesh_tls_authentication(),
        _network_authentication(),
        _rate_limit_policy(),
    ]


def _server() -> dict[str, Any]:
    spec = record(
        {
            "podSelector": label_selector() | {"description": "Pods of this namespace; {} is all of them"},
            "externalWorkloadSelector": label_selector(),
            "port": int_or_text(description="Number, or name of a container's port")
            | rules(
                ("type(self) == int ? self >= 1 && self <= 65535 : true", "a port is a number from 1 to 65535"),
                (f"type(self) == string ? self.matches('{_PORT_NAME}') : true", "not the name of a container's port"),
            ),
            "proxyProtocol": choice("unknown", "HTTP/1", "HTTP/2", "gRPC", "opaque", "TLS"),
            "accessPolicy": choice(*DEFAULT_POLICIES, description="For clients that no authorization names"),
        },
        required=["port"],
        **rules(
            (
                "has(self.podSelector) != has(self.externalWorkloadSelector)",
                "needs exactly one of podSelector and externalWorkloadSelector; {} selects every pod of the namespace",
            )
        ),
    )
    columns = [
        column("Port", ".spec.port"),
        column("Protocol", ".spec.proxyProtocol"),
        column("Access Policy", ".spec.accessPolicy"),
    ]
    versions = ["v1beta1", "v1beta2", "v1beta3"]
    return definition(GROUP, "Server", "servers", versions, spec, columns=columns, short=["srv"])


def _server_authorization() -> dict[str, Any]:
    service_account = record({"name": text(minLength=1), "namespace": text(minLength=1)}, required=["name"])
    spec = record(
        {
            "server": record(
                {"name": text(minLength=1), "selector": label_selector()},
                **rules(("has(self.name) != has(self.selector)", "needs exactly one of name and selector")),
            ),
            "client": record(
                {
                    "networks": listing(_network()),
                    "unauthenticated": flag("Clients without mesh identity, too"),
                    "meshTLS": record(
                        {
                            "unauthenticatedTLS": flag("Any TLS client, whoever it is"),
                            "identities": _identities(),
                            "serviceAccounts": listing(service_account),
                        }
                    ),
                }
            ),
        },
        required=["server", "client"],
    )
    columns = [column("Server", ".spec.server.name")]
    return definition(
        GROUP,
        "ServerAuthorization",
        "serverauthorizations",
        ["v1beta1"],
        spec,
        columns=columns,
        short=["saz", "serverauthz", "srvauthz"],
    )


def _authorization_policy() -> dict[str, Any]:
    spec = record(
        {
            "targetRef": reference() | {"description": "A Server or HTTPRoute, or the Namespace for all its Servers"},
            "requiredAuthenticationRefs": listing(reference())
            | {"description": "A client needs all of them; none: every client"},
        },
        required=["targetRef"],
    )
    columns = [column("Target", ".spec.targetRef.name")]
    return definition(
        GROUP,
        "AuthorizationPolicy",
        "authorizationpolicies",
        ["v1alpha1"],
        spec,
        columns=columns,
        short=["authzpolicy"],
    )


def _mesh_tls_authentication() -> dict[str, Any]:
    spec = record(
        {"identities": _identities(), "identityRefs": listing(reference())},
        **rules(
            (
                "(has(self.identities) && size(self.identities) > 0) != "
                "(has(self.identityRefs) && size(self.identityRefs) > 0)",
                "needs exactly one of identities and identityRefs, and at least one client in it",
            )
        ),
    )
    return definition(
        GROUP, "MeshTLSAuthentication", "meshtlsauthentications", ["v1alpha1"], spec, short=["meshtlsauthn"]
    )


def _network_authentication() -> dict[str, Any]:
    spec = record({"networks": listing(_network(), minItems=1)}, required=["networks"])
    return definition(
        GROUP, "NetworkAuthentication", "networkauthentications", ["v1alpha1"], spec, short=["netauthn", "networkauthn"]
    )


def _rate_limit_policy() -> dict[str, Any]:
    limit = record({"requestsPerSecond": whole(1, 2**31 - 1)}, required=["requestsPerSecond"])
    override = record(
        {"requestsPerSecond": whole(1, 2**31 - 1), "clientRefs": listing(reference(), minItems=1)},
        required=["requestsPerSecond", "clientRefs"],
    )
    spec = record(
        {
            "targetRef": reference() | {"description": "A Server"},
            "total": limit | {"description": "Of all clients, for each pod behind the Server"},
            "identity": limit | {"description": "Of each client"},
            "overrides": listing(override),
        },
        required=["targetRef"],
        **rules(
            (
                "has(self.total) || has(self.identity) || (has(self.overrides) && size(self.overrides) > 0)",
                "limits nothing; write total, identity or overrides",
            ),
            (
                "!(has(self.total) && has(self.identity)) || "
                "self.identity.requestsPerSecond <= self.total.requestsPerSecond",
                "identity.requestsPerSecond is more than total.requestsPerSecond lets through",
            ),
        ),
    )
    status = record({**STATUS["properties"], "targetRef": reference()})
    columns = [
        column("Target_kind", ".spec.targetRef.kind"),
        column("Target_name", ".spec.targetRef.name"),
        column("Total_RPS", ".spec.total.requestsPerSecond", "integer"),
        column("Identity_RPS", ".spec.identity.requestsPerSecond", "integer"),
    ]
    return definition(
        GROUP,
        "HTTPLocalRateLimitPolicy",
        "httplocalratelimitpolicies",
        ["v1alpha1"],
        spec,
        status=status,
        columns=columns,
    )


def _identities() -> Schema:
    return listing(text(pattern=f"^({_DNS_IDENTITY}|{_SPIFFE})$")) | {
        "description": "DNS names, * for any, *.and.a.suffix, or SPIFFE ids"
    }


def _network() -> Schema:
    return network()
