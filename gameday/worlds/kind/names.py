"""Names that the parts of a run on Kubernetes share. The mesh's own are in `mesh.deploy.labels`."""

from __future__ import annotations

import hashlib
import re

from mesh.api.values import VERSION

RUN_NAMESPACE = "gameday"
"""Holds the ledger's copy and the reaper. There is one in a cluster, so it is also the lock: one run at a time."""
LOAD_NAMESPACE, LOAD_SERVICE = "load", "loadgen"
"""As in the embedded world: policies may name the load generator's identity."""
AGENT, REAPER = "agent", "reaper"
RUN_LABEL = "gameday.run"
SERVICE_LABEL = "app"
APP_FILES, APP_MOUNT = "gameday-app", "/gameday"
"""The application file (and what lies beside it) as a ConfigMap, and where pods find it."""
SPOOL_MOUNT = "/spool"
AGENT_PORT, WORKLOAD_ADMIN_PORT = 9200, 9999
LOCUST_PORT = 5557
PROXY_ADMIN_PORT, PROXY_INBOUND_PORT, PROXY_OUTBOUND_PORT = 4191, 4143, 4140
CONTROL_ADMIN_PORTS = {"identity": 9990, "destination": 9996, "policy": 9997}
CONTROL_DEPLOYMENTS = {
    "identity": "linkerd-identity",
    "destination": "linkerd-destination",
    "policy": "linkerd-destination",
}
CONTROL_COMPONENT_LABEL = "linkerd.io/control-plane-component"
PROXY_CONTAINER, APP_CONTAINER = "linkerd-proxy", "app"
FIELD_MANAGER = "gameday"
AGENT_IMAGE = f"gameday/agent:{VERSION}"
MESH_IMAGE = f"gameday/mesh:{VERSION}"


def run_label(run: str) -> str:
    """A run's name as a label's value: 63 characters at most, of letters, digits, dots, dashes."""
    text = re.sub(r"[^A-Za-z0-9.-]+", "-", run).strip("-.")
    if text == run and len(text) <= 63:
        return text
    return f"{text[:50].strip('-.')}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"


def cluster_name(run: str) -> str:
    """The name of a kind cluster made for a run: its containers' and its context's, so lower case and short."""
    return f"gameday-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
