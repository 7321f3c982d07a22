"""What faults do in the twin, and to whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim_builders import EXACT, application, fault, parameters_of, played, rules_of, service, setup_of

from mesh.api.messages import RetrySpec
from mesh.behavior.backend import BackendSettings
from scenarios.model import IdentitySettings, LoadSpec, ServiceTime
from sim.model.control import ControlPlane
from sim.model.draws import Streams
from sim.model.faults import check
from sim.model.parameters import CpuCosts
from sim.model.record import Record
from sim.model.setup import Setup, reached
from sim.model.system import System
from sim.replication.mesh_figures import between
from sim.replication.quantities import forgotten, quantities

SHORT_LEAVES = IdentitySettings(leaf_lifetime=10.0, clock_skew=0.5, min_refresh=1.0)
LOAD_OF_40 = LoadSpec(40.0, {"all": 1.0}, 10**6, 10.0)
SLOW = ServiceTime(0.5, 0.0, "constant")


def bad(record: Record, start: float, end: float) -> float | None:
    """Share of requests without a good answer, by intended send; None without requests."""
    chosen = [s for at, s in zip(record.intended_at, record.status, strict=True) if start <= at < end]
    return sum(1 for s in chosen if not 0 < s < 500) / len(chosen) if chosen else None


def chain(rate: float, **changes: object) -> Setup:
    app = application(service("front", calls=("back",)), service("back"))
    return setup_of(app, load=LoadSpec(rate, {"all": 1.0}, 10**6, 10.0), **changes)


def test_a_healthy_system_answers_everything() -> None:
    record = played(chain(30.0))
    assert set(record.status) == {200}
    assert record.handshake_failures == 0


def test_expired_certificates_spare_established_connections() -> None:
    """Busy: the shared connection is never without use. The very same fault, with pauses longer than the discovery
    entry lives, is an outage; remembered for longer, the entry keeps its connection through the same pauses."""
    changes = {
        "identity": SHORT_LEAVES,
        "faults": (fault("cert-expiry", duration=40.0, component="identity"),),
        "inject_seconds": 40.0,
    }
    busy = played(chain(30.0, **changes))
    pausing = played(chain(0.15, **changes), seed=3)
    remembered = played(chain(0.15, discovery_idle_seconds=60.0, **changes), seed=3)
    assert bad(busy, 0.0, 40.0) == 0.0
    assert bad(pausing, 0.0, 9.0) in (0.0, None)
    assert bad(pausing, 16.0, 40.0) == 1.0
    assert pausing.handshake_failures > 0
    assert sum(pausing.refused.values()) == pausing.handshake_failures  # watches: their client alone counts
    assert bad(remembered, 16.0, 40.0) == 0.0


def test_a_handshake_between_two_proxies_is_counted_by_both() -> None:
    """The restarted pods get their first leaves as soon as identity is back, up to two seconds before their caller's
    renewal; it remembers them, so that no watch fails."""
    restart = fault("pod-kill", at=15.0, duration=5.0, service="back", replicas=2)
    away = fault("cert-expiry", duration=30.0, component="identity")
    changes = {"identity": SHORT_LEAVES, "faults": (away, restart), "inject_seconds": 40.0}
    records = [played(chain(30.0, discovery_idle_seconds=60.0, **changes), seed=seed) for seed in range(1, 6)]
    assert any(record.handshake_failures for record in records)
    for record in records:
        assert sum(record.refused.values()) == 2 * record.handshake_failures


def test_a_mesh_heals_once_identity_is_back() -> None:
    changes = {
        "identity": SHORT_LEAVES,
        "faults": (fault("cert-expiry", duration=30.0, component="identity"),),
        "inject_seconds": 30.0,
        "recover_seconds": 300.0,
    }
    record = played(chain(0.15, **changes), seed=3)
    assert bad(record, 16.0, 30.0) == 1.0
    assert bad(record, 36.0, 330.0) == 0.0


def test_a_pod_restarted_without_identity_stays_away_until_it_is_back() -> None:
    absent = fault("cert-expiry", duration=20.0, component="identity")
    kill = replace(fault("pod-kill", at=5.0, service="back", replicas=1), name="restart")
    setup = chain(20.0, identity=SHORT_LEAVES, faults=(absent, kill), inject_seconds=20.0, recover_seconds=20.0)
    record = played(setup)
    assert bad(record, 0.0, 4.9) == 0.0
    assert bad(record, 5.1, 19.9) == 1.0
    assert bad(record, 25.0, 40.0) == 0.0


def test_identity_back_in_time_costs_nothing() -> None:
    short = fault("control-plane-down", duration=2.0, component="identity")
    record = played(chain(0.5, identity=SHORT_LEAVES, faults=(short,)))
    assert set(record.status) == {200}


def test_a_control_plane_outage_strikes_idle_clients_only() -> None:
    changes = {"faults": (fault("control-plane-down", duration=60.0, component="all"),), "inject_seconds": 60.0}
    busy = played(chain(30.0, **changes))
    idle = played(chain(0.1, **changes), seed=2)
    assert bad(busy, 0.0, 60.0) == 0.0
    late = [(s, la) for at, s, la in zip(idle.intended_at, idle.status, idle.latency, strict=True) if 6 < at < 56]
    assert late
    assert all(status in (502, 504) for status, _ in late)
    assert all(latency is not None and latency == pytest.approx(3.0, abs=0.1) for _, latency in late)


def test_policy_alone_is_needed_for_a_new_destination() -> None:
    down = fault("control-plane-down", duration=60.0, component="policy")
    record = played(chain(0.1, faults=(down,), inject_seconds=60.0), seed=2)
    assert bad(record, 6.0, 56.0) == 1.0


@pytest.mark.parametrize("meshed", [True, False])
def test_all_requests_of_a_proxy_share_one_connection_to_each_meshed_pod(meshed: bool) -> None:
    app = application(service("front", calls=("back",)), service("back", time=SLOW, replicas=2, meshed=meshed))
    longer = BackendSettings(pool_idle_seconds=600.0)
    system = System(setup_of(app, discovery_idle_seconds=600.0, backend=longer), parameters_of(40.0), Streams(1, 0))
    assert set(system.run().status) == {200}
    to_front, to_back = ([len(pod.connections) for pod in system.pods[name]] for name in ("front", "back"))
    assert to_front == [1]
    assert to_back == [1, 1] if meshed else min(to_back) > 5


def test_a_try_that_is_given_up_leaves_the_connection_to_the_others() -> None:
    front, back = service("front", calls=("back",)), service("back", time=SLOW)
    retry = RetrySpec(statuses=((500, 599),), limit=1, timeout_seconds=0.1)
    rules = {front.authority: rules_of(front), back.authority: rules_of(back, retry=retry)}
    absent = fault("cert-expiry", duration=20.0, component="identity")
    setup = setup_of(application(front, back), rules=rules, identity=SHORT_LEAVES, faults=(absent,))
    system = System(replace(setup, discovery_idle_seconds=600.0), parameters_of(40.0), Streams(1, 0))
    record = system.run()
    assert set(record.status) == {200}, "a connection opened anew would have failed for want of a certificate"
    assert sum(record.reached["back"].values()) == 2 * sum(record.meant["back"].values())
    (connection,) = system.pods["back"][0].connections
    assert connection.endpoint.streams == 0


def test_a_killed_pod_takes_all_requests_on_its_shared_connection_with_it() -> None:
    """Half of those that came within the half second before, for so long each takes."""
    app = application(service("front", calls=("back",)), service("back", time=SLOW, replicas=2))
    kill = fault("pod-kill", at=5.0, service="back", replicas=1)
    record = played(setup_of(app, faults=(kill,)), parameters_of(40.0))
    assert bad(record, 0.0, 4.4) == 0.0
    assert bad(record, 4.55, 4.99) == pytest.approx(0.5, abs=0.2)
    assert bad(record, 5.1, 20.0) == 0.0
    broken = [(s, la) for s, la in zip(record.status, record.latency, strict=True) if s != 200]
    assert {status for status, _ in broken} == {502}
    assert all(latency is not None and latency < 0.6 for _, latency in broken), "at once"


def test_a_caller_outside_the_mesh_needs_no_certificate_and_shares_no_connection() -> None:
    app = application(service("front", calls=("back",), meshed=False), service("back", time=SLOW))
    absent = fault("cert-expiry", duration=20.0, component="identity")
    longer = {"discovery_idle_seconds": 600.0, "backend": BackendSettings(pool_idle_seconds=600.0)}
    setup = setup_of(app, identity=SHORT_LEAVES, faults=(absent,), **longer)
    system = System(setup, parameters_of(20.0), Streams(1, 0))
    assert set(system.run().status) == {200}
    assert len(system.pods["back"][0].connections) > 5


STARTS = replace(EXACT, pod_restart=0.5, app_work=0.15, proxy_work=0.25)
ONE_CORE = CpuCosts(cores=1.0, proxy_inbound=0.001, proxy_outbound=0.001, app_serve=0.001)


def test_processes_that_start_take_cpu_from_all_others() -> None:
    """One core, a restart that costs 0.4 s of it; the front end is not touched otherwise."""
    other = application(service("front"), service("other", replicas=1))
    setup = setup_of(other, faults=(fault("pod-kill", at=5.0, service="other", replicas=1),), load=LOAD_OF_40)
    parameters = replace(parameters_of(40.0), cpu=ONE_CORE)
    slowed, spared = (
        slowest(played(setup, replace(parameters, delays=delays)), 5.4, 6.0) for delays in (STARTS, EXACT)
    )
    assert slowed > 1.3 * spared


@pytest.mark.parametrize(("cores", "pods", "work"), [(1.0, 1, 0.4), (1.0, 2, 0.8), (1.0, 4, 1.6), (2.0, 1, 0.25)])
def test_pods_that_start_at_once_are_ready_when_the_shared_core_has_done_the_work_of_all(
    cores: float, pods: int, work: float
) -> None:
    """Nothing else asks for the core. On two of them, one pod's app and proxy do not share."""
    setup = setup_of(
        application(service("front"), service("other", replicas=pods)),
        faults=(fault("pod-kill", at=5.0, service="other", replicas=pods),),
    )
    idle = replace(parameters_of(1e-6), cpu=replace(ONE_CORE, cores=cores), delays=STARTS)
    system = System(setup, idle, Streams(1, 0))
    system.advance(5.5 + work - 0.01)
    assert not any(pod.alive for pod in system.pods["other"])
    system.advance(5.5 + work + 0.02)
    assert all(pod.alive for pod in system.pods["other"])


