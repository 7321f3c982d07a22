"""CPU costs are recovered from a window of known costs, and what the window cannot tell is not made up."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sim.calibration.cpu import APP_PRIOR, PROXY_PRIOR, fit_cpu
from sim.model.draws import Streams
from sim.observation import CpuWindow, ProcessCpu

SECONDS = 25.0
INBOUND, OUTBOUND, SERVE, CALL, IDLE = 0.0003, 0.0004, 0.0001, 0.00006, 0.002
RATES = {
    "front": (60.0, 90.0),
    "middle": (30.0, 60.0),
    "cart": (8.0, 0.0),
    "payment": (60.0, 0.0),
    "stock": (15.0, 0.0),
}


def window(*, noise: float = 0.0, machine: float | None = 20.0, seed: int = 1) -> CpuWindow:
    """`noise`: seconds by which each count is off. `machine`: seconds that others used."""
    generator = np.random.default_rng(seed)
    found = [ProcessCpu("loadgen-0/proxy", "proxy", _seconds(0.0, 60.0, INBOUND, OUTBOUND), 0.0, 60.0 * SECONDS)]
    for name, (inbound, outbound) in RATES.items():
        counts = inbound * SECONDS, outbound * SECONDS
        proxy = _seconds(inbound, outbound, INBOUND, OUTBOUND) + noise * float(generator.standard_normal())
        found.append(ProcessCpu(f"{name}-0/proxy", "proxy", max(0.0, proxy), *counts))
        burned = 0.002 * counts[0] if name == "stock" else 0.0
        app = _seconds(inbound, outbound, SERVE, CALL) + burned
        found.append(ProcessCpu(f"{name}-0/app", "app", app, *counts, burns=name == "stock"))
    found.append(ProcessCpu("load", "client", 0.0006 * 60.0 * SECONDS, outbound=60.0 * SECONDS))
    found.append(ProcessCpu("control/identity", "other", 0.05))
    known = sum(p.seconds for p in found)
    return CpuWindow(2.0, SECONDS, tuple(found), known + machine if machine is not None else None)


def _seconds(inbound: float, outbound: float, first: float, second: float) -> float:
    return SECONDS * (IDLE + first * inbound + second * outbound)


def test_costs_are_recovered() -> None:
    found = fit_cpu(window())
    assert found is not None
    assert found.costs.proxy_inbound == pytest.approx(INBOUND, rel=0.05)
    assert found.costs.proxy_outbound == pytest.approx(OUTBOUND, rel=0.05)
    assert found.costs.app_serve == pytest.approx(SERVE, rel=0.25)
    assert found.costs.app_call == pytest.approx(CALL, rel=0.25)
    assert found.costs.client == pytest.approx(0.0006)
    assert not found.limits()


def test_what_others_use_is_background() -> None:
    """Idle costs and the control plane, of the run's own processes, are there without the machine's account, too."""
    whole, own = fit_cpu(window()), fit_cpu(window(machine=None))
    assert whole is not None
    assert own is not None
    idle = 11 * IDLE + 0.05 / SECONDS
    assert own.costs.background == pytest.approx(idle, rel=0.3)
    assert whole.costs.background == pytest.approx(20.0 / SECONDS + idle, rel=0.03)
    assert any("own processes" in limit for limit in own.limits())


def test_a_chain_whose_links_see_the_same_leans_on_what_is_typical() -> None:
    """Idle cost and cost of a request cannot be told apart there: the fit must neither give all to the one nor to the
    other, and the sum must be what was used."""
    cpu = 25.0 * (PROXY_PRIOR[0] + 20.0 * (PROXY_PRIOR[1] + PROXY_PRIOR[2]))
    app = 25.0 * (APP_PRIOR[0] + 20.0 * (APP_PRIOR[1] + APP_PRIOR[2]))
    links = [ProcessCpu(f"s{i}-0/proxy", "proxy", cpu, 500.0, 500.0) for i in range(7)]
    apps = [ProcessCpu(f"s{i}-0/app", "app", app, 500.0, 500.0) for i in range(7)]
    found = fit_cpu(CpuWindow(2.0, 25.0, (*links, *apps), 20.0))
    assert found is not None
    assert found.costs.hop_seconds == pytest.approx(sum(PROXY_PRIOR[1:]) + sum(APP_PRIOR[1:]), rel=0.05)


def test_the_error_that_it_states_is_the_one_it_makes() -> None:
    """A hundred windows with ticks of noise: the truth is within two of their sigmas as often as not, and then some."""
    truth = INBOUND + OUTBOUND
    errors = []
    for seed in range(100):
        found = fit_cpu(window(noise=0.02, seed=seed))
        assert found is not None
        cost = found.costs.proxy_inbound + found.costs.proxy_outbound
        errors.append(abs(math.log(cost / truth)) / found.sigma)
    assert sum(error < 2.0 for error in errors) >= 90


def test_a_busy_machine_is_a_limit() -> None:
    found = fit_cpu(window(machine=40.0))
    assert found is not None
    assert any("busy" in limit for limit in found.limits())


def test_draws_surround_the_estimate_and_depend_on_the_replication_alone() -> None:
    found = fit_cpu(window())
    assert found is not None
    drawn = [found.draw(Streams(1, replication)) for replication in range(40)]
    costs = [each.proxy_inbound for each in drawn]
    assert min(costs) < found.costs.proxy_inbound < max(costs)
    assert found.draw(Streams(1, 7)) == drawn[7]


@pytest.mark.parametrize("thin", [None, CpuWindow(2.0, 0.0, ()), CpuWindow(2.0, 20.0, ())])
def test_a_window_that_cannot_tell_says_nothing(thin: CpuWindow | None) -> None:
    assert fit_cpu(thin) is None


def test_few_requests_say_more_about_ticks_than_about_costs() -> None:
    few = CpuWindow(2.0, 20.0, (ProcessCpu("a-0/proxy", "proxy", 0.05, 40.0, 40.0),))
    assert fit_cpu(few) is None
