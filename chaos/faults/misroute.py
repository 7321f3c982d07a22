"""Misrouting (F6): a wrong route sends a share of a service's requests elsewhere, or a wrong selector empties it.

`mode: route` is an HTTPRoute that somebody got wrong: its backend is another service, or one that does not exist. It
goes the way of every manifest (registry folder, or the Kubernetes API), so what proxies do with it is what they would
do with the user's own mistake. `mode: selector` changes the Service's selector, so that it has no endpoints; only
Kubernetes has selectors.

A ServiceProfile of the service wins over routes, and an older route over a newer one of equal worth: where the scenario
has either, the wrong route would do nothing, so that is refused.
"""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.faults.base import CannotInject, Steps
from chaos.kube_steps import apply, delete, patch
from chaos.requests import Step
from chaos.world import WorldState
from mesh.api.resources import HTTPRoute, ServiceProfile
from mesh.control.registry.manifests import InvalidManifest, load_manifests
from scenarios.model import AppService, FaultSpec, Scenario

NOWHERE = "gameday-nowhere"
"""A service that nobody has."""
WRONG_SELECTOR = "gameday-misroute"
API = "policy.linkerd.io/v1beta3"


class Misroute:
    kind = "misroute"
    summary = "A wrong route sends requests to another service or to none; on Kubernetes also a wrong selector."

    def describe(self, spec: FaultSpec) -> str:
        service = spec.targets["service"]
        if _mode(spec) == "selector":
            return f"{service}: its selector matches no pod"
        to = spec.parameters.get("to")
        where = f"to {to}" if to else "to a service that does not exist"
        return f"{service}: {_share(spec):.0%} of requests routed {where}"

    def hits(self, spec: FaultSpec, scenario: Scenario) -> list[str]:
        name = str(spec.targets["service"])
        callers = sorted(
            service.name
            for service in scenario.app.services
            for route in service.routes
            if any(call.service == name for stage in route.calls for call in stage)
        )
        return [f"{name}: requests of {', '.join(dict.fromkeys(callers)) or 'the load'}"]

    def holds(self, spec: FaultSpec, world: str) -> set[str]:
        return {f"route of {spec.targets['service']}"}

    def infeasible(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        service = scenario.app.service(str(spec.targets["service"]))
        if _mode(spec) == "selector":
            if world == "kind":
                return None
            return "the embedded world has no selectors; use mode: route, or pod-kill on all replicas"
        rival = _rival(service, scenario)
        if rival is None:
            return None
        return (
            f"{service.name} has a {rival} in this scenario, which wins over the wrong route; misroute another service,"
            " or use mode: selector on Kubernetes"
        )

    def warning(self, spec: FaultSpec, scenario: Scenario, world: str) -> str | None:
        if spec.parameters.get("to") is None or _mode(spec) == "selector":
            return None
        return "an answer of 404 from the wrong service is no failure to an SLO, which counts statuses of 500 and above"

    def steps(self, spec: FaultSpec, world: WorldState) -> Steps:
        name = str(spec.targets["service"])
        pods = world.pods_of(name)
        if not pods or pods[0].app is None:
            raise CannotInject(f"no pod of {name} is there")
        namespace = pods[0].namespace
        if _mode(spec) == "selector":
            path = f"/api/v1/namespaces/{namespace}/services/{name}"
            return Steps(
                (patch(world, path, {"spec": {"selector": {WRONG_SELECTOR: spec.name}}}),),
                (patch(world, path, {"spec": {"selector": {WRONG_SELECTOR: None}}}),),
            )
        manifest = wrong_route(spec, name, namespace, _ports(world))
        route = f"misroute-{spec.name}"
        if world.cluster is not None:
            path = f"/apis/{API}/namespaces/{namespace}/httproutes/{manifest['metadata']['name']}"
            return Steps((apply(world, path, manifest),), (delete(world, path),))
        text = msgspec.json.encode(manifest).decode()
        url = world.supervisor_url(f"/registry/{route}")
        return Steps((Step("PUT", url, text),), (Step("DELETE", url),))


def wrong_route(spec: FaultSpec, service: str, namespace: str, ports: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """The manifest. `ports`: (namespace, port) of each service."""
    share = _share(spec)
    to = str(spec.parameters.get("to") or NOWHERE)
    to_namespace, to_port = ports.get(to, (namespace, ports[service][1]))
    port = ports[service][1]
    backends = [{"name": to, "namespace": to_namespace, "port": to_port, "weight": round(1000 * share)}]
    if share < 1.0:
        backends.append({"name": service, "namespace": namespace, "port": port, "weight": round(1000 * (1 - share))})
    return {
        "apiVersion": API,
        "kind": "HTTPRoute",
        "metadata": {"name": f"gameday-misroute-{spec.name}", "namespace": namespace},
        "spec": {
            "parentRefs": [{"group": "core", "kind": "Service", "name": service, "namespace": namespace, "port": port}],
            "rules": [{"backendRefs": [{"group": "core", "kind": "Service", **backend} for backend in backends]}],
        },
    }


def _ports(world: WorldState) -> dict[str, tuple[str, int]]:
    return {pod.service: (pod.namespace, int(pod.app.rpartition(":")[2])) for pod in world.pods if pod.app is not None}


def _mode(spec: FaultSpec) -> str:
    return str(spec.parameters.get("mode", "route"))


def _share(spec: FaultSpec) -> float:
    return float(spec.parameters.get("share", 1.0))


def _rival(service: AppService, scenario: Scenario) -> str | None:
    try:
        resources = load_manifests(scenario.resources) if scenario.resources else []
    except InvalidManifest:
        return None  # the run ends on it by itself, with a better word
    for resource in resources:
        if isinstance(resource, ServiceProfile) and resource.metadata.name == service.host:
            return "ServiceProfile"
        if isinstance(resource, HTTPRoute) and any(
            parent.kind == "Service"
            and parent.name == service.name
            and (parent.namespace or resource.metadata.namespace) == service.namespace
            for parent in resource.spec.parent_refs
        ):
            return "HTTPRoute"
    return None
