"""What the twin is built from: a scenario whose mesh policy has been read, plus what counterfactuals may change.

Policy comes from the scenario's manifests and annotations through `mesh.control.translate`, the code that the running
control plane uses. It is never typed a second time here, and never fitted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import msgspec

from mesh.api.messages import BackendSpec, HttpRouteSpec, OutboundPolicy, Profile
from mesh.api.resources import AnyResource, HTTPRoute, Metadata, Service, ServicePort, ServiceProfile, ServiceSpec
from mesh.behavior.backend import BackendSettings
from mesh.behavior.cache import OUTBOUND_IDLE_SECONDS
from mesh.control.registry.manifests import load_manifests
from mesh.control.translate import outbound_policy_message, profile_message
from scenarios.model import Application, AppService, FaultSpec, IdentitySettings, LoadSpec, Scenario, SloSpec

LEFT_OUT = {
    "AuthorizationPolicy": "it refuses nobody in the twin",
    "ServerAuthorization": "it refuses nobody in the twin",
    "Server": "it refuses nobody in the twin",
    "HTTPLocalRateLimitPolicy": "it limits nobody in the twin, and no answer has a Retry-After",
    "EgressNetwork": "the twin has nothing outside of the application",
    "GRPCRoute": "the twin's requests are not gRPC",
    "TrafficSplit": "the twin sends no share elsewhere for it",
}
"""Kinds of manifests without a representation, and what that comes to."""
CALLS_TOO = "callsToo"
"""A parameter of network-throttle that no file has: the world says it."""
SHARED_DEPLOYMENT = ("destination", "policy")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the control plane says of one authority."""

    profile: Profile
    policy: OutboundPolicy


@dataclass(frozen=True, slots=True)
class Setup:
    """One system to simulate. A counterfactual is a `dataclasses.replace` of it."""

    app: Application
    rules: dict[str, Rules]
    """By authority."""
    identity: IdentitySettings
    load: LoadSpec
    faults: tuple[FaultSpec, ...]
    slos: tuple[SloSpec, ...]
    inject_seconds: float
    recover_seconds: float
    load_pods: int = 1
    backend: BackendSettings = field(default_factory=BackendSettings)
    discovery_idle_seconds: float = OUTBOUND_IDLE_SECONDS
    zero_at: float = 0.0
    """Unix time of second 0: certificates end on whole seconds of that clock."""
    left_out: tuple[str, ...] = ()
    """Manifests that the twin reads and does nothing with, as `AuthorizationPolicy payment/only-checkout`."""

    @property
    def end(self) -> float:
        """End of the recover window; second 0 is the begin of the inject phase."""
        return self.inject_seconds + self.recover_seconds


def read_setup(scenario: Scenario, load_pods: int = 1, world: str = "local") -> Setup:
    """The scenario as the twin sees it.

    Raises:
        mesh.control.registry.manifests.InvalidManifests: a manifest cannot be read.
    """
    return setup_of(scenario, load_manifests(scenario.resources) if scenario.resources else [], load_pods, world)


def setup_of(scenario: Scenario, resources: Iterable[AnyResource], load_pods: int = 1, world: str = "local") -> Setup:
    """As `read_setup`, of manifests that have been read."""
    resources = tuple(resources)
    return Setup(
        app=scenario.app,
        rules={
            s.authority: _rules(s, scenario.service_annotations.get(s.name, {}), resources)
            for s in scenario.app.services
        },
        identity=scenario.identity,
        load=scenario.load,
        faults=tuple(reached(fault, world) for fault in scenario.faults),
        slos=scenario.slos,
        inject_seconds=scenario.phases.inject,
        recover_seconds=scenario.phases.recover,
        load_pods=load_pods,
        left_out=tuple(
            f"{type(resource).__name__} {resource.metadata.namespace}/{resource.metadata.name}"
            for resource in resources
            if type(resource).__name__ in LEFT_OUT
        ),
    )


def reached(fault: FaultSpec, world: str) -> FaultSpec:
    """The fault with all that it reaches in that world: on Kubernetes, destination and policy share a Deployment, and a
    throttled pod's own calls pass its queue as well as its answers."""
    if world == "kind" and fault.kind == "network-throttle":
        return replace(fault, parameters={**fault.parameters, CALLS_TOO: 1.0})
    if world != "kind" or fault.targets.get("component") not in SHARED_DEPLOYMENT:
        return fault
    return replace(fault, targets={**fault.targets, "component": "+".join(SHARED_DEPLOYMENT)})


