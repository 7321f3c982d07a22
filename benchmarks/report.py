"""Figures → Markdown, for the terminal and for docs/performance.md (between its two markers; the prose stays)."""

from __future__ import annotations

import os
import platform
import ssl
import time
from collections.abc import Mapping
from importlib.metadata import version as version_of
from pathlib import Path

from benchmarks.measure import LOUD, Effort, Sample, median
from benchmarks.mesh import FEATURES
from benchmarks.peers.catalogue import OURS, PEERS
from benchmarks.rows import Goal, Row

BEGIN, END = "<!-- figures: python -m benchmarks --write -->", "<!-- end of figures -->"
FULL = 0.9
"""Share of the core under which the proxy was not the limit."""
COMPARED = (OURS, "nginx", "HAProxy", "Envoy")
"""The header's order; what else is compared stands in its own row."""
Outcome = list[Sample] | str
"""Of one peer: its repetitions, or why there are none."""


def machine(effort: Effort) -> str:
    """How and on what the figures were made."""
    model = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    programs = "; ".join(dict.fromkeys(version for peer in PEERS if (version := peer.version())))
    ours = ", ".join(f"{name} {version_of(name)}" for name in ("uvloop", "httptools", "jh2"))
    return (
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}; {model}, {os.cpu_count()} cores, Linux"
        f" {platform.release()}; {programs}; {ours}, {ssl.OPENSSL_VERSION}. Load {effort.saturated_seconds:.0f} s"
        f" saturated, then {effort.latency_seconds:.0f} s at one connection; medians of {effort.repetitions}."
        f"\n\nOn in ours: {FEATURES}."
    )


def table(row: Row, key: str, outcomes: Mapping[str, Outcome]) -> str:
    """One line a peer; ratios are of CPU per request."""
    middles = medians(outcomes)
    lines = [
        f"### ({key}) {row.title}",
        "",
        "| proxy | CPU µs/request (range) | kernel | × nginx | × HAProxy | × Envoy | requests/s | added p50 / p99 µs"
        " | RSS idle → loaded MB | start ms |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            lines.append(f"| {name} | {outcome} |" + " |" * 8)
            continue
        m = middles[name]
        low, high = min(s.cpu_us for s in outcome), max(s.cpu_us for s in outcome)
        marks = ("¹" if m.core_share < FULL and not row.fixed_rate else "") + ("²" if m.foreign > LOUD else "")
        ratios = " | ".join(ratio(middles, name, peer) for peer in COMPARED[1:])
        lines.append(
            f"| {name}{marks} | {m.cpu_us:.1f} ({low:.1f}–{high:.1f}) | {m.kernel_share:.0%} | {ratios}"
            f" | {m.requests_per_second:,.0f} | {m.added_p50_us:+.0f} / {m.added_p99_us:+.0f}"
            f" | {m.idle_mb:.0f} → {m.loaded_mb:.0f} | {m.start_ms:.0f} |"
        )
    notes = [row.note] if row.note else []
    if not row.fixed_rate and any(m.core_share < FULL for m in middles.values()):
        notes.append(f"¹ It used less than {FULL:.0%} of the core: load, app or others were the limit; it can do more.")
    if loud := [m.foreign for m in middles.values() if m.foreign > LOUD]:
        notes.append(f"² Disturbed: others took up to {max(loud):.0%} of a core in spite of repetition; do not quote.")
    return "\n".join([*lines, *(["", *notes] if notes else []), "", verdict(row, middles)])


def medians(outcomes: Mapping[str, Outcome]) -> dict[str, Sample]:
    return {name: median(outcome) for name, outcome in outcomes.items() if not isinstance(outcome, str)}


def ratio(middles: Mapping[str, Sample], name: str, peer: str, figure: str = "cpu_us") -> str:
    """A figure of `name` over that of `peer`."""
    if name not in middles or peer not in middles or not getattr(middles[peer], figure):
        return "–"
    return f"{getattr(middles[name], figure) / getattr(middles[peer], figure):.2f}"


def verdict(row: Row, middles: Mapping[str, Sample]) -> str:
    """Ours beside the others in one sentence, and whether the row's goal is met."""
    if OURS not in middles:
        return f"**Goal: {_goal(row.goal)}: missed, there is no figure.**" if row.goal else "No goal."
    ours = middles[OURS]
    kernel = ours.cpu_us * ours.kernel_share
    others = ", ".join(f"{ratio(middles, OURS, name)}× {name}" for name in middles if name != OURS)
    text = f"Ours: {ours.cpu_us:.1f} µs of CPU ({kernel:.1f} kernel, {ours.cpu_us - kernel:.1f} user)"
    text += f"; {others}." if others else "."
    if row.policed:
        at_work = f"AuthorizationPolicy at work ({ours.authorized:,.0f} let in)" if ours.authorized else ""
        text += f" {at_work or 'AuthorizationPolicy not there yet'}."
    if row.goal is None:
        return f"{text} No goal."
    figure, there = row.goal.figure, [peer for peer in row.goal.peers if peer in middles]
    if not there:
        return f"{text} **Goal: {_goal(row.goal)}: not known, it is not there.**"
    met = all(getattr(ours, figure) <= row.goal.factor * getattr(middles[peer], figure) for peer in there)
    found = ", ".join(f"{ratio(middles, OURS, peer, figure)}× {peer}" for peer in there)
    return f"{text} **Goal: {_goal(row.goal)}: {'met' if met else 'missed'} ({found}).**"


def _goal(goal: Goal) -> str:
    word = {"cpu_us": "CPU", "added_p99_us": "added p99"}[goal.figure]
    return f"{word} ≤ {goal.factor}× " + " and ".join(goal.peers)


def insert(page: str, figures: str) -> str:
    """The page with new figures between its markers; at its end where it has none."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        head, tail = page.rstrip() + "\n\n", "\n"
    return f"{head}{BEGIN}\n\n{figures.strip()}\n\n{END}{tail}"
