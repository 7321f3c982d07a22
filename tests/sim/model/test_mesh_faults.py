"""What faults do in the twin, and to whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_builders import application, bad, fault, parameters_of, played, rules_of, service, setup_of

from mesh.api.messages import RetrySpec
from mesh.behavior.backend import BackendSettings
from scenarios.model import FaultSpec, IdentitySettings, LoadSpec, ServiceTime
from sim.model.control import ControlPlane, expiry
from sim.model.draws import Streams
from sim.model.faults import check
from sim.model.record import Record
from sim.model.setup import Setup, reached
from sim.model.system import System
from sim.observation import PodState
from sim.replication.mesh_figures import between

SHORT_LEAVES = IdentitySettings(leaf_lifetime=10.0, clock_skew=0.5, min_refresh=1.0)
LOAD_OF_40 = LoadSpec(40.0, {"all": 1.0}, 10**6, 10.0)
SLOW = ServiceTime(0.5, 0.0, "constant")


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
    """The restarted pods get their first leaves as soon as identity is back, most of a second before their caller,
    which asks at about each whole one; it remembers them, so that no watch fails."""
    restart = fault("pod-kill", at=15.0, duration=5.0, service="back", replicas=2)
    away = fault("cert-expiry", duration=29.3, component="identity")
    changes = {"identity": SHORT_LEAVES, "faults": (away, restart), "inject_seconds": 40.0}
    records = [played(chain(30.0, discovery_idle_seconds=60.0, **changes), seed=seed) for seed in range(1, 6)]
    assert any(record.handshake_failures for record in records)
    for record in records:
        assert sum(record.refused.values()) == 2 * record.handshake_failures


@given(
    signed_at=st.floats(-60.0, 600.0),
    life=st.floats(1.0, 86_400.0),
    zero_at=st.floats(1.7e9, 1.9e9),
)
def test_a_leaf_ends_on_the_last_whole_second_of_its_life(signed_at: float, life: float, zero_at: float) -> None:
    ends = expiry(signed_at, IdentitySettings(leaf_lifetime=life, clock_skew=0.0), zero_at)
    assert (zero_at + ends) % 1.0 == pytest.approx(0.0, abs=1e-6) or (zero_at + ends) % 1.0 > 1 - 1e-6
    assert -1e-6 <= signed_at + life - ends < 1.0 + 1e-6


def test_renewals_of_short_leaves_fall_into_step() -> None:
    """A proxy sleeps 70 % of what is left, and what is left ends on a whole second: what sets two of them apart shrinks
    to 30 % with each renewal, until all ask at once."""
    zero_at = 1_796_000_000.6
    app = application(service("front", calls=("back",), replicas=5), service("back", replicas=5))
    system = System(setup_of(app, identity=SHORT_LEAVES, zero_at=zero_at), parameters_of(20.0), Streams(2, 0), end=60.0)
    pods = [pod for replicas in system.pods.values() for pod in replicas]
    leaves = [pod.leaf_expires_at for pod in pods]
    moments: list[float] = []
    for at in np.arange(-6.0, 60.0, 0.01).tolist():
        system.advance(at)
        moments += [at for pod, leaf in zip(pods, leaves, strict=True) if pod.leaf_expires_at != leaf]
        leaves = [pod.leaf_expires_at for pod in pods]
    first, last = ([(at + zero_at + 0.5) % 1.0 for at in part] for part in (moments[:10], moments[-10:]))
    assert max(first) - min(first) > 0.2
    assert max(last) - min(last) < 0.05
    assert np.mean(last) == pytest.approx(0.5 + 0.02 / 0.7, abs=0.02)  # a renewal takes 20 ms


@pytest.mark.parametrize(
    ("kind", "before_its_end", "renewed"),
    [
        ("cert-expiry", 0.003, True),
        ("cert-expiry", 0.013, False),
        ("cert-expiry", 0.03, False),
        ("pod-kill", 0.003, False),
    ],
)
def test_a_renewal_is_lost_with_identity_until_that_has_signed_and_with_its_pod_until_the_end(
    kind: str, before_its_end: float, renewed: bool
) -> None:
    """It takes 16 ms, of which identity has the first 6."""
    app = application(service("only"))
    leaf = PodState("only-0", "only", leaf_expires_at=6.0, leaf_refreshed_at=-2.0)

    def play(*faults: FaultSpec) -> System:
        setup = setup_of(app, identity=SHORT_LEAVES, faults=faults)
        return System(setup, parameters_of(1.0), Streams(2, 0), pods=(leaf,), start=-2.0)

    undisturbed = play()
    end = -2.0
    while undisturbed.pods["only"][0].leaf_expires_at == 6.0:
        end += 0.0005
        undisturbed.advance(end)
    targets = {"component": "identity"} if kind == "cert-expiry" else {"service": "only", "replicas": 1}
    system = play(fault(kind, at=end - before_its_end, duration=5.0, **targets))
    system.advance(end + 0.01)
    assert (system.pods["only"][0].leaf_expires_at not in (6.0, None)) == renewed


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


def test_a_caller_outside_the_mesh_needs_no_certificate_and_shares_no_connection() -> None:
    app = application(service("front", calls=("back",), meshed=False), service("back", time=SLOW))
    absent = fault("cert-expiry", duration=20.0, component="identity")
    longer = {"discovery_idle_seconds": 600.0, "backend": BackendSettings(pool_idle_seconds=600.0)}
    setup = setup_of(app, identity=SHORT_LEAVES, faults=(absent,), **longer)
    system = System(setup, parameters_of(20.0), Streams(1, 0))
    assert set(system.run().status) == {200}
    assert len(system.pods["back"][0].connections) > 5


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
