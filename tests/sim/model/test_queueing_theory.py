"""The model against closed forms of queueing theory.

Each mean is held to four standard errors of its own run, from the means of 25 batches (Law, Simulation Modeling and
Analysis, 9.5.3), and a run must be long enough for that to mean something: `close` refuses a run whose four errors
are more than a tenth of what is expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Literal

import numpy as np
import pytest
from sim_builders import application, exponential, parameters_of, played, service, setup_of

from scenarios.model import LoadSpec, ServiceTime
from sim.model.agenda import Agenda, Call
from sim.model.distributions import Distribution, LogNormal
from sim.model.draws import Streams
from sim.model.parameters import CpuCosts
from sim.model.processor import Machine, SharedProcessor, Thread
from sim.model.system import System

BATCHES = 25
WIDEST = 0.1


def erlang_b(servers: int, load: float) -> float:
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    blocked = erlang_b(servers, load)
    return blocked / (1 - load / servers * (1 - blocked))


def close(values: Sequence[float] | Sequence[bool], expected: float, widest: float = WIDEST) -> None:
    """Holds the mean of a series in time to `expected`, within four standard errors."""
    batches = [float(np.mean(batch)) for batch in np.array_split(np.asarray(values, dtype=np.float64), BATCHES)]
    error = float(np.std(batches, ddof=1)) / math.sqrt(BATCHES)
    assert 4 * error <= widest * expected, f"too short a run: {float(np.mean(batches)):.5g} ± {error:.2g}"
    assert abs(float(np.mean(batches)) - expected) <= 4 * error, f"{np.mean(batches):.5g} ± {error:.2g}, not {expected}"


def requests(
    seconds: float,
    rate: float,
    times: Distribution,
    *,
    workers: int = 1,
    queue: int = 10**6,
    work: Literal["wait", "cpu", "shared"] = "wait",
    timeout: float = 1e4,
    seed: int = 1,
    cancels: bool = False,
) -> list[tuple[float | None, int]]:
    """(latency, status) of each request to one pod, in the order of arrival, after a warm-up of 30 s."""
    app = application(service("only", workers=workers, queue=queue, work=work, cancels=cancels))
    setup = setup_of(
        app, load=LoadSpec(rate, {"all": 1.0}, 10**6, timeout), inject_seconds=seconds, recover_seconds=0.0
    )
    record = played(setup, parameters_of(rate, times={("only", "GET /"): times}), seed, start=-30.0, load_from=-30.0)
    rows = sorted(zip(record.intended_at, record.latency, record.status, strict=True), key=lambda row: row[0])
    return [(latency, status) for at, latency, status in rows if at >= 0]


def latencies(rows: list[tuple[float | None, int]]) -> list[float]:
    return [latency for latency, status in rows if status == 200 and latency is not None]


# ---- one worker


def test_one_worker_is_an_m_m_1_queue() -> None:
    mean, utilisation = 0.012, 0.6
    served = latencies(requests(1000.0, 50.0, exponential(mean)))
    close(served, mean / (1 - utilisation))
    close([latency > 0.06 for latency in served], math.exp(-0.06 * (1 - utilisation) / mean), widest=0.4)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("work", ["wait", "cpu"])
def test_one_worker_waits_by_pollaczek_and_khinchine(sigma: float, work: Literal["wait", "cpu"]) -> None:
    """One worker, or one core that burns for one request after another: both are M/G/1, first come first served."""
    times = LogNormal(0.01, sigma)
    utilisation, spread = 0.5, math.exp(sigma * sigma) - 1
    rate = utilisation / times.mean
    rows = requests(30_000 / rate, rate, times, workers=1 if work == "wait" else 10_000, work=work)
    waits = utilisation / (1 - utilisation) * (1 + spread) / 2 * times.mean
    close(latencies(rows), times.mean + waits, widest=0.15)


def test_a_burning_app_does_not_share_its_processor() -> None:
    """Under processor sharing the mean would be insensitive to the spread of service times: E[S]/(1-ρ). The workload
    burns in one thread, without sharing, and so does the twin's: with spread it is far from that."""
    times, utilisation = LogNormal(0.01, 1.0), 0.5
    rate = utilisation / times.mean
    served = latencies(requests(20_000 / rate, rate, times, workers=10_000, work="cpu"))
    assert float(np.mean(served)) > 1.1 * times.mean / (1 - utilisation)


# ---- processors that are shared


