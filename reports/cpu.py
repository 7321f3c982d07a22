"""Who used the CPU of a run: by process, and as the twin's calibration wants it."""

from __future__ import annotations

from collections import defaultdict

from reports.run import Run
from reports.series import LOAD_SERVICE, pod_of, service_of
from reports.store import LOAD_PROCESS, MACHINE_PROCESS
from scenarios.model import Scenario
from sim.observation import CpuWindow, ProcessCpu


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
