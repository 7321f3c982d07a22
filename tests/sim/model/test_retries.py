"""Retries in the twin: amplification by limit, ceiling by budget, trips of the breaker.

What has chance in it is held to its expectation within four standard errors: of counting where tries are independent,
of batch means where they are not.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from sim_builders import application, parameters_of, played, rules_of, service, setup_of

from mesh.api.messages import FailureAccrualSpec, ProfileRoute, RetryBudgetSpec, RetrySpec
from scenarios.model import LoadSpec, ServiceTime
from sim.model.record import SLOT_SECONDS, Record
from sim.model.setup import Setup
from sim.replication.mesh_figures import between

FIVE = ((500, 599),)


def two_tiers(
    failure_rate: float, rate: float = 40.0, *, seconds: float = 60.0, clients: int = 1, **rules: object
) -> Setup:
    front = service("front", calls=("back",), replicas=clients)
    back = service("back", failure_rate=failure_rate)
    app = application(front, back)
    return setup_of(
        app,
        load=LoadSpec(rate, {"all": 1.0}, 10**6, 60.0),
        inject_seconds=seconds,
        rules={front.authority: rules_of(front), back.authority: rules_of(back, **rules)},  # type: ignore[arg-type]
    )


def amplification(record: Record, service: str) -> float:
    return sum(record.reached[service].values()) / sum(record.meant[service].values())


@pytest.mark.parametrize(("limit", "p"), [(0, 0.5), (1, 0.5), (3, 0.5), (3, 0.2)])
def test_a_limit_of_r_amplifies_by_the_geometric_sum(limit: int, p: float) -> None:
    retry = RetrySpec(statuses=FIVE, limit=limit) if limit else None
    record = played(two_tiers(p, retry=retry))
    tries = np.arange(1, limit + 2)
    odds = np.where(tries <= limit, p ** (tries - 1) * (1 - p), p**limit)
    mean = (1 - p ** (limit + 1)) / (1 - p)
    assert float((odds * tries).sum()) == pytest.approx(mean)
    requests = len(record.status)
    error = math.sqrt((float((odds * tries**2).sum()) - mean**2) / requests)
    assert amplification(record, "back") == pytest.approx(mean, abs=4 * error + 1e-9)
    failed, gone = sum(1 for status in record.status if status >= 500) / requests, p ** (limit + 1)
    assert failed == pytest.approx(gone, abs=4 * math.sqrt(gone * (1 - gone) / requests))


@pytest.mark.parametrize("leaves_after", [None, 2.5])
def test_a_request_and_its_retries_are_counted_when_it_is_over(leaves_after: float | None) -> None:
    """Three tries of a second each, all of which fail: over after the last, or when its client leaves during it."""
    front = service("front", calls=("back",), cancels=True)
    back = service("back", failure_rate=1.0, time=ServiceTime(1.0, 0.0, "constant"))
    rules = {
        front.authority: rules_of(front),
        back.authority: rules_of(back, retry=RetrySpec(statuses=FIVE, limit=2)),
    }
    load = LoadSpec(20.0, {"all": 1.0}, 10**6, leaves_after or 60.0)
    record = played(setup_of(application(front, back), load=load, rules=rules))
    first = min(record.intended_at)
    assert min(record.retried) * SLOT_SECONDS == pytest.approx(first + (leaves_after or 3.0), abs=SLOT_SECONDS)
    requests = len(record.status)
    assert sum(record.meant["front"].values()) == sum(record.meant["back"].values()) == requests
    assert sum(record.retried.values()) == 2 * requests
    assert sum(record.failed.values()) == (2 * requests if leaves_after is None else 0)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_limits_along_a_chain_multiply(depth: int) -> None:
    """Each hop's limit of one doubles what the one below it gets, when nothing is answered well: (1 + r)^depth."""
    names = ["first", "second", "third", "fourth"][: depth + 1]
    services = [service(name, calls=(below,)) for name, below in itertools.pairwise(names)]
    services.append(service(names[-1], failure_rate=1.0))
    retry = RetrySpec(statuses=FIVE, limit=1)
    rules = {s.authority: rules_of(s, retry=retry if s is not services[0] else None) for s in services}
    record = played(setup_of(application(*services), rules=rules), parameters_of(10.0))
    sent = sum(record.reached[names[0]].values())
    assert sum(record.reached[names[-1]].values()) == 2**depth * sent


