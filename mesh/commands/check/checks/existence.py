"""Is everything there that the install consists of, and does it run?

What belongs to an install is not typed here a second time: it is rendered from the values that the cluster holds, as
`gameday mesh install` rendered it.
"""

from __future__ import annotations

from functools import partial
from ipaddress import ip_address, ip_network

from mesh.commands.check.facts import Facts
from mesh.commands.check.judge import SKIP, Category, Check, Verdict, error, listed, warning

UPGRADE = "apply what is missing: `gameday mesh upgrade | kubectl apply -f -`"
ASK = "ask for a role that may read it"
WEBHOOK_KINDS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
PART_OF_OTHER_CHECKS = frozenset(
    {"Namespace", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount", "Deployment"}
    | {"CustomResourceDefinition", *WEBHOOK_KINDS}
)


def namespace_exists(facts: Facts) -> Verdict:
    if not facts.namespace_exists:
        text = f'the "{facts.namespace}" namespace does not exist'
        return error(text, "install with `gameday mesh install | kubectl apply -f -`, or give -L NAMESPACE")
    return None


def config_readable(facts: Facts) -> Verdict:
    if not facts.namespace_exists:
        return SKIP
    if facts.values_problem:
        return error(f"ConfigMap linkerd-config: {facts.values_problem}", "restore it: `gameday mesh upgrade`")
    if facts.values is None:
        text = f"ConfigMap {facts.namespace}/linkerd-config does not exist: there is no install, or half of one"
        return error(text, "install with `gameday mesh install | kubectl apply -f -`")
    return None


def exist(kinds: tuple[str, ...], facts: Facts) -> Verdict:
    """All objects of these kinds."""
    wanted = [ref for ref in facts.expected if ref.kind in kinds and ref.kind not in facts.unread]
    if not wanted:
        unread = [facts.unread[kind] for kind in kinds if kind in facts.unread]
        return warning(f"cannot tell: {unread[0]}", ASK) if unread else SKIP
    lines = [f"{ref} is missing" for ref in wanted if ref in facts.missing]
    lines += [f"{ref}: {facts.altered[ref]}" for ref in wanted if ref in facts.altered]
    return error(listed(lines), UPGRADE) if lines else None


def rest_exists(facts: Facts) -> Verdict:
    kinds = tuple({ref.kind for ref in facts.expected} - PART_OF_OTHER_CHECKS)
    return exist(kinds, facts)


def deployments_ready(facts: Facts) -> Verdict:
    if not facts.expected:
        return SKIP
    lines = [f"{ref.name} is missing" for ref in facts.expected if ref.kind == "Deployment" and ref in facts.missing]
    lines += [
        f"{component.name}: {component.ready} of {component.wanted} ready"
        + (f" ({component.message})" if component.message else "")
        for component in facts.components
        if component.ready < component.wanted
    ]
    stopped = [component.name for component in facts.components if component.wanted == 0]
    lines += [f"{name}: scaled to 0" for name in stopped]
    if lines:
        return error(listed(lines), f"see `kubectl -n {facts.namespace} describe deploy` and the pods below")
    return None


def none_unschedulable(facts: Facts) -> Verdict:
    if not facts.pods:
        return SKIP
    lines = [f"{pod.name}: {pod.trouble or 'Unschedulable'}" for pod in facts.pods if pod.unschedulable]
    return error(listed(lines), "give the nodes room, or mend selectors and taints") if lines else None


def pods_ready(facts: Facts) -> Verdict:
    if not facts.namespace_exists or not facts.expected:
        return SKIP
    if not facts.pods:
        return error(f"no pods in {facts.namespace}", f"see `kubectl -n {facts.namespace} get events`")
    lines = []
    for pod in facts.pods:
        if pod.ready or pod.unschedulable or pod.phase == "Succeeded":
            continue
        waiting = ", ".join(sorted(name for name, ready in pod.containers.items() if not ready))
        why = pod.trouble or (f"container {waiting} is not ready" if waiting else pod.phase)
        lines.append(f"{pod.name}: {why}")
    if lines:
        return error(listed(lines), f"see `kubectl -n {facts.namespace} describe pod POD`, `logs POD -c CONTAINER`")
    return None


def networks_contain(what: str, facts: Facts) -> Verdict:
    """`clusterNetworks` decides whom the policies `cluster-*` let in, and what is egress."""
    if facts.values is None:
        return SKIP
    text = facts.values.cluster_networks
    try:
        networks = [ip_network(part.strip()) for part in text.split(",")]
    except ValueError as problem:
        return error(f"clusterNetworks: {problem}", "upgrade with --set clusterNetworks=…")
    if what == "node podCIDRs":
        named = {cidr: f"node {node.name}" for node in facts.nodes for cidr in node.networks}
    else:
        named = dict(facts.pod_ips if what == "pods" else facts.service_ips)
    lines = []
    for address, owner in named.items():
        inner = ip_network(address) if "/" in address else ip_network(ip_address(address))
        if not any(inner.version == outer.version and inner.subnet_of(outer) for outer in networks):  # type: ignore[arg-type]  # versions are equal
            lines.append(f"{owner}: {address} is outside of {text}")
    if lines:
        return warning(listed(lines, 5), "add it: `gameday mesh upgrade --set clusterNetworks=…`")
    return None


def role_bindings(facts: Facts) -> Verdict:
    return exist(("ClusterRoleBinding", "RoleBinding"), facts)


CATEGORIES = (
    Category(
        "linkerd-existence",
        (
            Check("control plane Namespace exists", namespace_exists, needs=("namespace_exists",)),
            Check("'linkerd-config' config map exists", config_readable, needs=("values",)),
            Check("control plane replica sets are ready", deployments_ready, needs=("components",)),
            Check("no unschedulable pods", none_unschedulable, needs=("pods",)),
            Check("control plane pods are ready", pods_ready, needs=("pods",)),
            *(
                Check(f"cluster networks contains all {what}", partial(networks_contain, what), needs=(need,))
                for what, need in (("node podCIDRs", "nodes"), ("pods", "pod_ips"), ("services", "service_ips"))
            ),
        ),
    ),
    Category(
        "linkerd-config",
        (
            Check("control plane ServiceAccounts exist", partial(exist, ("ServiceAccount",))),
            Check("control plane ClusterRoles exist", partial(exist, ("ClusterRole", "Role"))),
            Check("control plane ClusterRoleBindings exist", role_bindings),
            Check(
                "control plane CustomResourceDefinitions exist",
                partial(exist, ("CustomResourceDefinition",)),
            ),
            *(Check(f"control plane {kind}s exist", partial(exist, (kind,))) for kind in WEBHOOK_KINDS),
            Check("all other objects of the control plane exist", rest_exists),
        ),
    ),
)
