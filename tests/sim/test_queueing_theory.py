"""The model against closed forms. Tolerances are about four standard errors of these run lengths."""

from __future__ import annotations

import math

import pytest
from sim_builders import application, exponential, parameters_of, played, service, setup_of

from scenarios.model import LoadSpec


def erlang_b(servers: int, load: float) -> float:
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    blocked = erlang_b(servers, load)
    return blocked / (1 - load / servers * (1 - blocked))


def latencies(workers: int, queue: int, rate: float, mean: float, seconds: float) -> tuple[list[float], float]:
    """(latencies of accepted requests, share answered 503)."""
    app = application(service("only", workers=workers, queue=queue))
    setup = setup_of(app, load=LoadSpec(rate, {"all": 1.0}, 10**6, 1e4), inject_seconds=seconds, recover_seconds=0.0)
    record = played(setup, parameters_of(rate, times={("only", "GET /"): exponential(mean)}), start=-30.0)
    measured = [
        (latency, status)
        for at, latency, status in zip(record.intended_at, record.latency, record.status, strict=True)
        if at >= 0 and latency is not None
    ]
    served = [latency for latency, status in measured if status == 200]
    return served, 1 - len(served) / len(measured)


def test_one_worker_is_an_m_m_1_queue() -> None:
    served, rejected = latencies(workers=1, queue=10**6, rate=50.0, mean=0.012, seconds=900.0)
    assert rejected == 0
    assert sum(served) / len(served) == pytest.approx(0.012 / (1 - 0.6), rel=0.06)
    beyond = sum(1 for value in served if value > 0.06) / len(served)
    assert beyond == pytest.approx(math.exp(-0.06 * (1 - 0.6) / 0.012), rel=0.15)


def test_several_workers_are_an_m_m_c_queue() -> None:
    served, _ = latencies(workers=4, queue=10**6, rate=50.0, mean=0.06, seconds=600.0)
    wait = erlang_c(4, 3.0) * 0.06 / (4 - 3.0)
    assert sum(served) / len(served) == pytest.approx(0.06 + wait, rel=0.06)


def test_without_a_queue_losses_are_erlang_b() -> None:
    _, rejected = latencies(workers=4, queue=0, rate=50.0, mean=0.06, seconds=400.0)
    assert rejected == pytest.approx(erlang_b(4, 3.0), rel=0.06)


def test_a_bounded_queue_loses_as_m_m_c_k() -> None:
    workers, queue, load = 2, 3, 1.8
    weights = [load**n / math.factorial(n) for n in range(workers + 1)]
    weights += [weights[-1] * (load / workers) ** k for k in range(1, queue + 1)]
    _, rejected = latencies(workers=workers, queue=queue, rate=60.0, mean=load / 60.0, seconds=400.0)
    assert rejected == pytest.approx(weights[-1] / sum(weights), rel=0.08)
