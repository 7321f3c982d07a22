"""Can this machine run the embedded world, and does anything of earlier runs lie about?"""

from __future__ import annotations

import os
import resource
import shutil
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from chaos.processes import is_alive
from chaos.world import FILE, read_world
from gameday.worlds.local.addresses import has_whole_loopback
from sim.cores import count_cores

MIN_CORES, MIN_MEMORY_BYTES, MIN_FILES, MIN_DISK_BYTES = 2, 3 * 1024**3, 1024, 500 * 1024**2

Check = tuple[str, bool, str, str]
"""(name, whether it is well, what was found, what to do where it is not)."""


def checks() -> Iterator[Check]:
    """Each check as it is made."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield "Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer"
    yield "TLS 1.3", ssl.HAS_TLSv1_3, ssl.OPENSSL_VERSION, "use a Python that is linked with OpenSSL 1.1.1 or newer"
    cores = count_cores()
    yield (
        "cores",
        cores >= MIN_CORES,
        f"{cores}",
        f"with fewer than {MIN_CORES} cores the load and the mesh disturb each other; lower load.rate with --set",
    )
    memory = _free_memory()
    if memory is not None:
        yield (
            "memory",
            memory >= MIN_MEMORY_BYTES,
            f"{memory / 1024**3:.1f} GiB free",
            "a game day of the retail app takes about 2 GiB; close something, or run a smaller app",
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield "open files", soft >= MIN_FILES, f"limit {soft} (hard {hard})", f"ulimit -n {max(MIN_FILES, 4096)}"
    disk = shutil.disk_usage(Path.cwd()).free
    yield "disk", disk >= MIN_DISK_BYTES, f"{disk / 1024**3:.1f} GiB free here", "a run writes up to 100 MiB; make room"
    runs = Path.cwd() / "runs"
    takes_runs = (runs.is_dir() or not runs.exists()) and os.access(runs if runs.exists() else Path.cwd(), os.W_OK)
    yield (
        "runs folder",
        takes_runs,
        str(runs),
        "no run can be written there; work in another folder, or name one with --out",
    )
    loopback = has_whole_loopback()
    detail = (
        "pods get addresses of their own" if loopback else "127.x.y.z cannot be bound; pods share 127.0.0.1 with ports"
    )
    yield "loopback", True, detail, ""
    stale = _stale_runs(Path.cwd() / "runs")
    yield (
        "left-over runs",
        not stale,
        ", ".join(stale) + " still run without their runner" if stale else "none",
        "gameday recover",
    )


def _stale_runs(runs: Path) -> list[str]:
    """Runs below `runs` whose supervisor lives and whose runner does not."""
    found = []
    for path in sorted(runs.glob(f"*/{FILE}")):
        try:
            state = read_world(path.parent)
        except (OSError, msgspec.DecodeError):
            continue  # another program's file, or one of an older version: nothing that `recover` could end
        if state.supervisor is None:
            continue  # of a run on Kubernetes
        orphan = not is_alive(state.runner.pid, state.runner.start)
        if orphan and is_alive(state.supervisor.pid, state.supervisor.start):
            found.append(path.parent.name)
    return found


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
