"""What is ours in a cluster: for `uninstall` (everything) and `prune` (what the current version no longer has).

By label, not by a list of names: an older version's objects are found too. The order matters:

    webhook configurations      nothing waits for an injector that is already gone
    the trust anchors           identity copies nothing once it saw the original go
    namespaces, roles           and all that is in the namespaces
    copies of the anchors
    CRDs                        and every resource of their kinds

Injected pods carry the same label and are never touched, nor is what a user made in his own namespaces; all that is
ours there are the copies of the trust anchors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightkube import Client

from mesh.deploy import paths
from mesh.deploy.labels import CONTROL_PLANE_NS, NAMESPACE, PART_OF, PRODUCT, TRUST_ROOTS, VIZ_NAMESPACE
from mesh.kube.kinds import POD, Kind

_SELECTOR = f"{CONTROL_PLANE_NS}={NAMESPACE}"
_KEPT = ("Secret", "Namespace", "CustomResourceDefinition")
"""Kinds that prune leaves alone: Secrets are made by the control plane itself (webhooks) or by the user (issuer); a
namespace may hold what is not ours; with a CRD go all resources of its kind, which is for an uninstall to do."""


def owned_objects(client: Client) -> list[dict[str, Any]]:
    """References to all that an uninstall removes, in the order of removal. What is inside of our namespaces goes with
    them. Raises paths.RequestFailed."""
    before = (paths.MUTATING, paths.VALIDATING)
    after = (paths.CLUSTER_ROLE_BINDING, paths.CLUSTER_ROLE)
    found = [reference(item) for kind in before for item in paths.list_labelled(client, kind, _SELECTOR)]
    found += [reference(item) for item in _trust_roots(client) if not _is_copy(item)]
    found += [reference(item) for item in _namespaces(client)]
    found += [reference(item) for kind in after for item in paths.list_labelled(client, kind, _SELECTOR)]
    found += [reference(item) for item in _trust_roots(client) if _is_copy(item)]
    found += [reference(item) for item in paths.list_labelled(client, paths.CRD, _SELECTOR)]
    return found


def stale_objects(client: Client, current: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """References to what an older version left: ours by label, and not among `current`. Raises paths.RequestFailed."""
    wanted = {_key(item) for item in current}
    selector = f"{_SELECTOR},{PART_OF}={PRODUCT}"
    kinds = [kind for kind in paths.KINDS if kind.name not in _KEPT]
    found = [item for kind in kinds for item in paths.list_labelled(client, kind, selector)]
    return [reference(item) for item in found if _key(item) not in wanted and not _is_copy(item)]


def injected_pods(client: Client) -> list[str]:
    """`namespace/name` of pods with a sidecar: they lose the mesh when it is removed. Raises paths.RequestFailed."""
    pods = paths.list_labelled(client, POD, _SELECTOR)
    names = [(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in pods]
    return [f"{namespace}/{name}" for namespace, name in names if namespace not in (NAMESPACE, VIZ_NAMESPACE)]


def reference(item: Mapping[str, Any]) -> dict[str, Any]:
    """As much of an object as `kubectl delete -f -` wants."""
    metadata = {key: item["metadata"][key] for key in ("name", "namespace") if item["metadata"].get(key)}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata}


def _namespaces(client: Client) -> list[dict[str, Any]]:
    """Ours by name as well: a user's own namespace that carries the label is not to be deleted."""
    found = paths.list_labelled(client, paths.NAMESPACE, _SELECTOR)
    return [item for item in found if item["metadata"]["name"] in (NAMESPACE, VIZ_NAMESPACE)]


def _trust_roots(client: Client) -> list[dict[str, Any]]:
    found = paths.list_labelled(client, paths.CONFIG_MAP, _SELECTOR)
    return [item for item in found if item["metadata"]["name"] == TRUST_ROOTS]


def _is_copy(item: Mapping[str, Any]) -> bool:
    metadata = item["metadata"]
    return bool(metadata["name"] == TRUST_ROOTS and metadata.get("namespace") not in (NAMESPACE, None))


def _key(item: Mapping[str, Any]) -> tuple[str, str, str]:
    kind: Kind = paths.kind_of(item)
    return str(kind), item["metadata"].get("namespace") or "", item["metadata"]["name"]
