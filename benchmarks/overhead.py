"""What a whole game day cost beyond its subject: read from a finished run's store.

The store knows the world's processes (apps, proxies, control plane); the runner, locust and chaostoolkit are not in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reports.store import RunStore, Usage

MEASURED = ("baseline", "inject", "recover")
"""Windows in which the system is measured; all else is the harness's own time."""


def cpu_by_group(usages: Iterable[Usage]) -> dict[str, float]:
    """CPU seconds of each kind of process: all `…/proxy` together, all `…/app` together, every other by its name.

    Counters are per process and start anew when one is restarted.
    """
    last: dict[str, float] = {}
    groups: defaultdict[str, float] = defaultdict(float)
    for usage in sorted(usages, key=lambda u: u.at):
        before = last.get(usage.process, 0.0)
        grown = usage.cpu_seconds - before if usage.cpu_seconds >= before else usage.cpu_seconds
        groups[usage.process.rpartition("/")[2]] += grown
        last[usage.process] = usage.cpu_seconds
    return dict(groups)


def untimed_seconds(meta: Mapping[str, Any]) -> float:
    """Of the whole run, what lies outside the measured windows."""
    measured = sum(end - start for name, (start, end) in meta["windows"].items() if name in MEASURED)
    return float(meta["finished_at"] - meta["started_at"] - measured)


def overhead(path: Path) -> str:
    """Markdown. `path`: a run's folder or its run.sqlite.

    Raises:
        ValueError: the run did not finish.
    """
    with RunStore(path / "run.sqlite" if path.is_dir() else path) as store:
        meta, groups = store.meta(), cpu_by_group(store.usage())
        requests = sum(1 for _ in store.requests())
        proxies = {u.process: u.rss_bytes for u in store.usage() if u.process.endswith("/proxy") and u.rss_bytes}
    if "finished_at" not in meta:
        raise ValueError(f"{path}: this run did not finish")
    took, untimed = meta["finished_at"] - meta["started_at"], untimed_seconds(meta)
    others = [f"{name} {end - start:.1f}" for name, (start, end) in meta["windows"].items() if name not in MEASURED]
    lines = [
        f"Run `{meta['run_id']}`: {took:.0f} s, of which {untimed:.1f} s outside the measured windows"
        f" ({', '.join(others)}, the rest around them); {requests} requests from the load.",
        "",
        "| processes | CPU s | cores, on average | CPU ms per request at the client |",
        "|---|--:|--:|--:|",
    ]
    for name, cpu in sorted(groups.items(), key=lambda item: -item[1]):
        lines.append(f"| {name} | {cpu:.1f} | {cpu / took:.3f} | {cpu / max(requests, 1) * 1e3:.2f} |")
    if proxies:
        sizes = sorted(size / 1e6 for size in proxies.values())
        lines += ["", f"{len(sizes)} proxies, RSS at the end {sizes[0]:.0f} to {sizes[-1]:.0f} MB."]
    return "\n".join(lines)