@pytest.mark.parametrize("times", [LogNormal(0.01, 0.0), LogNormal(0.01, 1.0), exponential(0.012)])
def test_a_shared_processor_knows_the_mean_of_its_service_times_only(times: Distribution) -> None:
    """M/G/1-PS is insensitive: E[T] = E[S]/(1-ρ) whatever the distribution (Kleinrock, Queueing Systems II, 4.4)."""
    utilisation = 0.5
    rate = utilisation / times.mean
    rows = requests(20_000 / rate, rate, times, workers=10_000, work="shared")
    close(latencies(rows), times.mean / (1 - utilisation), widest=0.15)


def test_a_shared_processor_slows_each_request_by_the_same_factor() -> None:
    """E[T | S = s] = s/(1-ρ): of two routes' requests, those ten times as long take ten times as long."""
    agenda = Agenda()
    processor = SharedProcessor(agenda)
    random = Random(5)
    sizes = (0.004, 0.04)  # half of the arrivals each
    rate = 0.6 / (sum(sizes) / 2)
    taken: dict[float, list[float]] = {size: [] for size in sizes}

    def served(job: tuple[float, float]) -> None:
        size, begun = job
        taken[size].append(agenda.now - begun)

    def arrive(left: int) -> None:
        size = sizes[random.random() < 0.5]
        processor.put(size, Call(served, (size, agenda.now)))
        if left:
            agenda.call_at(agenda.now + random.expovariate(rate), arrive, left - 1)

    agenda.call_at(0.0, arrive, 30_000)
    agenda.run_until(1e9)
    assert processor.jobs == 0
    for size in sizes:
        close(taken[size], size / 0.4)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_processes_share_a_core_as_m_g_1_ps_on_average(sigma: float) -> None:
    """Bursts of many processes on one core: E[T] = E[d]/(1-ρ), of any distribution."""
    machine = Machine(1.0, 0.0)
    draws = LogNormal(0.001, sigma).block(np.random.Generator(np.random.SFC64(7)), 60_000).tolist()
    random = Random(8)
    rate = 0.5 / LogNormal(0.001, sigma).mean
    now, taken = 0.0, []
    for burst in draws:
        now += random.expovariate(rate)
        taken.append(Thread(machine).take(now, burst))
    close(taken, LogNormal(0.001, sigma).mean / 0.5)


def test_a_process_of_its_own_is_an_m_d_1_queue_however_many_cores_there_are() -> None:
    """An event loop uses one core at most: constant bursts wait ρ/(2(1-ρ)) of one."""
    thread = Thread(Machine(8.0, 0.0, together=1.0))
    random = Random(9)
    now, taken = 0.0, []
    for _ in range(60_000):
        now += random.expovariate(700.0)
        taken.append(thread.take(now, 0.001))
    close(taken, 0.001 * (1 + 0.7 / (2 * 0.3)))


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_a_loop_that_is_at_work_already_has_less_to_do_for_a_request(load: float) -> None:
    """M/D/1 with an exceptional first service (Welch 1964): one that finds it idle costs S0, any other S.
    E[W] = λS²/(2(1−ρ)) + λ(S0²−S²)/(2(1−ρ+ρ0)), and (1−ρ)/(1−ρ+ρ0) of all find it idle."""
    first, other = 0.001, 0.00025
    arrivals = load / other
    rho, rho_first = arrivals * other, arrivals * first
    idle = (1 - rho) / (1 - rho + rho_first)
    waits = arrivals * other**2 / (2 * (1 - rho)) + arrivals * (first**2 - other**2) / (2 * (1 - rho + rho_first))
    thread = Thread(Machine(8.0, 0.0, together=0.25))
    random = Random(11)
    now, taken = 0.0, []
    for _ in range(60_000):
        now += random.expovariate(arrivals)
        taken.append(thread.take(now, first))
    close(taken, waits + idle * first + (1 - idle) * other)


def test_a_full_machine_does_what_its_cores_can_and_no_more() -> None:
    """Six processes with work for three cores on two: one second's demand takes one and a half."""
    machine = Machine(2.0, 0.0, together=1.0)
    threads = [Thread(machine) for _ in range(6)]
    ends = 0.0
    for step in range(6_000):  # each asks for 0.5 ms each ms, for one second
        now = step / 6_000.0
        ends = max(ends, now + threads[step % 6].take(now, 0.0005))
    assert ends == pytest.approx(3.0 / 2.0, rel=0.1)


