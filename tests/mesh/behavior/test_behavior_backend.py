"""The balancer as a conversation: what it is told, what it asks for; and that it never loses or doubles a ticket."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.api.messages import Endpoint, FailureAccrualSpec, QueueSpec
from mesh.behavior.backend import UNLIMITED, Backend, BackendSettings, EndpointState, Multiplex
from mesh.behavior.outcome import Cause

State = EndpointState[str, int]

BOTH = pytest.mark.parametrize("multiplex", [Multiplex.NEVER, Multiplex.MESHED], ids=["exclusive", "multiplexed"])
"""What holds for either kind of endpoint; all of them meshed."""


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

    def tickets(self) -> list[str]:
        """Those sent, in order."""
        return [ticket for ticket, _, _ in self.sent]


def endpoint(name: str, meshed: bool = True) -> Endpoint:
    return Endpoint(address=name, pod=name, namespace="n", identity=f"{name}.id" if meshed else None)


def make(
    *names: str,
    meshed: bool = True,
    multiplex: Multiplex = Multiplex.MESHED,
    accrual: FailureAccrualSpec | None = None,
    queue: QueueSpec | None = None,
) -> tuple[Backend[str, int], Recorder]:
    driver = Recorder()
    chosen = BackendSettings(multiplex=multiplex, queue=queue or QueueSpec(), accrual=accrual, backoff_jitter=0.0)
    backend: Backend[str, int] = Backend(chosen, driver, Random(3), 0.0)
    backend.update(0.0, [endpoint(name, meshed) for name in names])
    return backend, driver


def serve(backend: Backend[str, int], driver: Recorder, ticket: str, now: float = 0.0) -> int:
    """Dispatches and lets connects succeed; returns the connection that the ticket was sent on."""
    backend.dispatch(now, ticket)
    while driver.connects:
        backend.connected(now, driver.connects.pop(), driver.connection())
    assert driver.sent[-1][0] == ticket
    return driver.sent[-1][2]


# ---- either kind


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


@BOTH
def test_a_failed_handshake_costs_no_request_while_another_endpoint_is_ready(multiplex: Multiplex) -> None:
    backend, driver = make("a", "b", multiplex=multiplex)
    backend.dispatch(0.0, "t")
    failed = driver.connects.pop()
    backend.connect_failed(0.0, failed, Cause.CONNECT, handshake=True)
    other = driver.connects.pop()
    assert other is not failed
    backend.connected(0.0, other, 1)
    assert driver.sent == [("t", other, 1)]
    assert driver.refused == []


@BOTH
def test_failed_handshakes_back_off_for_two_seconds_at_most(multiplex: Multiplex) -> None:
    backend, driver = make("a", multiplex=multiplex)
    backend.dispatch(0.0, "t")
    now = 0.0
    for _ in range(12):
        backend.connect_failed(now, driver.connects.pop(), Cause.CONNECT, handshake=True)
        due = backend.endpoints["a"].backing_off_until
        assert due is not None
        assert due - now <= 2.000001
        now = due
        backend.on_timer(now)


@BOTH
def test_after_a_backoff_one_probe_goes_first_and_brings_the_endpoint_back(multiplex: Multiplex) -> None:
    backend, driver = make("a", multiplex=multiplex)
    backend.dispatch(0.0, "t")
    backend.connect_failed(0.0, driver.connects.pop(), Cause.CONNECT, handshake=False)
    assert driver.connects == []
    backend.on_timer(0.1)
    assert len(driver.connects) == 1
    backend.dispatch(0.1, "t2")
    assert len(driver.connects) == 1, "requests wait for the probe"
    backend.connected(0.15, driver.connects.pop(), 1)
    assert driver.sent[0] == ("t", backend.endpoints["a"], 1)


@BOTH
def test_forgive_probes_at_once(multiplex: Multiplex) -> None:
    backend, driver = make("a", multiplex=multiplex)
    backend.dispatch(0.0, "t")
    backend.connect_failed(0.0, driver.connects.pop(), Cause.CONNECT, handshake=True)
    backend.forgive(0.01)
    assert len(driver.connects) == 1


@BOTH
def test_removed_endpoints_finish_what_they_have_and_get_nothing_new(multiplex: Multiplex) -> None:
    backend, driver = make("a", "b", multiplex=multiplex)
    connection = serve(backend, driver, "t1")
    state = driver.sent[0][1]
    left = "b" if state.spec.address == "a" else "a"
    backend.update(0.1, [endpoint(left)])
    for number in range(5):
        serve(backend, driver, f"n{number}", 0.2)
    assert all(sent[1].spec.address == left for sent in driver.sent[1:])
    backend.finished(0.3, state, connection, 0.3, False)
    assert driver.closed == [connection]


@BOTH
def test_tripped_endpoints_are_avoided_and_all_tripped_means_fail_fast(multiplex: Multiplex) -> None:
    backend, driver = make(
        "a", multiplex=multiplex, accrual=FailureAccrualSpec(max_failures=2, jitter_ratio=0.0, min_penalty_seconds=10.0)
    )
    connection = serve(backend, driver, "t1")
    backend.finished(0.0, backend.endpoints["a"], connection, 0.01, True)
    backend.dispatch(0.0, "t2")
    backend.finished(0.0, backend.endpoints["a"], connection, 0.01, True)
    backend.dispatch(0.0, "t3")
    backend.on_timer(3.0)
    assert driver.refused == [("t3", Cause.FAILFAST)]


@BOTH
def test_probation_sends_one_queued_request_when_the_penalty_is_over(multiplex: Multiplex) -> None:
    backend, driver = make("a", multiplex=multiplex, accrual=FailureAccrualSpec(max_failures=1, jitter_ratio=0.0))
    connection = serve(backend, driver, "t1")
    backend.finished(0.0, backend.endpoints["a"], connection, 0.01, True)
    backend.dispatch(0.5, "t2")
    backend.dispatch(0.5, "t3")
    assert backend.next_timer() == pytest.approx(1.0)
    backend.on_timer(1.0)
    assert driver.tickets() == ["t1", "t2"]
    backend.finished(1.1, backend.endpoints["a"], connection, 0.01, False)
    assert driver.tickets() == ["t1", "t2", "t3"]


def test_changed_settings_reach_a_running_backend() -> None:
    backend, driver = make()
    backend.configure(0.0, BackendSettings(queue=QueueSpec(capacity=1, failfast_seconds=1.0)))
    backend.dispatch(0.0, "t1")
    backend.dispatch(0.0, "t2")
    assert driver.refused == [("t2", Cause.LOADSHED)]
    assert backend.next_timer() == pytest.approx(1.0)


@BOTH
def test_the_cheaper_of_two_wins(multiplex: Multiplex) -> None:
    backend, driver = make("fast", "slow", multiplex=multiplex)
    backend.endpoints["fast"].load.observe(0.0, 0.001)
    backend.endpoints["slow"].load.observe(0.0, 1.0)
    for number in range(5):
        serve(backend, driver, str(number), 0.0)
        backend.finished(0.0, driver.sent[-1][1], None, 0.0, None)
    assert {sent[1].spec.address for sent in driver.sent} == {"fast"}


@BOTH
def test_a_returned_request_is_sent_again_first(multiplex: Multiplex) -> None:
    backend, driver = make("a", multiplex=multiplex)
    connection = serve(backend, driver, "t1")
    backend.lost(0.0, backend.endpoints["a"], connection)
    backend.returned_unsent(0.0, backend.endpoints["a"], "t1")
    assert len(driver.connects) == 1
    backend.connected(0.0, driver.connects.pop(), connection + 1)
    assert driver.tickets() == ["t1", "t1"]


# ---- exclusive connections


def test_a_request_opens_a_connection_and_the_next_one_reuses_it() -> None:
    backend, driver = make("a", multiplex=Multiplex.NEVER)
    connection = serve(backend, driver, "t1")
    backend.finished(0.1, backend.endpoints["a"], connection, 0.1, False)
    backend.dispatch(0.2, "t2")
    assert [(t, c) for t, _, c in driver.sent] == [("t1", connection), ("t2", connection)]
    assert driver.connects == []


def test_idle_connections_are_closed_after_the_pool_idle_time() -> None:
    backend, driver = make("a", multiplex=Multiplex.NEVER)
    connection = serve(backend, driver, "t")
    backend.finished(1.0, backend.endpoints["a"], connection, 0.1, False)
    assert backend.next_timer() == pytest.approx(4.0)
    backend.on_timer(4.0)
    assert driver.closed == [connection]


def test_a_connection_whose_response_was_still_to_be_read_serves_again_afterwards() -> None:
    backend, driver = make("a", multiplex=Multiplex.NEVER)
    connection = serve(backend, driver, "t1")
    backend.finished(0.1, backend.endpoints["a"], None, 0.1, True)
    backend.dispatch(0.1, "t2")
    backend.regained(0.2, backend.endpoints["a"], connection)
    backend.dispatch(0.2, "t3")
    assert driver.sent[-1] == ("t3", backend.endpoints["a"], connection)


def test_a_refused_plaintext_connect_fails_its_request() -> None:
    backend, driver = make("a", meshed=False)
    backend.dispatch(0.0, "t")
    backend.connect_failed(0.0, driver.connects.pop(), Cause.CONNECT, handshake=False)
    assert driver.refused == [("t", Cause.CONNECT)]


def test_connects_that_fail_together_count_as_one_failure() -> None:
    backend, driver = make("a", meshed=False)
    for ticket in ("t1", "t2", "t3", "t4", "t5"):
        backend.dispatch(0.0, ticket)
    for state in list(driver.connects):
        backend.connect_failed(0.0, state, Cause.CONNECT, handshake=False)
    assert backend.endpoints["a"].backing_off_until == pytest.approx(0.1)


def test_established_connections_serve_while_new_ones_fail() -> None:
    backend, driver = make("a", multiplex=Multiplex.NEVER)
    connection = serve(backend, driver, "t1")
    backend.dispatch(0.0, "t2")
    backend.connect_failed(0.0, driver.connects.pop(), Cause.CONNECT, handshake=True)
    backend.finished(0.1, backend.endpoints["a"], connection, 0.1, False)
    assert driver.sent[-1] == ("t2", backend.endpoints["a"], connection)


# ---- a shared connection


def test_all_requests_wait_on_the_one_connect_and_then_share_it() -> None:
    backend, driver = make("a")
    for ticket in ("t1", "t2", "t3"):
        backend.dispatch(0.0, ticket)
    assert len(driver.connects) == 1
    backend.connected(0.1, driver.connects.pop(), 7)
    assert [(ticket, connection) for ticket, _, connection in driver.sent] == [("t1", 7), ("t2", 7), ("t3", 7)]
    backend.dispatch(0.2, "t4")
    assert driver.sent[-1][2] == 7
    assert driver.connects == []


def test_a_shared_connection_lives_as_long_as_its_endpoint_is_known() -> None:
    backend, driver = make("a")
    connection = serve(backend, driver, "t")
    backend.finished(0.1, backend.endpoints["a"], connection, 0.1, False)
    assert backend.next_timer() is None
    backend.on_timer(3600.0)
    assert driver.closed == []
    backend.update(3601.0, [])
    assert driver.closed == [connection]


def test_requests_beyond_the_peers_limit_wait_in_the_queue_for_a_free_stream() -> None:
    backend, driver = make("a")
    for ticket in ("t1", "t2", "t3", "t4"):
        backend.dispatch(0.0, ticket)
    state = driver.connects.pop()
    backend.connected(0.0, state, 1, capacity=2)
    backend.dispatch(0.0, "t5")
    assert driver.tickets() == ["t1", "t2"]
    backend.finished(0.1, state, 1, 0.1, False)
    assert driver.tickets() == ["t1", "t2", "t3"]
    backend.resized(0.2, state, 1, 4)
    assert driver.tickets() == ["t1", "t2", "t3", "t4", "t5"]
    backend.resized(0.3, state, 1, 1)
    backend.dispatch(0.3, "t6")
    for _ in range(3):
        backend.finished(0.4, state, 1, 0.1, False)
    assert driver.tickets()[-1] == "t5", "one is still under way, and one is the limit"
    backend.finished(0.4, state, 1, 0.1, False)
    assert driver.tickets()[-1] == "t6"
    assert driver.connects == []


def test_a_limit_that_stays_reached_fails_fast_like_any_unready_endpoint() -> None:
    backend, driver = make("a")
    backend.dispatch(0.0, "t1")
    backend.connected(0.0, driver.connects.pop(), 1, capacity=1)
    backend.dispatch(0.0, "t2")
    backend.on_timer(3.0)
    assert driver.refused == [("t2", Cause.FAILFAST)]
    backend.finished(4.0, backend.endpoints["a"], 1, 4.0, False)
    assert not backend.gate_shut


def test_a_lost_connection_is_replaced_while_its_streams_are_settled_one_by_one() -> None:
    backend, driver = make("a")
    old = serve(backend, driver, "t1")
    serve(backend, driver, "t2")
    state = backend.endpoints["a"]
    backend.lost(0.1, state, old)
    new = serve(backend, driver, "t3", 0.2)
    assert new != old
    backend.finished(0.2, state, old, 0.2, True)
    backend.returned_unsent(0.2, state, "t2", old)
    assert driver.sent[-1] == ("t2", state, new)
    assert state.streams == 2, "streams of the old connection do not count on the new one"
    assert state.load.pending == 2
    assert driver.closed == [], "the driver knows that it is lost"


def test_after_a_goaway_new_requests_get_a_new_connection_and_old_ones_finish() -> None:
    """The peer shuts down gracefully: streams that it will still answer go on, the rest were never looked at."""
    backend, driver = make("a")
    old = serve(backend, driver, "answered")
    serve(backend, driver, "refused")
    state = backend.endpoints["a"]
    backend.lost(1.0, state, old)
    backend.returned_unsent(1.0, state, "refused", old)
    assert len(driver.connects) == 1
    backend.connected(1.1, driver.connects.pop(), 99)
    assert driver.sent[-1] == ("refused", state, 99)
    backend.finished(2.0, state, old, 2.0, False)
    assert (state.streams, state.load.pending) == (1, 1)
    assert driver.refused == []


def test_what_waits_for_a_free_stream_gets_a_new_connection_when_the_full_one_is_lost() -> None:
    backend, driver = make("a")
    backend.dispatch(0.0, "t1")
    backend.connected(0.0, driver.connects.pop(), 1, capacity=1)
    backend.dispatch(0.0, "t2")
    backend.lost(0.1, backend.endpoints["a"], 1)
    assert len(driver.connects) == 1
    backend.connected(0.2, driver.connects.pop(), 2)
    assert driver.sent[-1] == ("t2", backend.endpoints["a"], 2)


@pytest.mark.parametrize("meshed", [True, False])
def test_a_failed_connect_sends_all_that_waited_back_to_the_queue_in_order(meshed: bool) -> None:
    backend, driver = make("a", meshed=meshed, multiplex=Multiplex.ALWAYS)
    for ticket in ("t1", "t2", "t3"):
        backend.dispatch(0.0, ticket)
    state = driver.connects.pop()
    backend.connect_failed(0.5, state, Cause.CONNECT, handshake=True)
    assert list(backend.queue) == ["t1", "t2", "t3"]
    assert state.load.pending == 0
    backend.on_timer(0.6)
    backend.connected(0.7, driver.connects.pop(), 1)
    assert driver.tickets() == ["t1", "t2", "t3"]
    assert driver.refused == []


def test_nobody_waits_for_a_connect_while_another_endpoint_is_connected() -> None:
    """The new endpoint looks cheaper and is connected to, but the request goes where it can go at once."""
    backend, driver = make("old")
    connection = serve(backend, driver, "t1")
    backend.endpoints["old"].load.observe(0.0, 1.0)
    backend.update(0.0, [endpoint("old"), endpoint("new")])
    backend.dispatch(0.0, "t2")
    assert driver.sent[-1] == ("t2", backend.endpoints["old"], connection)
    assert [state.spec.address for state in driver.connects] == ["new"]
    backend.dispatch(0.0, "t3")
    assert driver.sent[-1] == ("t3", backend.endpoints["old"], connection)
    assert len(driver.connects) == 1
    backend.connected(0.1, driver.connects.pop(), 50)
    backend.dispatch(0.1, "t4")
    assert driver.sent[-1] == ("t4", backend.endpoints["new"], 50)


def test_a_removed_endpoint_gives_its_waiting_requests_to_the_others() -> None:
    backend, driver = make("a")
    backend.dispatch(0.0, "t1")
    backend.dispatch(0.0, "t2")
    removed = driver.connects.pop()
    backend.update(0.1, [endpoint("b")])
    backend.connected(0.1, driver.connects.pop(), 2)
    assert [(ticket, state.spec.address) for ticket, state, _ in driver.sent] == [("t1", "b"), ("t2", "b")]
    backend.connected(0.2, removed, 1)
    assert driver.closed == [1], "nobody will use it"


def test_a_request_that_ends_without_a_verdict_frees_its_stream_and_tells_the_balancer_how_long_it_took() -> None:
    backend, driver = make("a", accrual=FailureAccrualSpec(max_failures=1))
    backend.dispatch(0.0, "t1")
    backend.connected(0.0, driver.connects.pop(), 1, capacity=1)
    state = backend.endpoints["a"]
    backend.finished(5.0, state, 1, 5.0, None)
    assert state.load.cost(5.0) == pytest.approx(5.0)
    backend.dispatch(5.0, "t2")
    assert driver.tickets() == ["t1", "t2"]


def test_after_the_end_late_connections_are_closed_and_late_requests_shed() -> None:
    backend, driver = make("a")
    backend.dispatch(0.0, "t1")
    opening = driver.connects.pop()
    backend.shut_down()
    assert driver.refused == [("t1", Cause.LOADSHED)]
    backend.connected(0.1, opening, 60)
    assert driver.closed == [60]
    backend.dispatch(0.1, "t2")
    assert driver.refused[-1] == ("t2", Cause.LOADSHED)
    assert backend.next_timer() is None


# ---- whatever happens


Action = tuple[str, int, float]
TRY_ENDS = ["ok", "error", "abandon", "broken", "return"]
CONNECTION_EVENTS = ["connected", "failed", "handshake", "lost", "resized"]
EVENTS = ["dispatch", "withdraw", "timer", "update", "forgive", *CONNECTION_EVENTS, *TRY_ENDS]
ACTIONS = st.tuples(
    st.sampled_from(EVENTS),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.01, 0.2, 1.0, 3.0, 5.0]),
)
CAPACITIES = (UNLIMITED, 1, 2, 0)


@settings(max_examples=300)
@given(st.lists(ACTIONS, max_size=120), st.sampled_from(Multiplex), st.booleans(), st.booleans(), st.integers(0, 20))
def test_no_ticket_is_lost_or_sent_twice_whatever_happens(
    actions: list[Action], multiplex: Multiplex, meshed: bool, breaks: bool, seed: int
) -> None:
    """Every dispatched ticket is at any time in exactly one place: queued, waiting, in flight, or settled."""
    accrual = FailureAccrualSpec(max_failures=2, jitter_ratio=0.0) if breaks else None
    small = QueueSpec(capacity=4, failfast_seconds=3.0)
    backend, driver = make("a", "b", meshed=meshed, multiplex=multiplex, accrual=accrual, queue=small)
    rng = Random(seed)
    now = 0.0
    names = [f"t{number + 1}" for number in range(len(actions))]  # tickets are compared by identity
    tickets = 0
    in_flight: dict[str, tuple[State, int]] = {}
    settled: set[str] = set()
    lost: set[int] = set()
    capacities: dict[int, int] = {}

    def absorb() -> None:
        for ticket, state, connection in driver.sent:
            assert ticket not in in_flight, "sent twice at once"
            assert ticket not in settled, "sent after it was settled"
            beside = sum(connection == other for _, other in in_flight.values())
            assert beside < (capacities.get(connection, UNLIMITED) if state.multiplexed else 1), "no room for it there"
            assert connection not in driver.closed
            assert connection not in lost
            in_flight[ticket] = (state, connection)
        driver.sent.clear()
        for ticket, _ in driver.refused:
            assert ticket not in in_flight
            assert ticket not in settled
            settled.add(ticket)
        driver.refused.clear()

    def lose(state: State, connection: int) -> None:
        if connection not in lost and connection not in driver.closed:
            lost.add(connection)
            backend.lost(now, state, connection)

    for action, index, gap in actions:
        now += gap
        flight = sorted(in_flight)
        ticket = flight[index % len(flight)] if flight else None
        shared = [state for state in backend.endpoints.values() if state.shared is not None]
        if action == "dispatch":
            tickets += 1
            backend.dispatch(now, names[tickets - 1])
        elif action == "connected" and driver.connects:
            state = driver.connects.pop(index % len(driver.connects))
            connection = driver.connection()
            capacities[connection] = CAPACITIES[index % len(CAPACITIES)]
            backend.connected(now, state, connection, capacities[connection])
        elif action == "resized" and shared:
            state = shared[index % len(shared)]
            assert state.shared is not None
            capacities[state.shared] = CAPACITIES[(index + 1) % len(CAPACITIES)]
            backend.resized(now, state, state.shared, capacities[state.shared])
        elif action in ("failed", "handshake") and driver.connects:
            state = driver.connects.pop(index % len(driver.connects))
            backend.connect_failed(now, state, Cause.CONNECT, handshake=action == "handshake")
        elif action in ("ok", "error", "abandon", "broken") and ticket is not None:
            state, connection = in_flight.pop(ticket)
            settled.add(ticket)
            if action == "broken" and state.multiplexed:
                lose(state, connection)  # what else is on it is settled by later actions
            alive = connection if state.multiplexed or action in ("ok", "error") else None
            if alive is None:
                lost.add(connection)  # its owner closed it
            verdict = None if action == "abandon" else action in ("error", "broken")
            backend.finished(now, state, alive, 0.01, verdict)
        elif action == "return" and ticket is not None:
            state, connection = in_flight.pop(ticket)
            if not state.multiplexed:
                lost.add(connection)
            backend.returned_unsent(now, state, ticket, connection if state.multiplexed else None)
        elif action == "lost":
            for state in backend.endpoints.values():
                kept = state.idle[0][0] if state.idle else state.shared
                if kept is not None:
                    lose(state, kept)
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
            here = [connection for place, connection in in_flight.values() if place is state]
            assert state.load.pending == len(here) + len(state.waiting)
            if state.multiplexed:
                assert state.connecting <= 1
                assert not (state.waiting and state.connecting == 0)
                assert state.streams == (here.count(state.shared) if state.shared is not None else 0)
            else:
                assert len(state.waiting) <= state.connecting
    backend.shut_down()
    absorb()
    assert len(in_flight) + len(settled) == tickets
    for state in driver.connects:
        backend.connected(now, state, driver.connection())
    for state, connection in in_flight.values():
        backend.finished(now, state, connection, 0.01, False)
    left_open = set(range(1, driver.connection())) - set(driver.closed) - lost
    assert not left_open, "a connection that nobody closes"
