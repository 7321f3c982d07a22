"""What a user wrote, as something that can be changed: the scenario and its mesh manifests, read but not yet compiled.

A counterfactual is a change of a `Configuration`, never of a `Setup`: the twin's setup is made from the changed
configuration by the code that makes it from files. So whatever the twin was asked can be written down again as
overrides and manifests (`sim.application`), and run for real.

Rejected: changing compiled policies (`msgspec.structs.replace` on an OutboundPolicy). It reaches states that no
manifest can express, such as a retry limit beside a budget, and nothing proves that the real run gets the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec

from mesh.api.resources import (
    AnyResource,
    HTTPRoute,
    Metadata,
    PathOrMethod,
    RetryBudget,
    Service,
    ServiceProfile,
    ServiceProfileRoute,
    ServiceProfileSpec,
)
from mesh.behavior.cache import OUTBOUND_IDLE_SECONDS
from mesh.control.registry.manifests import load_manifests
from mesh.control.translate.annotations import POLICY_PREFIXES
from scenarios.model import AppService, FaultSpec, IdentitySettings, Scenario
from sim.model.setup import Setup, is_parent, setup_of

Annotations = dict[str, str]


@dataclass(frozen=True, slots=True)
class Configuration:
    """A scenario with its manifests."""

    scenario: Scenario
    resources: tuple[AnyResource, ...]
    load_pods: int = 1
    world: str = "local"
    discovery_idle_seconds: float = OUTBOUND_IDLE_SECONDS
    """Of every proxy; no scenario file says it."""

    def setup(self) -> Setup:
        """What the twin plays."""
        setup = setup_of(self.scenario, self.resources, self.load_pods, self.world)
        return replace(setup, discovery_idle_seconds=self.discovery_idle_seconds)

    def profile(self, service: AppService) -> ServiceProfile | None:
        """The service's ServiceProfile."""
        return next(
            (r for r in self.resources if isinstance(r, ServiceProfile) and r.metadata.name == service.host), None
        )


def read_configuration(scenario: Scenario, load_pods: int = 1, world: str = "local") -> Configuration:
    """What the scenario's files say.

    Raises:
        mesh.control.registry.manifests.InvalidManifest: a manifest cannot be read.
    """
    resources = tuple(load_manifests(scenario.resources)) if scenario.resources else ()
    return Configuration(scenario, resources, load_pods, world)


def annotated(configuration: Configuration, service: AppService, changes: Mapping[str, str | None]) -> Configuration:
    """Policy annotations set, or (None) taken away, wherever they count: the scenario's `serviceAnnotations`, the
    Service's manifest, and the HTTPRoutes of the service that have annotations of the same group, which win over it."""
    scenario = configuration.scenario
    own = dict(scenario.service_annotations.get(service.name, {}))
    for name, value in changes.items():
        if value is None:
            own.pop(name, None)
        else:
            own[name] = value
    everyone = {**scenario.service_annotations, service.name: own}
    removed = {name: None for name, value in changes.items() if value is None}

    def rewritten(resource: AnyResource) -> AnyResource:
        match resource:
            case Service() if (resource.metadata.name, resource.metadata.namespace) == (
                service.name,
                service.namespace,
            ):
                return _with_metadata(resource, _merged(resource.metadata.annotations, removed))
            case HTTPRoute() if is_parent(resource, service):
                there = resource.metadata.annotations
                groups = tuple(p for p in POLICY_PREFIXES if any(name.startswith(p) for name in there))
                touched = {name: value for name, value in changes.items() if name.startswith(groups)} if groups else {}
                return _with_metadata(resource, _merged(there, touched)) if touched else resource
        return resource

    return replace(
        configuration,
        scenario=replace(scenario, service_annotations=everyone),
        resources=tuple(rewritten(resource) for resource in configuration.resources),
    )


def _merged(annotations: Mapping[str, str], changes: Mapping[str, str | None]) -> Annotations:
    merged = {**annotations, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def _with_metadata(resource: Service | HTTPRoute, annotations: Annotations) -> Service | HTTPRoute:
    metadata: Metadata = msgspec.structs.replace(resource.metadata, annotations=annotations)
    return msgspec.structs.replace(resource, metadata=metadata)


def budgeted(configuration: Configuration, service: AppService, budget: RetryBudget) -> Configuration:
    """A ServiceProfile that retries every route within `budget`, in place of the service's retry annotations."""
    profile = ServiceProfile(
        metadata=Metadata(name=service.host, namespace=service.namespace),
        spec=ServiceProfileSpec(
            routes=(ServiceProfileRoute(name="all", condition=PathOrMethod(path_regex="/.*"), is_retryable=True),),
            retry_budget=budget,
        ),
    )
    own = configuration.scenario.service_annotations.get(service.name, {})
    retries: dict[str, str | None] = {name: None for name in own if name.startswith("retry.linkerd.io/")}
    without = annotated(configuration, service, retries)
    return replace(without, resources=(*without.resources, profile))


def with_profile(
    configuration: Configuration, service: AppService, change: Callable[[ServiceProfile], ServiceProfile]
) -> Configuration:
    """The service's ServiceProfile, changed."""
    profile = configuration.profile(service)
    changed = tuple(
        change(resource) if isinstance(resource, ServiceProfile) and resource is profile else resource
        for resource in configuration.resources
    )
    return replace(configuration, resources=changed)


def with_service(configuration: Configuration, service: AppService) -> Configuration:
    """The service is another. A fault that hits every replica of it hits the added ones too."""
    scenario = configuration.scenario
    before = scenario.app.service(service.name).replicas

    def hit(fault: FaultSpec) -> FaultSpec:
        if fault.targets.get("service") == service.name and fault.targets.get("replicas") == before:
            return replace(fault, targets={**fault.targets, "replicas": service.replicas})
        return fault

    services = tuple(service if s.name == service.name else s for s in scenario.app.services)
    app = replace(scenario.app, services=services)
    faults = tuple(hit(fault) for fault in scenario.faults)
    return replace(configuration, scenario=replace(scenario, app=app, faults=faults))


def with_identity(configuration: Configuration, identity: IdentitySettings) -> Configuration:
    """Other lives of certificates. Where leaves now outlive a `cert-expiry`, it is written as what it is underneath,
    identity away: a scenario whose certificates do not expire may not be named for it."""
    scenario = configuration.scenario
    life = identity.leaf_lifetime + identity.clock_skew

    def named(fault: FaultSpec) -> FaultSpec:
        if fault.kind == "cert-expiry" and fault.duration <= life:
            return replace(fault, kind="control-plane-down", targets={"component": "identity"})
        return fault

    faults = tuple(named(fault) for fault in scenario.faults)
    return replace(configuration, scenario=replace(scenario, identity=identity, faults=faults))