def test_what_reaches_many_processes_at_once_is_done_when_the_cores_have_done_it() -> None:
    """A throttle ends and hundreds of answers come in one moment: those with little to do leave their share to those
    with much, so that the last ends with the sum of all, and the first no later than an even share."""
    machine = Machine(1.0, 0.0, together=1.0)
    threads = [Thread(machine) for _ in range(8)]
    ends = [max(thread.take(0.0, 0.0002) for _ in range(20 * number)) for number, thread in enumerate(threads, 1)]
    total = 0.0002 * 20 * sum(range(1, 9))
    assert max(ends) == pytest.approx(total, rel=0.05)
    assert ends[0] <= 8 * 0.0002 * 20
    assert threads[0].take(total, 0.001) == pytest.approx(0.001), "all was done by then"


def test_what_is_not_modelled_takes_its_share_of_the_cores() -> None:
    assert Thread(Machine(2.0, 0.5)).take(0.0, 0.001) == pytest.approx(0.001)
    assert Thread(Machine(2.0, 2.0)).take(0.0, 0.001) == pytest.approx(0.0015), "it has to share as well"


def test_the_background_gets_what_it_asks_for_however_many_compute() -> None:
    """Four loops have what half of a core leaves them."""
    machine = Machine(1.0, 0.5, together=1.0)
    threads = [Thread(machine) for _ in range(4)]
    for thread in threads:
        thread.burn(0.0, 0.1)
    assert [thread.left(0.0) for thread in threads] == pytest.approx([0.8] * 4)
    assert [thread.left(0.6) for thread in threads] == pytest.approx([0.2] * 4)
    assert [thread.left(0.8001) for thread in threads] == [0.0] * 4


def test_what_is_done_after_a_request_went_on_delays_the_next_one_only() -> None:
    thread = Thread(Machine(1.0, 0.0, ahead=0.6, together=1.0))
    assert thread.take(0.0, 0.010) == pytest.approx(0.006)
    assert thread.take(0.008, 0.010) == pytest.approx(0.002 + 0.006)
    assert thread.burn(0.020, 0.010) == pytest.approx(0.010)