def test_a_pod_that_starts_waits_for_what_the_core_does_besides() -> None:
    """With the core half in use, for about twice as long."""
    setup = setup_of(
        application(service("front"), service("other")),
        faults=(fault("pod-kill", at=5.0, service="other", replicas=1),),
        load=LoadSpec(100.0, {"all": 1.0}, 10**6, 10.0),
    )
    costs = replace(ONE_CORE, proxy_inbound=0.002, app_serve=0.003)
    system = System(setup, replace(parameters_of(100.0), cpu=costs, delays=STARTS), Streams(1, 0))
    system.advance(5.5 + 1.4 * 0.4)
    assert not system.pods["other"][0].alive
    system.advance(5.5 + 3.0 * 0.4)
    assert system.pods["other"][0].alive


def test_a_proxy_that_outlives_its_app_answers_502_until_it_is_dead_as_well() -> None:
    """What was under way in the app, and what comes within the second after its death; the other pod has the rest."""
    back = service("back", time=SLOW, replicas=2)
    kill = fault("pod-kill", at=5.0, service="back", replicas=1)
    setup = setup_of(application(service("front", calls=("back",)), back), faults=(kill,), load=LOAD_OF_40)
    parameters = replace(parameters_of(40.0), delays=replace(EXACT, proxy_outlives=1.0, endpoint_update=3.0))
    system = System(setup, parameters, Streams(1, 0))
    system.advance(5.01)
    assert system.pods["back"][0].alive
    system.advance(6.01)
    assert not system.pods["back"][0].alive
    record = system.run()
    assert bad(record, 0.0, 4.4) == 0.0
    assert bad(record, 4.55, 4.99) == pytest.approx(0.5, abs=0.25)
    assert bad(record, 5.05, 5.9) > 0.2  # type: ignore[operator]
    assert bad(record, 6.05, 19.0) == 0.0
    broken = [(s, la) for s, la in zip(record.status, record.latency, strict=True) if s != 200]
    assert {status for status, _ in broken} == {502}
    assert all(pod.alive and pod.serves for pod in system.pods["back"])


