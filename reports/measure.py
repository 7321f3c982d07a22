"""What was measured, in exactly the quantities that the twin predicts (defined in `sim.results`).

Everything a user feels is taken from the client's own record of each request, timed from the intended send; what the
mesh did (attempts per request) from the proxies' counters. Comparing a forecast with Linkerd's latency histogram
instead would cost 14 % of error at the p99 even for a perfect model: its buckets are that coarse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reports.counters import attempts_by_service, handshake_failures
from reports.mesh_metrics import FIGURES as MESH_FIGURES
from reports.recovery import course, fault_begin, fault_end
from reports.run import Run, Window, with_all
from reports.store import RunStore
from scenarios.model import Scenario, SloSpec
from scenarios.quantiles import percentile
from scenarios.slo import Counts, budget_spent
from sim.replication.course import planned, read_course
from sim.replication.mesh_figures import FIGURES, MESH

Key = tuple[str, str, str]
PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def measure(store: RunStore, scenario: Scenario, windows: Mapping[str, Sequence[float]]) -> dict[Key, float]:
    """(quantity, subject, window) → value, for each window given and for `all` of inject and recover.

    A quantity without a value (no request, no answer, no caller) is left out.
    """
    return measure_run(Run(store), scenario, windows)


def measure_run(run: Run, scenario: Scenario, windows: Mapping[str, Sequence[float]]) -> dict[Key, float]:
    """`measure`, for one who has the run open.

    Beside the twin's quantities it has what expectations may claim: `handshake_failures` of each service and of all
    (subject ""), `recovery_seconds` of each SLO, and the request quantities of all requests together (subject "").
    """
    measured: dict[Key, float] = {}
    everything = SloSpec("", None, None, None, objective=0.0)
    courses = {slo.name: course(run, slo) for slo in scenario.slos}
    measured.update(_courses(run, scenario))
    for name, bounds in with_all(windows).items():
        window = (bounds[0], bounds[1])
        for slo in (*scenario.slos, everything):
            for quantity, value in slo_quantities(run, slo, window, scenario.load.timeout).items():
                measured[quantity, slo.name, name] = value
            recovery = courses[slo.name].recovery_seconds if slo.name in courses else None
            if recovery is not None:
                measured["recovery_seconds", slo.name, name] = recovery
        for service, value in attempts_by_service(run.metrics, scenario, window).items():
            measured["attempts_per_request", service, name] = value
        for figure in FIGURES:
            value_and_detail = MESH_FIGURES[figure](run, window)
            if value_and_detail is not None:
                measured[figure, MESH, name] = value_and_detail[0]
        for subject in ("", *(service.name for service in scenario.app.services)):
            failures = handshake_failures(run.metrics, window, subject or None)
            if failures is not None:
                measured["handshake_failures", subject, name] = failures
    return measured


def _courses(run: Run, scenario: Scenario) -> dict[Key, float]:
    """Pages, recovery and metastability, read as the twin's are (`sim.replication.course`); of runs with all faults."""
    plan, injected, reverted = planned(scenario.faults), fault_begin(run), fault_end(run)
    found: dict[Key, float] = {}
    if plan is None or injected is None or reverted is None or "recover" not in run.windows:
        return found
    end = scenario.phases.inject + scenario.phases.recover
    for slo in scenario.slos:
        read = read_course(run.meter(slo), slo, plan, (injected, reverted), end, scenario.load.timeout)
        found.update(((quantity, slo.name, window), value) for (quantity, window), value in read.items())
    return found


def slo_quantities(run: Run, slo: SloSpec, window: Window, timeout: float) -> dict[str, float]:
    """success_rate, p50, p95, p99 and budget_spent of one SLO over one window."""
    requests = run.requests(window, slo.route)
    if not requests:
        return {}
    good = sum(request.good(slo.threshold, timeout) for request in requests)
    found = {"success_rate": good / len(requests)}
    latencies = sorted(request.latency for request in requests if request.latency is not None)
    for name, share in PERCENTILES.items():
        value = percentile(latencies, share)
        if value is not None:
            found[name] = value
    if slo.name:
        spent = budget_spent(Counts(good, len(requests)), slo.objective)
        if spent is not None:
            found["budget_spent"] = spent
    return found
