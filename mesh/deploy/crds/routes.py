"""HTTPRoute of policy.linkerd.io; HTTPRoute and GRPCRoute of gateway.networking.k8s.io, for clusters that have none.

No defaults stand in these schemas: those of `mesh.api.resources` hold, so that one manifest means the same in every
world. The Gateway API's own CRDs fill in `kind: Gateway` where a parent has none.
"""

from __future__ import annotations

from typing import Any

from mesh.deploy.crds.definition import STATUS, column, definition
from mesh.deploy.crds.schema import (
    HTTP_METHODS,
    Schema,
    choice,
    duration,
    listing,
    port,
    record,
    reference,
    text,
    whole,
)

GATEWAY_GROUP = "gateway.networking.k8s.io"
_APPROVED = {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/3328"}
"""Kubernetes takes no CRD of a *.k8s.io group without it."""
_TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$"  # noqa: S105 – RFC 9110's word for a header's name
_FILTER_TYPES = (
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestRedirect",
    "URLRewrite",
    "RequestMirror",
    "HTTPFailureInjector",
)


def policy_http_route() -> dict[str, Any]:
    versions = ["v1alpha1", "v1beta1", "v1beta2", "v1beta3"]
    return definition(
        "policy.linkerd.io",
        "HTTPRoute",
        "httproutes",
        versions,
        _http_spec(),
        status=_status(),
        columns=[column("Hostnames", ".spec.hostnames"), column("Age", ".metadata.creationTimestamp", "date")],
    )


def gateway_routes() -> list[dict[str, Any]]:
    columns = [column("Hostnames", ".spec.hostnames"), column("Age", ".metadata.creationTimestamp", "date")]
    more: dict[str, Any] = {
        "status": _status(),
        "columns": columns,
        "annotations": _APPROVED,
        "categories": ["gateway-api"],
    }
    return [
        definition(GATEWAY_GROUP, "HTTPRoute", "httproutes", ["v1beta1", "v1"], _http_spec(), **more),
        definition(GATEWAY_GROUP, "GRPCRoute", "grpcroutes", ["v1"], _grpc_spec(), **more),
    ]


def _http_spec() -> Schema:
    match = record(
        {
            "path": record({"type": choice("Exact", "PathPrefix", "RegularExpression"), "value": text()}),
            "method": choice(*HTTP_METHODS),
            "headers": listing(_field(text(pattern=_TOKEN))),
            "queryParams": listing(_field(text(minLength=1))),
        }
    )
    rule = record(
        {
            "name": text(),
            "matches": listing(match),
            "filters": listing(_filter()),
            "backendRefs": listing(_backend()),
            "timeouts": record({"request": duration(), "backendRequest": duration()}),
        }
    )
    return _spec(rule)


def _grpc_spec() -> Schema:
    method = record({"type": choice("Exact", "RegularExpression"), "service": text(), "method": text()})
    match = record({"method": method, "headers": listing(_field(text(pattern=_TOKEN)))})
    rule = record(
        {
            "name": text(),
            "matches": listing(match),
            "filters": listing(_filter()),
            "backendRefs": listing(_backend()),
        }
    )
    return _spec(rule)


def _spec(rule: Schema) -> Schema:
    parent = _reference(optional_kind=True)
    parent["properties"] |= {"port": port(), "sectionName": text()}
    return record(
        {
            "parentRefs": listing(parent) | {"description": "Services, EgressNetworks or Servers of this namespace"},
            "hostnames": listing(text(maxLength=253)),
            "rules": listing(rule),
        },
        required=["parentRefs"],
    )


def _field(name: Schema) -> Schema:
    return record(
        {"name": name, "value": text(), "type": choice("Exact", "RegularExpression")}, required=["name", "value"]
    )


def _backend() -> Schema:
    backend = _reference(optional_kind=True)
    backend["properties"] |= {"port": port(), "weight": whole(0, 1_000_000), "filters": listing(_filter())}
    return backend


def _filter() -> Schema:
    headers = listing(record({"name": text(pattern=_TOKEN), "value": text()}, required=["name", "value"]))
    modifier = record({"set": headers, "add": headers, "remove": listing(text(pattern=_TOKEN))})
    path = record(
        {
            "type": choice("ReplaceFullPath", "ReplacePrefixMatch"),
            "replaceFullPath": text(),
            "replacePrefixMatch": text(),
        },
        required=["type"],
    )
    fraction = record({"numerator": whole(0), "denominator": whole(1)}, required=["numerator"])
    target = _reference(optional_kind=True)
    target["properties"]["port"] = port()
    statuses: Schema = {"type": "integer", "enum": [301, 302, 303, 307, 308]}
    return record(
        {
            "type": choice(*_FILTER_TYPES),
            "requestHeaderModifier": modifier,
            "responseHeaderModifier": modifier,
            "requestRedirect": record(
                {
                    "scheme": choice("http", "https"),
                    "hostname": text(maxLength=253),
                    "port": port(),
                    "path": path,
                    "statusCode": statuses,
                }
            ),
            "urlRewrite": record({"hostname": text(maxLength=253), "path": path}),
            "requestMirror": record(
                {"backendRef": target, "percent": whole(0, 100), "fraction": fraction}, required=["backendRef"]
            ),
            "httpFailureInjector": record({"status": whole(200, 599), "ratio": fraction}, required=["status"]),
        },
        required=["type"],
    )


def _reference(*, optional_kind: bool) -> Schema:
    schema = reference()
    return schema | {"required": ["name"]} if optional_kind else schema


def _status() -> Schema:
    """RouteParentStatus: what each controller says of each parent."""
    parent = record(
        {
            "parentRef": _spec(record({}))["properties"]["parentRefs"]["items"],
            "controllerName": text(minLength=1, maxLength=253),
            "conditions": STATUS["properties"]["conditions"],
        },
        required=["parentRef", "controllerName"],
    )
    return record({"parents": listing(parent)}, required=["parents"])