def slowest(record: Record, start: float, end: float) -> float:
    found = zip(record.intended_at, record.latency, strict=True)
    return max(latency for at, latency in found if latency is not None and start <= at < end)


def test_what_a_killed_pod_had_counted_since_the_last_scrape_is_lost() -> None:
    """Two pods, one of which dies half a second after a scrape: a quarter of a second's requests were never seen."""
    back = service("back", replicas=2)
    kill = fault("pod-kill", at=5.5, service="back", replicas=1)
    setup = setup_of(application(service("front", calls=("back",)), back), faults=(kill,), load=LOAD_OF_40)
    record = played(setup)
    assert forgotten(record, "back", 0.0, 20.0) == pytest.approx(40.0 * 0.5 / 2, abs=4.0)
    assert forgotten(record, "back", -0.51, 19.49) < 1.0  # killed just after a scrape
    assert forgotten(record, "back", 6.0, 20.0) == forgotten(record, "front", 0.0, 20.0) == 0.0
    seen = quantities(record, setup)["attempts_per_request", "back", "inject"]
    record.killed.clear()
    assert seen < quantities(record, setup)["attempts_per_request", "back", "inject"]


def test_a_killed_pod_is_routed_around_and_comes_back() -> None:
    app = application(service("front", calls=("back",)), service("back", replicas=2))
    kill = fault("pod-kill", at=5.0, service="back", replicas=1)
    system = System(setup_of(app, faults=(kill,)), parameters_of(40.0), Streams(1, 0))
    record = system.run()
    assert bad(record, 0.0, 20.0) is not None
    assert bad(record, 0.0, 20.0) < 0.02  # type: ignore[operator]
    assert all(pod.alive for pod in system.pods["back"])


