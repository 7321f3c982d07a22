"""The control plane's namespace, and the values that its parts read.

PodSecurity `restricted` is enforced: whoever gets to make a pod here still gets no root.
"""

from __future__ import annotations

from mesh.api.values import CONFIG_KEY, CONFIG_MAP
from mesh.deploy.labels import (
    ADMISSION_WEBHOOKS,
    CONTROL_PLANE_NS,
    IS_CONTROL_PLANE,
    NAMESPACE,
    PART_OF,
    PRODUCT,
    metadata,
)
from mesh.deploy.template import AllValues, Node

POD_SECURITY = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/warn": "restricted",
}


def namespace() -> list[Node]:
    labels = {
        CONTROL_PLANE_NS: NAMESPACE,
        IS_CONTROL_PLANE: "true",
        ADMISSION_WEBHOOKS: "disabled",
        PART_OF: PRODUCT,
        **POD_SECURITY,
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": labels, "annotations": {"linkerd.io/inject": "disabled"}},
        }
    ]


def config() -> list[Node]:
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(CONFIG_MAP, "controller"),
            "data": {CONFIG_KEY: AllValues()},
        }
    ]
