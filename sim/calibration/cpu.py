"""CPU of a hop, from what the processes used during the baseline.

    proxy    seconds = idle + inbound cost · requests from peers + outbound cost · requests of the app
    app      seconds = idle + serving cost · requests          + calling cost · calls
    client   seconds =        cost · requests

One least-squares fit over all proxies, and one over all apps that do not burn CPU themselves, with costs of zero at
least. Processes with different rates tell idle costs from those of a request, different shares of inbound and outbound
tell these two apart. A chain whose links all see the same has neither, so a weak prior stands behind each: what was
seen on the embedded world.

Everything else that the machine did in the window (idle costs, the control plane, the harness, other people's
programs) is background, and is taken to go on. It is known where the world counts the whole machine's time; without
that, only what its processes used is.

Rejected: costs for each service (a baseline of 20 s is 2,000 ticks of 10 ms on all processes together; retail's cart
has 8 of them). Background as the number of runnable processes, L = b + C(c, b)·ρ/(1 − ρ), which sharing evenly would
mean: at 81 % of two cores the chain's baseline median came out at 44 ms where 37 were measured. A process that wakes up
for a fraction of a millisecond goes before those that have had their share (CFS, EEVDF).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from sim.model.draws import Streams
from sim.model.parameters import CpuCosts
from sim.observation import CpuWindow, ProcessCpu

TICK_SECONDS = 0.01
"""What a kernel's account of a process is off by, at either end of a window."""
FEWEST_REQUESTS = 200
"""Through all proxies; fewer say more about ticks than about costs."""
PROXY_PRIOR = (0.002, 0.00035, 0.00035)
APP_PRIOR = (0.001, 0.00018, 0.0001)
"""Idle (cores), and seconds for each kind of request: four runs of retail on a 2-core Linux VM, interpreted."""
PRIOR_ERROR = 0.7
"""Of the prior's values, as a share of each: other machines are twice as fast, and compiled proxies too."""
SMALLEST_SIGMA, LARGEST_SIGMA = 0.05, 0.5
BACKGROUND_SIGMA = 0.25
"""Of the log of the background, from one window to the next; a guess: nothing in a baseline tells."""
BUSY = 0.7
"""Of all cores: from here on a process's share depends on how many others ask, which utilisation does not tell."""
WITHOUT = (
    "Nobody counted CPU, so processes do not slow each other down in the model: load that a fault adds fills queues"
    " and nothing else."
)


@dataclass(frozen=True, slots=True)
class CpuFit:
    """Costs and how well they are known."""

    costs: CpuCosts
    sigma: float
    """Of the log of all costs."""
    utilisation: float
    """Share of all cores in use during the window."""
    whole: bool
    """Whether the machine's own account was there, other people's programs included."""

    @property
    def hop_seconds(self) -> float:
        """CPU of one hop on all processes that it passes."""
        return self.costs.hop_seconds

    def draw(self, streams: Streams) -> CpuCosts:
        """Costs that the window does not contradict."""
        return self.costs.scaled(
            math.exp(self.sigma * streams.even_normal("cpu")),
            math.exp(BACKGROUND_SIGMA * streams.even_normal("background")),
        )

    def at_pace(self, ratio: float) -> CpuFit:
        """The same work on a machine that takes `ratio` times as long for it."""
        return replace(self, costs=self.costs.scaled(ratio, ratio), utilisation=self.utilisation * ratio)

    def summary(self) -> dict[str, float | str | None]:
        """For the reader of a forecast."""
        return {
            "cpu_seconds_per_hop": round(self.hop_seconds, 6),
            "cpu_seconds_per_request_at_client": round(self.costs.client, 6),
            "cpu_share_before_going_on": round(self.costs.ahead, 3),
            "cpu_background_cores": round(self.costs.background, 3),
            "cpu_utilisation": round(self.utilisation, 3),
        }

    def limits(self) -> list[str]:
        """What a reader of the forecast must know of it."""
        found: list[str] = []
        if not self.whole:
            found.append("Of the machine's CPU only what the run's own processes used is known to the model.")
        if self.utilisation > BUSY:
            found.append(
                f"The machine was {self.utilisation:.0%} busy during the baseline: how CPU is shared then depends on"
                " programs that the model does not know."
            )
        return found