def test_a_degraded_app_fails_and_slows_while_the_fault_lasts() -> None:
    degrade = fault("app-degrade", duration=10.0, service="back", replicas=1)
    degrade.parameters.update({"errorRate": 0.5, "latencySeconds": 0.2, "status": 503.0})
    record = played(chain(40.0, faults=(degrade,)))
    assert bad(record, 0.0, 9.9) == pytest.approx(0.5, abs=0.1)
    assert bad(record, 10.3, 30.0) == 0.0
    slow = [la for at, la in zip(record.intended_at, record.latency, strict=True) if 0 <= at < 9.9 and la is not None]
    assert min(slow) >= 0.2


def test_a_frozen_app_answers_when_it_thaws() -> None:
    freeze = fault("app-degrade", at=2.0, duration=5.0, service="back", replicas=1, parameters={"freeze": 1.0})
    record = played(chain(10.0, faults=(freeze,)))
    frozen = [la for at, la in zip(record.intended_at, record.latency, strict=True) if 2.1 < at < 6.9]
    assert frozen
    assert all(la is not None for la in frozen)
    ends = [at + la for at, la in zip(record.intended_at, record.latency, strict=True) if la and 2.1 < at < 6.9]
    assert min(ends) >= 7.0


def test_answers_after_the_timeout_count_as_none() -> None:
    app = application(service("slow", time=ServiceTime(2.0, 0.0, "constant")))
    record = played(setup_of(app, load=LoadSpec(5.0, {"all": 1.0}, 10**6, 1.0)))
    assert set(record.status) == {0}
    assert set(record.latency) == {None}


def test_arrivals_beyond_the_in_flight_cap_are_dropped() -> None:
    app = application(service("slow", time=ServiceTime(5.0, 0.0, "constant")))
    record = played(setup_of(app, load=LoadSpec(50.0, {"all": 1.0}, 10, 60.0)))
    dropped = sum(1 for status in record.status if status == 0)
    assert dropped / len(record.status) == pytest.approx(1 - 10 / (50 * 5.0), abs=0.05)


def test_unknown_faults_are_named_not_ignored() -> None:
    services = {"front", "back"}
    assert check((fault("network-delay", service="back"),), services) == [
        "fault the-fault: the twin has no model of kind network-delay"
    ]
    assert "no service nowhere" in check((fault("pod-kill", service="nowhere"),), services)[0]
    odd = fault("app-degrade", service="back", parameters={"jitterSeconds": 1.0})
    assert "jitterSeconds" in check((odd,), services)[0]


def test_a_seed_decides_everything() -> None:
    kill = fault("pod-kill", at=5.0, service="back", replicas=1)
    setup = chain(30.0, faults=(kill,))
    first, second, other = played(setup), played(setup), played(setup, seed=2)
    assert (first.intended_at, first.latency, first.status) == (second.intended_at, second.latency, second.status)
    assert first.intended_at != other.intended_at


# ---- what Kubernetes adds


def test_proxies_that_cannot_live_in_their_memory_take_the_service_with_them() -> None:
    starved = fault("proxy-oom", at=5.0, duration=20.0, service="back", parameters={"memoryLimit": "24Mi"})
    record = played(chain(30.0, faults=(starved,), inject_seconds=30.0, recover_seconds=20.0))
    assert bad(record, 0.0, 4.0) == 0.0
    assert bad(record, 10.0, 24.0) == 1.0
    assert bad(record, 35.0, 50.0) == 0.0


