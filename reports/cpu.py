"""Who used the CPU of a run: by process, and as the twin's calibration wants it."""

from __future__ import annotations

from collections import defaultdict

from reports.run import Run
from reports.series import LOAD_SERVICE, pod_of, service_of
from reports.store import LOAD_PROCESS, MACHINE_PROCESS
from scenarios.model import Scenario
from sim.observation import CpuWindow, ProcessCpu

FIRST_LOOK_SECONDS = 0.5
"""From the first process that is looked at to the last."""


def cpu_by_process(run: Run, window: tuple[float, float]) -> dict[str, float]:
    """CPU seconds used in the window by process; a figure that falls is a new process's, counting from 0."""
    used: dict[str, float] = defaultdict(float)
    last: dict[str, float] = {}
    for usage in run.usage:
        if usage.at > window[1]:
            break
        before = last.get(usage.process)
        last[usage.process] = usage.cpu_seconds
        if before is None or usage.at < window[0]:
            continue
        used[usage.process] += usage.cpu_seconds - before if usage.cpu_seconds >= before else usage.cpu_seconds
    return dict(used)


def start_costs(run: Run) -> dict[str, float]:
    """CPU seconds that processes had used at the run's first look, the mean of replicas: `cart/app`, `control/policy`.

    That look is taken when all is ready, and no process has served a request yet. The load generator is left out.
    """
    found: dict[str, list[float]] = defaultdict(list)
    seen: set[str] = set()
    for usage in run.usage:
        if usage.at > run.usage[0].at + FIRST_LOOK_SECONDS:
            break
        if usage.process in seen or usage.process in (LOAD_PROCESS, MACHINE_PROCESS):
            continue
        seen.add(usage.process)
        found[_replicas_of(usage.process)].append(usage.cpu_seconds)
    return {process: sum(each) / len(each) for process, each in found.items()}


def _replicas_of(process: str) -> str:
    """`cart-1/proxy` → `cart/proxy`; of the control plane there is one of each."""
    pod, _, role = process.partition("/")
    return process if pod == "control" else f"{service_of(process)}/{role}"


def cpu_window(run: Run, scenario: Scenario, start: float, end: float) -> CpuWindow | None:
    """Who used the machine's CPU; None where the run does not say how many cores all processes share."""
    cores = run.meta.get("cores")
    used = cpu_by_process(run, (start, end))
    if not cores or not used:
        return None
    inbound = run.metrics.increase_by("request_total", start, end, "@process", direction="inbound")
    outbound = run.metrics.increase_by("request_total", start, end, "@process", direction="outbound")
    opaque = {s.name for s in scenario.app.services if s.work != "wait" or s.command is not None}
    machine = used.pop(MACHINE_PROCESS, None)
    found: list[ProcessCpu] = []
    for name, seconds in sorted(used.items()):
        proxy = f"{pod_of(name)}/proxy"
        if name == LOAD_PROCESS:
            sent = sum(n for process, n in outbound.items() if service_of(process) == LOAD_SERVICE)
            found.append(ProcessCpu(name, "client", seconds, outbound=sent))
        elif name == proxy:
            found.append(ProcessCpu(name, "proxy", seconds, inbound.get(name, 0.0), outbound.get(name, 0.0)))
        elif name.endswith("/app") and proxy in used:
            burns = service_of(name) in opaque
            found.append(
                ProcessCpu(name, "app", seconds, inbound.get(proxy, 0.0), outbound.get(proxy, 0.0), burns=burns)
            )
        else:
            found.append(ProcessCpu(name, "other", seconds))
    return CpuWindow(float(cores), end - start, tuple(found), machine)