def _rules(service: AppService, annotations: dict[str, str], resources: Iterable[AnyResource]) -> Rules:
    profile: ServiceProfile | None = None
    routes: list[HTTPRoute] = []
    merged: dict[str, str] = {}
    for resource in resources:
        match resource:
            case ServiceProfile() if resource.metadata.name == service.host:
                profile = resource
            case HTTPRoute() if is_parent(resource, service):
                routes.append(resource)
            case Service() if (resource.metadata.name, resource.metadata.namespace) == (
                service.name,
                service.namespace,
            ):
                merged.update(resource.metadata.annotations)
    merged.update(annotations)
    generated = Service(
        metadata=Metadata(name=service.name, namespace=service.namespace, annotations=merged),
        spec=ServiceSpec(ports=(ServicePort(port=service.port),)),
    )
    return Rules(
        profile=profile_message(service.authority, profile, 1, 0.0),
        policy=outbound_policy_message(service.authority, generated, routes, 1, 0.0),
    )


def misrouted(rules: Rules, to: str, share: float) -> Rules:
    """The rules of a service while a wrong HTTPRoute sends a share of its requests to another authority, as
    `chaos.faults.misroute` writes it: in thousandths. An authority that nobody has: those are answered 500.

    Retries and timeouts stay, for they are the Service's.
    """
    authority = rules.policy.authority
    away = round(1000 * share)
    backends = [BackendSpec(authority=to, weight=away)]
    if away < 1000:
        backends.append(BackendSpec(authority=authority, weight=1000 - away))
    first = rules.policy.routes[0]
    wrong = HttpRouteSpec(name="misroute", retry=first.retry, timeouts=first.timeouts, backends=tuple(backends))
    return replace(rules, policy=msgspec.structs.replace(rules.policy, routes=(wrong,)))


def unplayed(setup: Setup) -> list[str]:
    """What the policies ask for and the twin does not do, one line each; empty where it does all."""
    found = [f"{name}: {LEFT_OUT[name.partition(' ')[0]]}" for name in setup.left_out]
    for service in setup.app.services:
        rules = setup.rules[service.authority]
        accrual = rules.policy.failure_accrual
        if (accrual is not None and accrual.honor_retry_after) or rules.policy.load_bias is not None:
            found.append(f"{service.name}: no answer of the twin has the Retry-After that its policy would honour")
        if rules.profile.opaque or rules.policy.protocol == "opaque":
            found.append(f"{service.name}: its port is opaque, and the twin plays it as HTTP")
        if not service.meshed and any(route.calls for route in service.routes):
            found.append(
                f"{service.name}: it is not meshed, and its calls are spread by kube-proxy, without retries or"
                " timeouts; the twin plays them with a proxy's balancer and the policy of whom it calls"
            )
        if rules.profile.exists:
            continue
        for route in rules.policy.routes:
            wants = _beyond(route)
            if wants:
                found.append(f"{service.name}: the twin plays route {route.name} without its {' and '.join(wants)}")
    return found


def _beyond(route: HttpRouteSpec) -> list[str]:
    """What a route has that the twin, whose requests are a method and a path, leaves out."""
    wants: list[str] = []
    if route.headers or route.query_params:
        wants.append("conditions on headers or query (no request of the twin meets them)")
    if route.filters is not None or any(backend.filters is not None for backend in route.backends):
        wants.append("filters")
    if route.timeouts.idle_seconds is not None:
        wants.append("an idle timeout (nothing of the twin waits for it)")
    return wants


def _is_of(metadata: Metadata, service: AppService) -> bool:
    return (metadata.name, metadata.namespace) == (service.name, service.namespace)


def is_parent(route: HTTPRoute, service: AppService) -> bool:
    return any(
        parent.kind == "Service"
        and parent.name == service.name
        and (parent.namespace or route.metadata.namespace) == service.namespace
        and parent.port in (None, service.port)
        for parent in route.spec.parent_refs
    )