def test_a_limit_that_may_do_is_said_not_to_be_known() -> None:
    roomy = fault("proxy-oom", service="back", parameters={"memoryLimit": "200Mi"})
    assert "depends on its load" in check((roomy,), {"back"})[0]


def test_lost_telemetry_loses_no_request() -> None:
    lost = fault("telemetry-loss", duration=20.0, service="back")
    assert "missing or cut" in check((lost,), {"back"})[0]
    assert bad(played(chain(30.0, faults=(lost,), inject_seconds=20.0)), 0.0, 20.0) == 0.0


def misrouted(**parameters: object) -> Record:
    """Two services behind a front; all that is meant for the first goes astray from 0 to 10 s."""
    app = application(service("front", calls=("back",)), service("back"), service("other"), service("odd", "GET /odd"))
    wrong = fault("misroute", service="back", parameters=parameters)
    assert check((wrong,), {"back"}) == []
    return played(setup_of(app, load=LoadSpec(40.0, {"all": 1.0}, 10**6, 10.0), faults=(wrong,)))


def test_requests_routed_to_nowhere_are_answered_500() -> None:
    record = misrouted(share=0.5)
    assert bad(record, 0.5, 10.0) == pytest.approx(0.5, abs=0.1)
    assert set(record.status) == {200, 502}
    assert bad(misrouted(), 0.5, 10.0) == 1.0
    assert bad(record, -5.0, 0.0) == bad(record, 10.5, 20.0) == 0.0


def test_requests_routed_to_another_service_are_served_where_it_has_the_route_and_404_where_not() -> None:
    """A call that is answered 404 is not failed, neither to its caller nor to an SLO."""
    for to in ("other", "odd"):
        record = misrouted(to=to)
        assert set(record.status) == {200}
        astray = between(record.reached[to], 1.0, 10.0)
        kept = between(record.reached["back"], 1.0, 10.0)
        assert astray > 300
        assert kept == 0
        assert between(record.reached["back"], 11.0, 20.0) > 100


def test_a_selector_that_matches_nothing_leaves_callers_without_an_endpoint() -> None:
    record = misrouted(mode="selector")
    assert bad(record, 4.0, 9.5) == 1.0
    assert set(record.status) == {200, 502}
    assert bad(record, 11.0, 20.0) == 0.0
    failed = [
        (at, latency)
        for at, latency, status in zip(record.intended_at, record.latency, record.status, strict=True)
        if status == 502 and latency is not None
    ]
    assert min(failed)[1] == pytest.approx(3.0, abs=0.2)  # the queue's wait for an endpoint, then fail-fast
    assert max(latency for at, latency in failed if at > min(failed)[0] + 3.2) < 0.1


def test_a_retry_of_what_went_astray_picks_its_way_anew() -> None:
    """With a share of a half and three retries on 5xx, (1/2)^4 of the requests never come to the right place. Those to
    nowhere are no answers and are not tried again; to get answers they must go to a service that fails."""
    app = application(service("front", calls=("back",)), service("back"), service("broken", failure_rate=1.0))
    setup = setup_of(
        app,
        load=LoadSpec(100.0, {"all": 1.0}, 10**6, 10.0),
        faults=(fault("misroute", duration=20.0, service="back", parameters={"share": 0.5, "to": "broken"}),),
    )
    retry = RetrySpec(statuses=((500, 599),), limit=3)
    rules = {**setup.rules, app.services[1].authority: rules_of(app.services[1], retry=retry)}
    record = played(replace(setup, rules=rules))
    assert bad(record, 1.0, 19.0) == pytest.approx(1 / 16, abs=4 * (1 / 16 * 15 / 16 / 1_800) ** 0.5)


def test_what_the_twin_cannot_play_it_says() -> None:
    (said,) = check((fault("meteorite", service="back"),), {"back"})
    assert "no model of kind meteorite" in said


def test_on_kubernetes_destination_takes_policy_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    away = fault("control-plane-down", component="destination")
    assert reached(away, "local").targets["component"] == "destination"
    assert reached(fault("control-plane-down", component="identity"), "kind").targets["component"] == "identity"
    went: list[str] = []
    monkeypatch.setattr(ControlPlane, "down", lambda _, component: went.append(component))
    played(chain(20.0, faults=(reached(away, "kind"),)))
    assert went == ["destination", "policy"]
