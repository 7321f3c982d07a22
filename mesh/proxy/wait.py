"""`python -m mesh.proxy.wait [--timeout 2m] [--port 4191]`: returns once the proxy in this pod is ready.

linkerd-await's part: the sidecar's postStart hook where there are no native sidecars, so that the app's containers
start when their traffic has somewhere to go. It imports nothing of the proxy: it must be quick.

Exit codes: 0 ready, 1 not ready in time, 2 wrong flags.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Callable, Sequence

from mesh.api.durations import InvalidDuration, parse_duration

LOOK_SECONDS = 0.1
ANSWER_SECONDS = 1.0


def is_ready(port: int) -> bool:
    """Whether `GET /ready` on that port of loopback answers 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as server:
            server.sendall(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            return server.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False  # not listening yet, or gone


def wait(
    ready: Callable[[], bool],
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Looks until it is ready, for `timeout` seconds."""
    deadline = clock() + timeout
    while not ready():
        if clock() >= deadline:
            return False
        sleep(LOOK_SECONDS)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    flags = argparse.ArgumentParser(prog="python -m mesh.proxy.wait", description="Waits for the proxy to be ready.")
    flags.add_argument("--timeout", default="2m", metavar="DURATION")
    flags.add_argument("--port", type=int, default=4191)
    given = flags.parse_args(arguments)
    try:
        timeout = parse_duration(given.timeout)
    except InvalidDuration as error:
        flags.error(f"--timeout: {error}")
    if wait(lambda: is_ready(given.port), timeout):
        return 0
    print(f"mesh.proxy.wait: the proxy is not ready after {given.timeout}; see its log", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
