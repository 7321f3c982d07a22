"""What lies outside the cluster's pods: EgressNetwork (whom pods may call), ExternalWorkload (machines in the mesh)."""

from __future__ import annotations

from typing import Any

from mesh.deploy.crds.definition import STATUS, column, definition
from mesh.deploy.crds.schema import choice, listing, network, port, record, text

EXTERNAL_GROUP = "workload.linkerd.io"


def egress_network() -> dict[str, Any]:
    spec = record(
        {
            "trafficPolicy": choice("Allow", "Deny", description="Of what no route of this network matches"),
            "networks": listing(network()) | {"description": "None: everything outside the cluster's networks"},
        },
        required=["trafficPolicy"],
    )
    columns = [column("Traffic Policy", ".spec.trafficPolicy")]
    return definition(
        "policy.linkerd.io", "EgressNetwork", "egressnetworks", ["v1alpha1"], spec, status=STATUS, columns=columns
    )


def external_workload() -> dict[str, Any]:
    spec = record(
        {
            "meshTLS": record(
                {
                    "identity": text("TLS identity that the workload proves", minLength=1, maxLength=253),
                    "serverName": text("SNI that clients send to it", minLength=1, maxLength=253),
                },
                required=["identity", "serverName"],
            ),
            "workloadIPs": listing(record({"ip": text("An IP address")}, required=["ip"]), minItems=1),
            "ports": listing(
                record({"name": text(maxLength=63), "port": port(), "protocol": choice("TCP", "UDP", "SCTP")}, ["port"])
            ),
        },
        required=["meshTLS", "workloadIPs"],
    )
    columns = [
        column("Identity", ".spec.meshTLS.identity"),
        column("Age", ".metadata.creationTimestamp", "date"),
    ]
    return definition(
        EXTERNAL_GROUP,
        "ExternalWorkload",
        "externalworkloads",
        ["v1alpha1", "v1beta1"],
        spec,
        status=STATUS,
        columns=columns,
    )
