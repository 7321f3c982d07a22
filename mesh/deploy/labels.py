"""Names and labels of everything that we put into a cluster. Labels are Linkerd's, so that its users' tools find us.

`linkerd.io/control-plane-ns` marks what is ours on objects outside our namespaces; injected pods carry it too, so it
says "ours" only together with a kind (`mesh.deploy.owned`).
"""

from __future__ import annotations

NAMESPACE = "linkerd"
"""Of the control plane. It is part of every identity (`mesh.control.names`), which is why it is no value."""
VIZ_NAMESPACE = "linkerd-viz"

CONTROL_PLANE_NS = "linkerd.io/control-plane-ns"
COMPONENT = "linkerd.io/control-plane-component"
IS_CONTROL_PLANE = "linkerd.io/is-control-plane"
EXTENSION = "linkerd.io/extension"
ADMISSION_WEBHOOKS = "config.linkerd.io/admission-webhooks"
PART_OF = "app.kubernetes.io/part-of"
PRODUCT = "gameday-mesh"

IDENTITY = "linkerd-identity"
DESTINATION = "linkerd-destination"
INJECTOR = "linkerd-proxy-injector"
VIZ = "viz"

TRUST_ROOTS = "linkerd-identity-trust-roots"
TRUST_ROOTS_KEY = "ca-bundle.crt"
ISSUER = "linkerd-identity-issuer"

CRD_LABELS = {CONTROL_PLANE_NS: NAMESPACE, PART_OF: PRODUCT}


def labels(component: str) -> dict[str, str]:
    """Of an object that belongs to `component`."""
    return {CONTROL_PLANE_NS: NAMESPACE, COMPONENT: component, PART_OF: PRODUCT}


def viz_labels() -> dict[str, str]:
    return {CONTROL_PLANE_NS: NAMESPACE, EXTENSION: "viz", COMPONENT: "viz", PART_OF: PRODUCT}


def metadata(name: str, component: str, namespace: str | None = NAMESPACE) -> dict[str, object]:
    """Of an object of the control plane; `namespace` None for those that are in none."""
    found: dict[str, object] = {"name": name, "labels": labels(component)}
    return found if namespace is None else {"name": name, "namespace": namespace, "labels": labels(component)}


def viz_metadata(name: str, namespace: str | None = VIZ_NAMESPACE) -> dict[str, object]:
    if namespace is None:
        return {"name": name, "labels": viz_labels()}
    return {"name": name, "namespace": namespace, "labels": viz_labels()}
