"""Load on one port, each kind a small file that ends in a `Load`.

closed.py   HTTP/1.1, so many requests in flight at all times (wrk, or ours where it is missing)
grpc.py     HTTP/2, the same, with the headers and trailers of gRPC (h2load)
echo.py     opaque TCP: small messages that must come back
steady.py   HTTP/1.1 at a fixed rate, open loop: timed from the moment a request was due

Closed loop is right for "what does a request cost a saturated core?", and only for that. What users feel is asked
at a fixed rate.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.machine import pinned

AUTHORITY = "app.bench.svc.cluster.local:80"
"""In every request's Host header; our proxy routes by it, the peers pass it on."""
GRACE_SECONDS = 30.0
"""A generator that is still there so long after its time hangs."""


class LoadFailed(Exception):
    """The generator failed, or not every request was answered with 2xx."""


class NoGenerator(Exception):
    """The program that makes this load is not installed; the text says what to install."""


@dataclass(frozen=True, slots=True)
class Load:
    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    cpu_seconds: float
    """The generator's own."""


Generate = Callable[[int, int, float, int], Load]
"""(port, connections, seconds, cpu) → what came of it. Raises LoadFailed."""


def run_generator(argv: Sequence[str], seconds: float, cpu: int) -> tuple[str, float]:
    """Standard output and CPU seconds of a generator pinned to `cpu`. Raises LoadFailed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            preexec_fn=pinned(cpu),
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"{argv[0]} did not end in time") from None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise LoadFailed((done.stderr or done.stdout).strip()[-400:])
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values; nearest rank."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
