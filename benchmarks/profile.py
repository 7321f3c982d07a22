"""Where our proxy's time goes, by library: `perf record` on the saturated proxies, if perf is there and allowed.

By library, because CPython below 3.12 shows perf no function names, and because the question is what could be gained
in which language. py-spy answers for Python lines, but overweighs system calls.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import total_usage
from benchmarks.measure import Cores, chain
from benchmarks.peers.peer import Peer
from benchmarks.rows import Row

SECONDS = 4.0
GROUPS = {
    "[kernel": "kernel (mostly TCP)",
    "libpython": "CPython",
    "python3": "CPython",
    "parser.": "httptools",
    "_hazmat": "jh2",
    "loop.": "uvloop",
    "libssl": "OpenSSL",
    "libcrypto": "OpenSSL",
    "_ssl.": "OpenSSL",
}


def profile(peer: Peer, row: Row, key: str, cores: Cores) -> str:
    """The shares in one line; empty where perf cannot look. Raises StartFailed, LoadFailed, NoGenerator."""
    perf = shutil.which("perf")
    if perf is None:
        return ""
    with chain(peer, row, cores) as running, TemporaryDirectory(prefix="gameday-bench-") as directory:
        row.load(running.entry, row.connections, 1.0, cores.load)
        data = str(Path(directory) / "perf.data")
        pids = ",".join(str(pid) for proxy in running.proxies for pid in proxy.pids())
        command = [perf, "record", "-e", "cpu-clock", "-F", "1999", "-o", data, "-p", pids, "--", "sleep", str(SECONDS)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recorder:
            before = total_usage(running.proxies)
            load = row.load(running.entry, row.connections, SECONDS, cores.load)
            cpu = total_usage(running.proxies) - before
        if recorder.returncode != 0:
            return ""
        command = [perf, "report", "-i", data, "--sort", "dso", "--stdio", "--quiet"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    microseconds = cpu.total / load.requests * 1e6
    parts = [f"{name} {share:.0%}" for name, share in by_library(shown).items()]
    return f"({key}) {microseconds:.1f} µs while watched: {', '.join(parts)}."


def by_library(text: str) -> dict[str, float]:
    """Shares of one, largest first, from `perf report --sort dso`."""
    shares: defaultdict[str, float] = defaultdict(float)
    for line in text.splitlines():
        share, _, library = line.strip().partition("%")
        if library:
            name = next((group for part, group in GROUPS.items() if library.strip().startswith(part)), "other")
            shares[name] += float(share) / 100
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
