"""Figures → Markdown, for the terminal and for docs/performance.md (between its two markers; the prose stays)."""

from __future__ import annotations

import os
import platform
import ssl
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.load import generator
from benchmarks.measure import CONNECTIONS, LOUD, Effort, Sample, median
from benchmarks.peers import PEERS

BEGIN, END = "<!-- figures: python -m benchmarks --write -->", "<!-- end of figures -->"
FULL = 0.9
"""Share of the core under which the proxy was not the limit."""
TITLES = {
    1: "One hop, HTTP/1.1, plaintext",
    2: "Two hops, mTLS (TLS 1.3) between the two proxies, which share the core",
}
Outcome = list[Sample] | str
"""Of one peer: its repetitions, or why there are none."""


def machine(effort: Effort) -> str:
    """How and on what the figures were made."""
    model = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    versions = [peer.version() for peer in PEERS if peer.name == peer.name.partition(",")[0]]
    ours = ", ".join(f"{name} {version(name)}" for name in ("uvloop", "httptools"))
    programs = "; ".join(version for version in versions if version)
    return (
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}; {model}, {os.cpu_count()} cores, Linux"
        f" {platform.release()}; {programs}; {ours}, {ssl.OPENSSL_VERSION}. Load: {generator()},"
        f" {CONNECTIONS} connections for {effort.saturated_seconds:.0f} s, then 1 for {effort.latency_seconds:.0f} s;"
        f" medians of {effort.repetitions}."
    )


def table(hops: int, outcomes: Mapping[str, Outcome]) -> str:
    """One row a peer; ratios are of CPU per request."""
    middles = {name: median(outcome) for name, outcome in outcomes.items() if not isinstance(outcome, str)}
    lines = [
        f"### {TITLES[hops]}",
        "",
        "| proxy | CPU µs/request (range) | kernel | × nginx | × Envoy | requests/s, one core | added p50 / p99 µs"
        " | RSS idle → loaded MB | start ms |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            lines.append(f"| {name} | {outcome} |" + " |" * 7)
            continue
        m = middles[name]
        low, high = min(s.cpu_us for s in outcome), max(s.cpu_us for s in outcome)
        marks = ("¹" if m.core_share < FULL else "") + ("²" if m.foreign > LOUD else "")
        lines.append(
            f"| {name}{marks} | {m.cpu_us:.1f} ({low:.1f}–{high:.1f}) | {m.kernel_share:.0%}"
            f" | {ratio(middles, name, 'nginx')} | {ratio(middles, name, 'Envoy')} | {m.requests_per_second:,.0f}"
            f" | {m.added_p50_us:+.0f} / {m.added_p99_us:+.0f} | {m.idle_mb:.0f} → {m.loaded_mb:.0f}"
            f" | {m.start_ms:.0f} |"
        )
    if any(m.core_share < FULL for m in middles.values()):
        limit = f"¹ it used less than {FULL:.0%} of the core: load, app or others were the limit; it can do more."
        lines += ["", limit]
    if any(m.foreign > LOUD for m in middles.values()):
        worst = max(m.foreign for m in middles.values())
        lines += [
            "",
            f"² disturbed: others took up to {worst:.0%} of a core in spite of repetition; do not quote.",
        ]
    return "\n".join(lines)


def ratio(middles: Mapping[str, Sample], name: str, peer: str) -> str:
    """CPU per request of `name` over that of `peer`."""
    return f"{middles[name].cpu_us / middles[peer].cpu_us:.2f}" if name in middles and peer in middles else "–"


def reading(hops: int, outcomes: Mapping[str, Outcome]) -> str:
    """The table in one sentence."""
    middles = {name: median(outcome) for name, outcome in outcomes.items() if not isinstance(outcome, str)}
    if "gameday" not in middles:
        return ""
    ours = middles["gameday"]
    others = [f"{ratio(middles, 'gameday', name)}× {name}" for name in middles if name != "gameday"]
    kernel = ours.cpu_us * ours.kernel_share
    return (
        f"Our proxy: {ours.cpu_us:.1f} µs of CPU a request{' for both hops' if hops == 2 else ''} ({kernel:.1f} in the"
        f" kernel, {ours.cpu_us - kernel:.1f} in user space)" + (f"; {', '.join(others)}." if others else ".")
    )


def insert(page: str, figures: str) -> str:
    """The page with new figures between its markers; at its end where it has none."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        head, tail = page.rstrip() + "\n\n", "\n"
    return f"{head}{BEGIN}\n\n{figures.strip()}\n\n{END}{tail}"