@pytest.mark.parametrize("work", ["cpu", "shared"])
def test_a_lonely_burn_is_not_stretched_by_its_own_request(work: Literal["cpu", "shared"]) -> None:
    """10 ms on an idle core take 10 ms, and what the request costs its proxy comes once."""
    app = application(service("only", time=ServiceTime(0.010, 0.0, "constant"), work=work))
    load = LoadSpec(2.0, {"all": 1.0}, 10**6, 60.0)
    costs = CpuCosts(cores=1.0, proxy_inbound=0.0002, app_serve=0.0001)
    record = played(setup_of(app, load=load), replace(parameters_of(2.0), cpu=costs))
    latencies = sorted(latency for latency in record.latency if latency is not None)
    assert 0.010 <= latencies[len(latencies) // 2] <= 0.0106


@pytest.mark.parametrize(("cost", "named"), [("proxy_inbound", 100.0), ("app_serve", 100.0), ("client", 100.0)])
def test_requests_beyond_what_one_process_can_do_are_late(cost: str, named: float) -> None:
    """At a process that can do 100/s of them one by one, 400/s together, λ = 430/s falls behind by 70 ms in each
    second; at 320/s it does not."""
    app = application(service("only"))
    for rate, late in ((320.0, False), (430.0, True)):
        setup = setup_of(app, load=LoadSpec(rate, {"all": 1.0}, 10**6, 60.0), inject_seconds=20.0, recover_seconds=0.0)
        costs = CpuCosts(cores=16.0, **{cost: 1.0 / named})
        record = played(setup, replace(parameters_of(rate), cpu=costs))
        last = [la for at, la in zip(record.intended_at, record.latency, strict=True) if at > 18 and la is not None]
        assert (min(last) > 0.5) is late


# ---- several workers


def test_several_workers_are_an_m_m_c_queue() -> None:
    wait = erlang_c(4, 3.0) * 0.06 / (4 - 3.0)
    close(latencies(requests(1000.0, 50.0, exponential(0.06), workers=4)), 0.06 + wait)


def test_all_workers_are_busy_as_often_as_erlang_c_says() -> None:
    """And the queue is as long. Looked at in even steps of time, which is what an arrival sees, too (PASTA)."""
    app = application(service("only", workers=4, queue=10**6))
    setup = setup_of(app, load=LoadSpec(50.0, {"all": 1.0}, 10**6, 1e4), inject_seconds=1000.0, recover_seconds=0.0)
    system = System(setup, parameters_of(50.0, times={("only", "GET /"): exponential(0.06)}), Streams(3, 0))
    (pod,) = system.pods["only"]
    busy: list[bool] = []
    queued: list[int] = []

    def look(at: float) -> None:
        busy.append(pod.busy == 4)
        queued.append(pod.queue_length)
        if at < 1000.0:
            system.agenda.call_at(at + 0.05, look, at + 0.05)

    system.agenda.call_at(10.0, look, 10.0)
    system.run()
    waiting = erlang_c(4, 3.0)
    close(busy, waiting)
    close(queued, waiting * 0.75 / 0.25, widest=0.25)


@pytest.mark.parametrize("times", [exponential(0.06), LogNormal(0.06, 0.0), LogNormal(0.06 / math.exp(0.5), 1.0)])
def test_without_a_queue_losses_are_erlang_b(times: Distribution) -> None:
    """Of any distribution with that mean: M/G/c/c is insensitive to the rest."""
    rows = requests(800.0, 50.0, times, workers=4, queue=0)
    close([status == 503 for _, status in rows], erlang_b(4, 3.0))


def test_a_bounded_queue_loses_as_m_m_c_k() -> None:
    workers, queue, load = 2, 3, 1.8
    weights = [load**n / math.factorial(n) for n in range(workers + 1)]
    weights += [weights[-1] * (load / workers) ** k for k in range(1, queue + 1)]
    rows = requests(800.0, 60.0, exponential(load / 60.0), workers=workers, queue=queue)
    close([status == 503 for _, status in rows], weights[-1] / sum(weights))


# ---- impatience


@pytest.mark.parametrize("timeout", [0.03, 0.06])
def test_impatient_clients_leave_as_often_as_an_answer_takes_too_long(timeout: float) -> None:
    """A client that gives up cancels nothing, so the queue stays M/M/1 and P(T > timeout) is exponential. (Erlang A,
    where who leaves is no longer served, is what the model must not be.)"""
    mean, utilisation = 0.012, 0.6
    rows = requests(900.0, 50.0, exponential(mean), timeout=timeout)
    close([status == 0 for _, status in rows], math.exp(-timeout * (1 - utilisation) / mean), widest=0.4)


@pytest.mark.parametrize("timeout", [0.1, 0.2])
def test_impatient_clients_of_several_workers_leave_by_erlang_c(timeout: float) -> None:
    """A wait is Exp(cμ - λ) with the probability of Erlang C, else none; a service Exp(μ); P(sum > timeout)."""
    workers, rate, mean = 4, 48.0, 0.06
    served, drained = 1 / mean, workers / mean - rate
    both = (drained * math.exp(-served * timeout) - served * math.exp(-drained * timeout)) / (drained - served)
    waiting = erlang_c(workers, rate * mean)
    rows = requests(1200.0, rate, exponential(mean), workers=workers, timeout=timeout)
    late = waiting * both + (1 - waiting) * math.exp(-served * timeout)
    close([status == 0 for _, status in rows], late, widest=0.4)


@pytest.mark.parametrize("utilisation", [0.6, 1.5])
def test_work_that_is_cancelled_with_its_client_holds_nobody_up(utilisation: float) -> None:
    """The work that an arrival finds before it never exceeds the timeout t, so a queue above its capacity is stable,
    too. By level crossing (Brill and Posner 1977) the work's density is λ P₀ exp((λ-μ) v) on (0, t), which makes
    P(late) = P₀ exp(-(μ-λ) t)."""
    mean, timeout = 0.012, 0.05
    rate, drained = utilisation / mean, (1 - utilisation) / mean
    empty = 1 / (1 + rate * (1 - math.exp(-drained * timeout)) / drained)
    rows = requests(900.0, rate, exponential(mean), timeout=timeout, cancels=True)
    close([status == 0 for _, status in rows], empty * math.exp(-drained * timeout), widest=0.4)


def test_two_queues_one_after_the_other_do_not_see_each_other() -> None:
    """Jackson: what leaves an M/M/1 queue is Poisson again. Steps of a journey are such a series."""
    first, second = service("first", workers=1, queue=10**6), service("second", workers=1, queue=10**6)
    app = application(first, second)
    (journey,) = app.journeys
    step = type(journey.steps[0])("second", "GET", "/")
    app = type(app)("test", app.source, app.services, (type(journey)("all", 1.0, (*journey.steps, step)),))
    setup = setup_of(app, load=LoadSpec(50.0, {"all": 1.0}, 10**6, 1e4), inject_seconds=600.0, recover_seconds=0.0)
    times = {("first", "GET /"): exponential(0.012), ("second", "GET /"): exponential(0.01)}
    record = played(setup, parameters_of(50.0, times=times))
    for name, mean, utilisation in (("first", 0.012, 0.6), ("second", 0.01, 0.5)):
        route = f"GET {name} /"
        close(
            [la for r, la in zip(record.route, record.latency, strict=True) if r == route and la is not None],
            mean / (1 - utilisation),
        )