def fit_cpu(window: CpuWindow | None) -> CpuFit | None:
    """The costs of a hop; None where the window cannot tell."""
    if window is None or window.seconds <= 0 or window.cores <= 0:
        return None
    proxies = [p for p in window.processes if p.kind == "proxy"]
    if sum(p.inbound + p.outbound for p in proxies) < FEWEST_REQUESTS:
        return None
    apps = [p for p in window.processes if p.kind == "app"]
    inbound, outbound, proxy_error = _costs(proxies, PROXY_PRIOR, window.seconds)
    serve, call, app_error = _costs([p for p in apps if not p.burns], APP_PRIOR, window.seconds)
    clients = [p for p in window.processes if p.kind == "client"]
    requests = sum(p.outbound for p in clients)
    client = sum(p.seconds for p in clients) / requests if requests else 0.0
    modelled = sum(inbound * p.inbound + outbound * p.outbound for p in proxies)
    modelled += sum(p.seconds if p.burns else serve * p.inbound + call * p.outbound for p in apps)
    modelled += client * requests
    known = sum(p.seconds for p in window.processes)
    used = window.machine_seconds if window.machine_seconds is not None else known
    costs = CpuCosts(
        cores=window.cores,
        background=max(0.0, used - modelled) / window.seconds,
        proxy_inbound=inbound,
        proxy_outbound=outbound,
        app_serve=serve,
        app_call=call,
        client=client,
    )
    sigma = min(LARGEST_SIGMA, max(SMALLEST_SIGMA, proxy_error, app_error))
    return CpuFit(costs, sigma, used / window.seconds / window.cores, window.machine_seconds is not None)


def _costs(
    processes: Sequence[ProcessCpu], prior: tuple[float, float, float], window_seconds: float
) -> tuple[float, float, float]:
    """(inbound, outbound, standard error relative to their sum), seconds a request."""
    served = sum(p.inbound + p.outbound for p in processes)
    if not served:
        return 0.0, 0.0, 0.0
    # A count's own noise grows with it: ticks are sampled, and requests differ.
    weights = np.asarray([1.0 / math.sqrt(TICK_SECONDS**2 + TICK_SECONDS * p.seconds) for p in processes])
    counts = np.asarray([[window_seconds, p.inbound, p.outbound] for p in processes], dtype=np.float64)
    seconds = np.asarray([p.seconds for p in processes], dtype=np.float64)
    rows = np.vstack([counts * weights[:, None], np.diag([1.0 / (PRIOR_ERROR * value) for value in prior])])
    aims = np.append(seconds * weights, np.full(3, 1.0 / PRIOR_ERROR))
    found = nonnegative(rows, aims)
    residual = rows[:-3] @ found - aims[:-3]
    spread = max(1.0, float((residual**2).sum()) / max(1, len(processes) - 3))
    covariance = spread * np.linalg.pinv(rows.T @ rows)
    total = float(found[1] + found[2])
    error = math.sqrt(max(0.0, float(covariance[1:, 1:].sum()))) / total if total > 0 else LARGEST_SIGMA
    return float(found[1]), float(found[2]), error


def nonnegative(rows: npt.NDArray[np.float64], aims: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The x ≥ 0 that makes |rows·x − aims| least, by trying every set of unknowns that may differ from 0."""
    unknowns = rows.shape[1]
    best, least = np.zeros(unknowns), float(aims @ aims)
    for size in range(1, unknowns + 1):
        for chosen in combinations(range(unknowns), size):
            part, *_ = np.linalg.lstsq(rows[:, chosen], aims, rcond=None)
            error = float(((rows[:, chosen] @ part - aims) ** 2).sum())
            if part.min() >= 0.0 and error < least:
                best, least = np.zeros(unknowns), error
                best[list(chosen)] = part
    return best
