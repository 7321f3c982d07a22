"""The balancer as a conversation: what it is told, what it asks for; and that it never loses or doubles a ticket."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.api.messages import Endpoint, FailureAccrualSpec, QueueSpec
from mesh.behavior.backend import Backend, BackendSettings, EndpointState
from mesh.behavior.outcome import Cause

State = EndpointState[str, int]


class Recorder:
    """A driver that only writes down what it is asked."""

    def __init__(self) -> None:
        self.connects: list[State] = []
        self.sent: list[tuple[str, State, int]] = []
        self.refused: list[tuple[str, Cause]] = []
        self.closed: list[int] = []
        self._connections = 0

    def connect(self, endpoint: State) -> None:
        self.connects.append(endpoint)

    def send(self, ticket: str, endpoint: State, connection: int) -> None:
        self.sent.append((ticket, endpoint, connection))

    def refuse(self, ticket: str, cause: Cause) -> None:
        self.refused.append((ticket, cause))

    def close(self, connection: int) -> None:
        assert connection not in self.closed
        self.closed.append(connection)

    def connection(self) -> int:
        self._connections += 1
        return self._connections


def endpoint(name: str, meshed: bool = True) -> Endpoint:
    return Endpoint(address=name, pod=name, namespace="n", identity=f"{name}.id" if meshed else None)


def make(
    *names: str, meshed: bool = True, accrual: FailureAccrualSpec | None = None, queue: QueueSpec | None = None
) -> tuple[Backend[str, int], Recorder]:
    driver = Recorder()
    chosen = BackendSettings(queue=queue or QueueSpec(), accrual=accrual, backoff_jitter=0.0)
    backend: Backend[str, int] = Backend(chosen, driver, Random(3), 0.0)
    backend.update(0.0, [endpoint(name, meshed) for name in names])
    return backend, driver


def serve(backend: Backend[str, int], driver: Recorder, ticket: str, now: float = 0.0) -> int:
    """Dispatches and lets the connect succeed; returns the connection."""
    backend.dispatch(now, ticket)
    connection = driver.connection()
    backend.connected(now, driver.connects.pop(), connection)
    return connection


def test_a_request_opens_a_connection_and_the_next_one_reuses_it() -> None:
    backend, driver = make("a")
    connection = serve(backend, driver, "t1")
    backend.finished(0.1, backend.endpoints["a"], connection, 0.1, False)
    backend.dispatch(0.2, "t2")
    assert [(t, c) for t, _, c in driver.sent] == [("t1", connection), ("t2", connection)]
    assert driver.connects == []


def test_idle_connections_are_closed_after_the_pool_idle_time() -> None:
    backend, driver = make("a")
    connection = serve(backend, driver, "t")
    backend.finished(1.0, backend.endpoints["a"], connection, 0.1, False)
    assert backend.next_timer() == pytest.approx(4.0)
    backend.on_timer(4.0)
    assert driver.closed == [connection]


def test_no_endpoint_means_504_after_three_seconds_then_503_at_once() -> None:
    backend, driver = make()
    backend.dispatch(0.0, "t1")
    backend.dispatch(1.0, "t2")
    assert backend.next_timer() == pytest.approx(3.0)
    backend.on_timer(3.0)
    assert driver.refused == [("t1", Cause.FAILFAST), ("t2", Cause.FAILFAST)]
    backend.dispatch(3.1, "t3")
    assert driver.refused[-1] == ("t3", Cause.LOADSHED)


def test_gate_opens_again_as_soon_as_an_endpoint_is_ready() -> None:
    backend, driver = make()
    backend.dispatch(0.0, "t1")
    backend.on_timer(3.0)
    assert backend.gate_shut
    backend.update(5.0, [endpoint("a")])
    assert not backend.gate_shut
    serve(backend, driver, "t2", 5.0)
    assert driver.sent[-1][0] == "t2"


def test_a_full_queue_sheds() -> None:
    backend, driver = make(queue=QueueSpec(capacity=2, failfast_seconds=3.0))
    for ticket in ("t1", "t2", "t3"):
        backend.dispatch(0.0, ticket)
    assert driver.refused == [("t3", Cause.LOADSHED)]


def test_a_refused_plaintext_connect_fails_its_request() -> None:
    backend, driver = make("a", meshed=False)
    backend.dispatch(0.0, "t")
    backend.connect_failed(0.0, driver.connects.pop(), Cause.CONNECT, handshake=False)
    assert driver.refused == [("t", Cause.CONNECT)]


def test_a_failed_handshake_costs_no_request_while_another_endpoint_is_ready() -> None:
    backend, driver = make("a", "b")
    backend.dispatch(0.0, "t")
    failed = driver.connects.pop()
    backend.connect_failed(0.0, failed, Cause.CONNECT, handshake=True)
    other = driver.connects.pop()
    assert other is not failed
    backend.connected(0.0, other, 1)
    assert driver.sent == [("t", other, 1)]
    assert driver.refused == []


def test_failed_handshakes_back_off_for_two_seconds_at_most() -> None:
    backend, driver = make("a")
    backend.dispatch(0.0, "t")
    now = 0.0
    for _ in range(12):
        backend.connect_failed(now, driver.connects.pop(), Cause.CONNECT, handshake=True)
        due = backend.endpoints["a"].backing_off_until
        assert due is not None
        assert due - now <= 2.000001
        now = due
        backend.on_timer(now)


def test_connects_that_fail_together_count_as_one_failure() -> None:
    backend, driver = make("a", meshed=False)
    for ticket in ("t1", "t2", "t3", "t4", "t5"):
        backend.dispatch(0.0, ticket)
    for state in list(driver.connects):
        backend.connect_failed(0.0, state, Cause.CONNECT, handshake=False)
    assert backend.endpoints["a"].backing_off_until == pytest.approx(0.1)


def test_after_a_backoff_one_probe_goes_first_and_brings_the_endpoint_back() -> None:
    backend, driver = make("a")
    backend.dispatch(0.0, "t")
    backend.connect_failed(0.0, driver.connects.pop(), Cause.CONNECT, handshake=False)
    assert driver.connects == []
    backend.on_timer(0.1)
    assert len(driver.connects) == 1
    backend.dispatch(0.1, "t2")
    assert len(driver.connects) == 1, "requests wait for the probe"
    backend.connected(0.15, driver.connects.pop(), 1)
    assert driver.sent[0] == ("t", backend.endpoints["a"], 1)


def test_forgive_probes_at_once() -> None:
    backend, driver = make("a")
    backend.dispatch(0.0, "t")
    backend.connect_failed(0.0, driver.connects.pop(), Cause.CONNECT, handshake=True)
    backend.forgive(0.01)
    assert len(driver.connects) == 1


def test_established_connections_serve_while_new_ones_fail() -> None:
    backend, driver = make("a")
    connection = serve(backend, driver, "t1")
    backend.dispatch(0.0, "t2")
    backend.connect_failed(0.0, driver.connects.pop(), Cause.CONNECT, handshake=True)
    backend.finished(0.1, backend.endpoints["a"], connection, 0.1, False)
    assert driver.sent[-1] == ("t2", backend.endpoints["a"], connection)


def test_removed_endpoints_finish_what_they_have_and_get_nothing_new() -> None:
    backend, driver = make("a", "b")
    connection = serve(backend, driver, "t1")
    state = driver.sent[0][1]
    left = "b" if state.spec.address == "a" else "a"
    backend.update(0.1, [endpoint(left)])
    for number in range(5):
        serve(backend, driver, f"n{number}", 0.2)
    assert all(sent[1].spec.address == left for sent in driver.sent[1:])
    backend.finished(0.3, state, connection, 0.3, False)
    assert driver.closed == [connection]


def test_tripped_endpoints_are_avoided_and_all_tripped_means_fail_fast() -> None:
    backend, driver = make("a", accrual=FailureAccrualSpec(max_failures=2, jitter_ratio=0.0, min_penalty_seconds=10.0))
    connection = serve(backend, driver, "t1")
    backend.finished(0.0, backend.endpoints["a"], connection, 0.01, True)
    backend.dispatch(0.0, "t2")
    backend.finished(0.0, backend.endpoints["a"], connection, 0.01, True)
    backend.dispatch(0.0, "t3")
    backend.on_timer(3.0)
    assert driver.refused == [("t3", Cause.FAILFAST)]


def test_probation_sends_one_queued_request_when_the_penalty_is_over() -> None:
    backend, driver = make("a", accrual=FailureAccrualSpec(max_failures=1, jitter_ratio=0.0))
    connection = serve(backend, driver, "t1")
    backend.finished(0.0, backend.endpoints["a"], connection, 0.01, True)
    backend.dispatch(0.5, "t2")
    backend.dispatch(0.5, "t3")
    assert backend.next_timer() == pytest.approx(1.0)
    backend.on_timer(1.0)
    assert [t for t, _, _ in driver.sent] == ["t1", "t2"]
    backend.finished(1.1, backend.endpoints["a"], connection, 0.01, False)
    assert [t for t, _, _ in driver.sent] == ["t1", "t2", "t3"]


def test_changed_settings_reach_a_running_backend() -> None:
    backend, driver = make()
    backend.configure(0.0, BackendSettings(queue=QueueSpec(capacity=1, failfast_seconds=1.0)))
    backend.dispatch(0.0, "t1")
    backend.dispatch(0.0, "t2")
    assert driver.refused == [("t2", Cause.LOADSHED)]
    assert backend.next_timer() == pytest.approx(1.0)


def test_the_cheaper_of_two_wins() -> None:
    backend, driver = make("fast", "slow")
    backend.endpoints["fast"].load.observe(0.0, 0.001)
    backend.endpoints["slow"].load.observe(0.0, 1.0)
    for number in range(5):
        serve(backend, driver, str(number), 0.0)
        backend.finished(0.0, driver.sent[-1][1], None, 0.0, None)
    assert {sent[1].spec.address for sent in driver.sent} == {"fast"}


def test_a_returned_request_is_sent_again_first() -> None:
    backend, driver = make("a")
    connection = serve(backend, driver, "t1")
    backend.returned_unsent(0.0, backend.endpoints["a"], "t1")
    assert len(driver.connects) == 1
    backend.connected(0.0, driver.connects.pop(), connection + 1)
    assert [t for t, _, _ in driver.sent] == ["t1", "t1"]


Action = tuple[str, int, float]
TRY_ENDS = ["ok", "error", "abandon", "broken", "return"]
CONNECTION_EVENTS = ["connected", "failed", "handshake", "lost"]
EVENTS = ["dispatch", "withdraw", "timer", "update", "forgive", *CONNECTION_EVENTS, *TRY_ENDS]
ACTIONS = st.tuples(
    st.sampled_from(EVENTS),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.01, 0.2, 1.0, 3.0, 5.0]),
)


@settings(max_examples=300)
@given(st.lists(ACTIONS, max_size=120), st.booleans(), st.booleans(), st.integers(0, 20))
def test_no_ticket_is_lost_or_sent_twice_whatever_happens(
    actions: list[Action], meshed: bool, breaks: bool, seed: int
) -> None:
    """Every dispatched ticket is at any time in exactly one place: queued, waiting, in flight, or settled."""
    accrual = FailureAccrualSpec(max_failures=2, jitter_ratio=0.0) if breaks else None
    backend, driver = make("a", "b", meshed=meshed, accrual=accrual, queue=QueueSpec(capacity=4, failfast_seconds=3.0))
    rng = Random(seed)
    now = 0.0
    names = [f"t{number + 1}" for number in range(len(actions))]  # tickets are compared by identity
    tickets = 0
    in_flight: dict[str, tuple[State, int]] = {}
    settled: set[str] = set()
    idle_lost: set[int] = set()

    def absorb() -> None:
        for ticket, state, connection in driver.sent:
            assert ticket not in in_flight, "sent twice at once"
            assert ticket not in settled, "sent after it was settled"
            assert all(connection != other for _, other in in_flight.values()), "two requests on one connection"
            assert connection not in driver.closed
            assert connection not in idle_lost
            in_flight[ticket] = (state, connection)
        driver.sent.clear()
        for ticket, _ in driver.refused:
            assert ticket not in in_flight
            assert ticket not in settled
            settled.add(ticket)
        driver.refused.clear()

    for action, index, gap in actions:
        now += gap
        flight = sorted(in_flight)
        ticket = flight[index % len(flight)] if flight else None
        if action == "dispatch":
            tickets += 1
            backend.dispatch(now, names[tickets - 1])
        elif action == "connected" and driver.connects:
            backend.connected(now, driver.connects.pop(index % len(driver.connects)), driver.connection())
        elif action in ("failed", "handshake") and driver.connects:
            state = driver.connects.pop(index % len(driver.connects))
            backend.connect_failed(now, state, Cause.CONNECT, handshake=action == "handshake")
        elif action in ("ok", "error", "abandon", "broken") and ticket is not None:
            state, connection = in_flight.pop(ticket)
            settled.add(ticket)
            alive = connection if action in ("ok", "error") else None
            rtt = 0.01 if alive is not None else None
            backend.finished(now, state, alive, rtt, action in ("error", "broken"))
        elif action == "return" and ticket is not None:
            state, _ = in_flight.pop(ticket)
            backend.returned_unsent(now, state, ticket)
        elif action == "lost":
            for state in backend.endpoints.values():
                if state.idle:
                    connection = state.idle[0][0]
                    idle_lost.add(connection)
                    backend.lost(state, connection)
                    break
        elif action == "withdraw" and tickets:
            chosen = names[index % tickets]
            taken = backend.withdraw(chosen)
            assert taken == (chosen not in in_flight and chosen not in settled)
            if taken:
                settled.add(chosen)
        elif action == "timer":
            due = backend.next_timer()
            if due is not None:
                now = max(now, due)
            backend.on_timer(now)
        elif action == "update":
            chosen_ones = [name for name in ("a", "b", "c") if rng.random() < 0.6]
            backend.update(now, [endpoint(name, meshed) for name in chosen_ones])
        elif action == "forgive":
            backend.forgive(now)
        absorb()
        waiting = list(backend.queue) + [t for s in backend.endpoints.values() for t in s.waiting]
        places = waiting + list(in_flight) + list(settled)
        assert sorted(places) == sorted(names[:tickets])
        for state in backend.endpoints.values():
            here = sum(place[0] is state for place in in_flight.values())
            assert state.load.pending == here + len(state.waiting)
            assert len(state.waiting) <= state.connecting
    backend.shut_down()
    absorb()
    assert len(in_flight) + len(settled) == tickets
