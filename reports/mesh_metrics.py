"""The guide's M1–M10 over one window, from scraped series and process usage.

One function a figure, registered in `FIGURES`; each answers (value, detail for the reader), or None where the run has
nothing to say. The figures describe the mesh from the inside; what users felt is in the SLOs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from reports.counters import handshake_failures
from reports.cpu import cpu_by_process
from reports.guide import METRICS, THROUGHPUT_SHARE, GuideMetric
from reports.notation import count, percent
from reports.run import Run, Window
from reports.series import EXPIRES, LOAD_SERVICE, REFRESHED, cumulative_buckets, pod_of, service_of
from scenarios.quantiles import histogram_quantile

STATUSES = "outbound_http_route_request_statuses_total"


@dataclass(frozen=True, slots=True)
class Figure:
    """One of M1–M10 as measured."""

    metric: GuideMetric
    measured: float | None
    baseline: float | None
    target: float | None
    held: bool | None
    detail: str


Found = tuple[float, str] | None


def figures(run: Run, window: Window, baseline: Window | None) -> list[Figure]:
    """M1–M10 over the window, the same over the baseline beside it."""
    found = []
    for metric in METRICS:
        now = FIGURES[metric.id](run, window)
        before = FIGURES[metric.id](run, baseline) if baseline is not None else None
        target = metric.target
        if metric.id == "M5":
            target = before[0] * THROUGHPUT_SHARE if before is not None else None
        met = metric.holds(now[0], target) if now is not None and target is not None else None
        found.append(
            Figure(metric, now[0] if now else None, before[0] if before else None, target, met, now[1] if now else "")
        )
    return found


def success_rate(run: Run, window: Window) -> Found:
    total = failed = 0.0
    errors: dict[str, float] = defaultdict(float)
    for series in run.metrics.series(STATUSES):
        rise = run.metrics.rise(series, *window)
        total += rise
        status, error = series.labels.get("http_status", ""), series.labels.get("error", "")
        if status.startswith("5") or (error and not status):
            failed += rise
            errors[error or status] += rise
    if not total:
        return None
    worst = max(errors, key=lambda name: (errors[name], name), default="")
    detail = f"{count(failed)} of {count(total)} failed" + (
        f", most with {worst}" if errors and errors[worst] > 0 else ""
    )
    return 1.0 - failed / total, detail


def latency_p95(run: Run, window: Window) -> Found:
    matching = list(run.metrics.series("response_latency_ms_bucket", direction="outbound"))
    entry = [series for series in matching if service_of(series.process) == LOAD_SERVICE]
    rises = [(series, run.metrics.rise(series, *window)) for series in entry or matching]
    value = histogram_quantile(0.95, cumulative_buckets(rises))
    where = "where load enters" if entry else "over all client proxies"
    return (value / 1_000.0, where) if value is not None else None


def handshakes(run: Run, window: Window) -> Found:
    failures = handshake_failures(run.metrics, window)
    if failures is None:
        return None
    reasons = run.metrics.increase_by("tls_handshake_failures_total", *window, "reason")
    told = [f"{count:.0f} {reason.replace('_', ' ')}" for reason, count in sorted(reasons.items()) if count]
    done = run.metrics.increase("tls_handshakes_total", *window)
    return failures, (", ".join(told) + "; " if told else "") + f"{done:.0f} handshakes counted"


def retry_rate(run: Run, window: Window) -> Found:
    meant = run.metrics.increase_by(STATUSES, *window, "parent_name")
    total = sum(meant.values())
    if not total:
        return None
    retries = retries_by_service(run, window)
    worst = max(meant, key=lambda name: (retries.get(name, 0.0) / meant[name] if meant[name] else 0.0, name))
    detail = ""
    if retries.get(worst):
        detail = f"most to {worst}: {count(retries[worst])} retries of {count(meant[worst])} requests"
    return sum(retries.values()) / total, detail


def retries_by_service(run: Run, window: Window) -> dict[str, float]:
    """Retries to each service: of policy routes, and of ServiceProfile routes, which count them under another name."""
    found = run.metrics.increase_by("outbound_http_route_retry_requests_total", *window, "parent_name")
    for authority, rise in run.metrics.increase_by("route_retryable_total", *window, "dst").items():
        service = authority.partition(".")[0]
        found[service] = found.get(service, 0.0) + rise
    return found


def throughput(run: Run, window: Window) -> Found:
    seconds = window[1] - window[0]
    arrived = run.metrics.increase_by("request_total", *window, "@service", direction="inbound")
    if seconds <= 0 or not sum(arrived.values()):
        return None
    parts = [f"{service} {count / seconds:.1f}" for service, count in sorted(arrived.items()) if count]
    return sum(arrived.values()) / seconds, ", ".join(parts)


def proxy_cpu(run: Run, window: Window) -> Found:
    used = cpu_by_process(run, window)
    seconds = window[1] - window[0]
    shares: dict[str, float] = {}
    for process, proxy in used.items():
        pod, _, part = process.partition("/")
        app = used.get(f"{pod}/app")
        if part == "proxy" and app is not None and proxy + app > 0:
            shares[pod] = proxy / (proxy + app)
    if not shares or seconds <= 0:
        return None
    worst = max(shares, key=lambda pod: (shares[pod], pod))
    cores = sorted(value / seconds for process, value in used.items() if process.endswith("/proxy"))
    return shares[worst], f"{worst}; proxies use {percent(cores[0])} to {percent(cores[-1])} of a core"


def proxy_memory(run: Run, window: Window) -> Found:
    peaks: dict[str, int] = {}
    for usage in run.usage:
        if usage.process.endswith("/proxy") and window[0] <= usage.at <= window[1]:
            peaks[usage.process] = max(usage.rss_bytes, peaks.get(usage.process, 0))
    if not peaks:
        return None
    worst = max(peaks, key=lambda process: (peaks[process], process))
    mean = sum(peaks.values()) / len(peaks)
    return float(peaks[worst]), f"{pod_of(worst)}; mean of {len(peaks)} proxies {mean / 1e6:.1f} MB"


def propagation(run: Run, window: Window) -> Found:
    count = run.metrics.increase("control_update_latency_seconds_count", *window)
    if not count:
        return None
    total = run.metrics.increase("control_update_latency_seconds_sum", *window)
    return total / count, f"{count:.0f} updates applied"


def certificate_margin(run: Run, window: Window) -> Found:
    if run.scenario is None:
        return None
    lifetime = run.scenario.identity.leaf_lifetime
    lowest: tuple[float, str] | None = None
    for series in run.metrics.series(EXPIRES, process="proxy"):
        # Life left falls between samples, so it is lowest just before each renewal and at the window's end.
        for at, next_at in zip(series.times, (*series.times[1:], float("inf")), strict=True):
            moment = min(next_at, window[1])
            expires = series.at(at)
            if moment >= window[0] and at <= window[1] and expires:
                left = expires - moment
                here = (left, pod_of(series.process))
                lowest = here if lowest is None else min(lowest, here)
    if lowest is None or lifetime <= 0:
        return None
    seconds, pod = lowest
    told = f"expired for {-seconds:.1f} s" if seconds < 0 else f"{seconds:.1f} s left at the least"
    return max(seconds, 0.0) / lifetime, f"{pod}: {told}; a leaf lives {lifetime:g} s"


def telemetry_drop(run: Run, window: Window) -> Found:
    due = run.metrics.increase("scrapes_total", *window)
    if not due:
        return None
    failed = run.metrics.increase("scrapes_failed_total", *window)
    return failed / due, f"{count(failed)} of {count(due)} scrapes"


FIGURES: dict[str, Callable[[Run, Window], Found]] = {
    "M1": success_rate,
    "M2": latency_p95,
    "M3": handshakes,
    "M4": retry_rate,
    "M5": throughput,
    "M6": proxy_cpu,
    "M7": proxy_memory,
    "M8": propagation,
    "M9": certificate_margin,
    "M10": telemetry_drop,
}


def certificates_renewed(run: Run, window: Window) -> int:
    """How often any proxy took a new certificate in the window."""
    return sum(
        1
        for series in run.metrics.series(REFRESHED, process="proxy")
        for at in series.times[1:]
        if window[0] < at <= window[1]
    )
