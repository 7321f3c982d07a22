"""What the service account `viz` may do in the cluster. The manifests are made from this.

    CLUSTER     pods everywhere, read only: whom to scrape and tap, and which workload a pod belongs to
    NAMESPACE   in its own namespace: the Secret that says who may tap (`mesh.viz.gate`). `create` cannot be limited to
                a name in Kubernetes; reading is

Nothing else: it reads the proxies' metrics from their admin ports, and taps with its mesh identity.
"""

from __future__ import annotations

from typing import TypedDict

TAP_SECRET = "viz-tap"  # noqa: S105 – the name of an object


class Rule(TypedDict, total=False):
    """A `PolicyRule` of rbac.authorization.k8s.io/v1, ready to be written out."""

    apiGroups: list[str]
    resources: list[str]
    resourceNames: list[str]
    verbs: list[str]


class Permissions(TypedDict):
    """`cluster`: rules of a ClusterRole; `namespace`: rules of a Role in viz's own namespace."""

    cluster: list[Rule]
    namespace: list[Rule]


PERMISSIONS: Permissions = {
    "cluster": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}],
    "namespace": [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [TAP_SECRET], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ],
}
