"""HTTP/2 that looks like gRPC: h2load sends what a unary call sends, nghttpd answers with a message and a trailer.

h2load checks statuses, not trailers; that trailers arrive is the business of tests. Percentiles come from its log,
which is written only where latency is asked for (one connection): half a million lines would cost the load core.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from benchmarks.load import AUTHORITY, Load, LoadFailed, NoGenerator, quantile, run_generator

STREAMS = 8
"""Calls in flight on each connection."""
METHOD = "/bench.Echo"
"""Path of the call, and the file that nghttpd serves for it."""
MESSAGE = bytes(5) + b"x" * 95
HEADERS = {
    ":authority": AUTHORITY,
    "content-type": "application/grpc",
    "te": "trailers",
    "user-agent": "grpc-python/1.85.1 grpc-c/53.0.0 (linux; chttp2)",
    "grpc-accept-encoding": "identity, deflate, gzip",
}


def grpc(port: int, connections: int, seconds: float, cpu: int) -> Load:
    """`STREAMS` calls in flight a connection; one alone where there is one connection. Raises LoadFailed."""
    h2load = shutil.which("h2load")
    if h2load is None:
        raise NoGenerator("h2load is not installed: apt-get install nghttp2-client")
    with tempfile.TemporaryDirectory(prefix="gameday-bench-") as name:
        body, log = Path(name) / "message", Path(name) / "log"
        body.write_bytes(MESSAGE)
        argv = [h2load, f"-c{connections}", f"-m{STREAMS if connections > 1 else 1}", "-D", f"{max(1, round(seconds))}"]
        argv += ["-d", str(body), *(part for pair in HEADERS.items() for part in ("-H", ": ".join(pair)))]
        if connections == 1:
            argv.append(f"--log-file={log}")
        output, cpu_seconds = run_generator([*argv, f"http://127.0.0.1:{port}{METHOD}"], seconds, cpu)
        times = [float(line.rpartition("\t")[2]) for line in log.read_text().splitlines()] if log.exists() else []
    requests, took = parse_h2load(output)
    ordered = sorted(times) or [0.0]
    return Load(requests, took, quantile(ordered, 0.5), quantile(ordered, 0.99), cpu_seconds)


def parse_h2load(text: str) -> tuple[int, float]:
    """(requests, seconds). Raises LoadFailed where not everything was answered with 2xx."""
    finished = re.search(r"finished in ([\d.]+)(us|ms|s)", text)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    if finished is None or counts is None or statuses is None:
        raise LoadFailed(f"h2load said: {text.strip()[-200:]}")
    succeeded, *wrong = map(int, counts.groups())
    if any(wrong) or any(map(int, statuses.groups()[1:])) or not succeeded:
        raise LoadFailed(f"{counts.group()}; {statuses.group()}")
    return succeeded, float(finished.group(1)) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[finished.group(2)]