@pytest.mark.parametrize(("p", "ratio"), [(0.5, 0.2), (0.7, 0.2), (0.5, 0.1)])
def test_a_budget_grants_its_ratio_of_what_succeeds(p: float, ratio: float) -> None:
    """Retries R of N requests: only the (1-p)(N+R) tries that succeed deposit, and the reserve adds its rate to each
    second. So R/N = (b(1-p) + reserve/λ) / (1 - b(1-p)), and amplification stays below 1 + b + reserve/λ."""
    reserve, rate = 1, 40.0
    record = played(two_tiers(p, rate, profile=_budget(ratio, reserve), seconds=300.0))
    deposited = ratio * (1 - p)
    expected = 1 + (deposited + reserve / rate) / (1 - deposited)
    beyond = []  # tries beyond those expected of the requests, in each of 20 batches after the first deposits
    for start in np.arange(20.0, 300.0, 14.0).tolist():
        tries, meant = (between(counts["back"], start, start + 14.0) for counts in (record.reached, record.meant))
        beyond.append(tries - expected * meant)
    error = float(np.std(beyond, ddof=1)) / math.sqrt(len(beyond))
    assert 4 * error < 0.03 * rate * 14.0, "too short a run"
    assert abs(float(np.mean(beyond))) <= 4 * error
    assert amplification(record, "back") < 1 + ratio + reserve / rate


@pytest.mark.parametrize("clients", [1, 3])
def test_in_a_full_outage_each_client_has_its_reserve_and_nothing_else(clients: int) -> None:
    """Ten withdrawals per `ttl`, which ends a slot earlier for what was withdrawn at the end of a slot: 9 to 10 s."""
    record = played(two_tiers(1.0, 40.0, profile=_budget(0.2, 1), seconds=300.0, clients=clients))
    reserve = clients * 1.0 / 40.0
    assert 0.97 * reserve < amplification(record, "back") - 1 < 1.03 * reserve * 10 / 9


def _budget(ratio: float, reserve: int) -> dict[str, Any]:
    budget = RetryBudgetSpec(retry_ratio=ratio, min_retries_per_second=reserve, ttl_seconds=10.0)
    return {"routes": (ProfileRoute(name="all", is_retryable=True),), "retry_budget": budget}


def test_a_breaker_trips_and_sheds_the_load() -> None:
    """All endpoints open: requests wait for the gate, then are shed; hardly any reaches the broken service."""
    closed = played(two_tiers(1.0))
    open_ = played(two_tiers(1.0, failure_accrual=FailureAccrualSpec(max_failures=5)))
    reached = sum(open_.reached["back"].values())
    assert amplification(closed, "back") == pytest.approx(1.0, abs=0.01)
    assert 5 <= reached < 0.02 * sum(closed.reached["back"].values())


@pytest.mark.parametrize(("p", "failures"), [(0.5, 3), (0.7, 5)])
def test_a_breaker_trips_after_the_mean_run_of_failures(p: float, failures: int) -> None:
    """(1-p^m) / (p^m (1-p)) requests until m in a row failed. Each of 100 endpoints has a breaker of its own, and none
    comes back; when all are open, what reached them is the sum of their waits. Four such systems."""
    endpoints, mean = 100, (1 - p**failures) / (p**failures * (1 - p))
    breaker = FailureAccrualSpec(max_failures=failures, min_penalty_seconds=1e4, max_penalty_seconds=1e4)
    front = service("front", calls=("back",))
    back = service("back", failure_rate=p, replicas=endpoints, time=ServiceTime(1e-4, 0.0, "constant"))
    rules = {front.authority: rules_of(front), back.authority: rules_of(back, failure_accrual=breaker)}
    rate = endpoints * mean / 20.0
    setup = setup_of(
        application(front, back), load=LoadSpec(rate, {"all": 1.0}, 10**6, 1.0), rules=rules, inject_seconds=24.0
    )
    reached = 0
    for seed in range(1, 5):
        record = played(setup, seed=seed)
        assert max(record.reached["back"]) * SLOT_SECONDS < 25.0, "all are open before the end"
        reached += sum(record.reached["back"].values())
    # A wait's standard deviation is about its mean (Feller I, XIII.7).
    assert reached / (4 * endpoints) == pytest.approx(mean, rel=4 / (4 * endpoints) ** 0.5)


def test_work_goes_on_when_its_caller_has_given_up() -> None:
    """A per-try timeout multiplies load at a slow service instead of relieving it."""
    front = service("front", calls=("back",))
    back = service("back", time=ServiceTime(0.3, 0.0, "constant"))
    app = application(front, back)
    retry = RetrySpec(statuses=FIVE, limit=2, timeout_seconds=0.1)
    rules = {front.authority: rules_of(front), back.authority: rules_of(back, retry=retry)}
    record = played(setup_of(app, rules=rules), parameters_of(20.0))
    assert amplification(record, "back") == 3.0
    assert set(record.status) == {200}  # the last try has no such limit
