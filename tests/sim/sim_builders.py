"""Small applications and setups for the twin's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mesh.api.messages import HttpRouteSpec, OutboundPolicy, Profile, RetrySpec
from scenarios.model import (
    Application,
    AppRoute,
    AppService,
    Call,
    FaultSpec,
    IdentitySettings,
    Journey,
    JourneyStep,
    LoadSpec,
    Phases,
    Scenario,
    ServiceTime,
    SloSpec,
)
from sim.model.distributions import Distribution, Exponential, LogNormal
from sim.model.draws import Streams
from sim.model.parameters import Delays, Parameters
from sim.model.record import SLOT_SECONDS, BySlot, Record
from sim.model.setup import Rules, Setup
from sim.model.system import System

INSTANT = LogNormal(0.0, 0.0)
EXACT = Delays(
    injection=0.0,
    reversion=0.0,
    control_start=0.0,
    control_work=0.0,
    pod_restart=2.0,
    app_work=0.0,
    proxy_work=0.0,
    endpoint_update=0.3,
)


def service(
    name: str,
    route: str = "GET /",
    *,
    calls: tuple[str, ...] = (),
    time: ServiceTime | None = None,
    failure_rate: float = 0.0,
    replicas: int = 1,
    workers: int = 1_000,
    queue: int = 1_000,
    work: Literal["wait", "cpu", "shared"] = "wait",
    **more: Any,
) -> AppService:
    """A service of one route that calls the `GET /` of others in turn."""
    method, path = route.split(" ")
    return AppService(
        name=name,
        namespace="test",
        port=80,
        replicas=replicas,
        workers=workers,
        queue=queue,
        work=work,
        routes=(
            AppRoute(
                method,
                path,
                time or ServiceTime(0.001, 0.0, "constant"),
                tuple((Call(name, "GET", "/"),) for name in calls),
                failure_rate,
            ),
        ),
        **more,
    )


def application(*services: AppService, steps: int = 1) -> Application:
    """Journeys enter at the first service."""
    first = services[0]
    step = JourneyStep(first.name, first.routes[0].method, first.routes[0].path)
    return Application("test", Path("test.yaml"), services, (Journey("all", 1.0, (step,) * steps),))


def setup_of(app: Application, **changes: Any) -> Setup:
    """No policy, no fault, mild load; `changes` replace what differs."""
    defaults: dict[str, Any] = {
        "app": app,
        "rules": {s.authority: rules_of(s) for s in app.services},
        "identity": IdentitySettings(),
        "load": LoadSpec(20.0, {"all": 1.0}, 10_000, 60.0),
        "faults": (),
        "slos": (SloSpec("all", None, None, None, 0.99),),
        "inject_seconds": 20.0,
        "recover_seconds": 10.0,
    }
    return Setup(**{**defaults, **changes})


def rules_of(
    service: AppService, *, retry: RetrySpec | None = None, profile: dict[str, Any] | None = None, **policy: Any
) -> Rules:
    authority = service.authority
    return Rules(
        Profile(version=1, published_at=0.0, authority=authority, exists=profile is not None, **(profile or {})),
        OutboundPolicy(
            version=1,
            published_at=0.0,
            authority=authority,
            exists=True,
            routes=(HttpRouteSpec(name="http", retry=retry),),
            **policy,
        ),
    )


def parameters_of(
    rate: float, *, times: dict[tuple[str, str], Distribution] | None = None, overhead: Distribution = INSTANT
) -> Parameters:
    """Nothing costs anything unless it is said."""
    return Parameters(
        times=times or {},
        overhead=overhead,
        client_overhead=INSTANT,
        rate=rate,
        handshake=INSTANT,
        discovery=INSTANT,
        delays=EXACT,
    )


def played(setup: Setup, parameters: Parameters | None = None, seed: int = 1, **more: Any) -> Record:
    return System(setup, parameters or parameters_of(setup.load.rate), Streams(seed, 0), **more).run()


def bad(record: Record, start: float, end: float) -> float | None:
    """Share of requests without a good answer, by intended send; None without requests."""
    chosen = [s for at, s in zip(record.intended_at, record.status, strict=True) if start <= at < end]
    return sum(1 for s in chosen if not 0 < s < 500) / len(chosen) if chosen else None


def in_slots(by_second: dict[int, int]) -> BySlot:
    """Counts of whole seconds as a record has them."""
    return {round(second / SLOT_SECONDS): count for second, count in by_second.items()}


def exponential(mean: float) -> Exponential:
    return Exponential(mean)


def fault(kind: str, *, at: float = 0.0, duration: float = 10.0, **targets: Any) -> FaultSpec:
    parameters = targets.pop("parameters", {})
    return FaultSpec("the-fault", kind, at, duration, targets, parameters)


def scenario_of(setup: Setup, **annotations: dict[str, str]) -> Scenario:
    return Scenario(
        name="test",
        title="Test",
        description="",
        source=Path("scenario.yaml"),
        app=setup.app,
        resources=(),
        service_annotations=annotations,
        identity=setup.identity,
        load=setup.load,
        phases=Phases(5.0, 20.0, setup.inject_seconds, setup.recover_seconds),
        faults=setup.faults,
        slos=setup.slos,
        expectations=(),
        abort=(),
    )
