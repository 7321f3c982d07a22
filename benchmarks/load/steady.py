"""HTTP/1.1 at a fixed rate, open loop: Poisson arrivals, each timed from the moment it was due.

`python -m benchmarks.load.steady PORT RATE SECONDS`. A request that finds no idle connection opens one, up to
`MAX_CONNECTIONS`, and waits beyond that: its waiting counts. It waits with select(2), whose timeout has microseconds
where epoll's has milliseconds, and so sends on time. Every request ends answered, refused (with its status) or lost
(with the reason); nothing is sent twice.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field

from benchmarks.load import AUTHORITY, Load, LoadFailed, quantile, run_generator

RATE = 2_000
MAX_CONNECTIONS = 200
LAST_ANSWERS_SECONDS = 10.0
"""How long what is under way at the end may take."""
REQUEST = f"GET /steady HTTP/1.1\r\nHost: {AUTHORITY}\r\n\r\n".encode()


@dataclass(slots=True)
class Tally:
    sent: int = 0
    answered: int = 0
    """With 2xx."""
    wrong: dict[str, int] = field(default_factory=dict)
    """Everything else, by status or by how it was lost."""
    p50_us: float = 0.0
    p99_us: float = 0.0
    max_us: float = 0.0
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        return self.sent - self.answered


def command(port: int, rate: float, seconds: float) -> list[str]:
    return [sys.executable, "-m", "benchmarks.load.steady", str(port), str(rate), str(seconds)]


def steady(port: int, connections: int, seconds: float, cpu: int) -> Load:
    """`RATE` requests a second, whatever `connections` says. Raises LoadFailed where one was not answered with 2xx."""
    output, cpu_seconds = run_generator(command(port, RATE, seconds), seconds, cpu)
    tally = Tally(**json.loads(output))
    if tally.lost:
        raise LoadFailed(f"{tally.lost} of {tally.sent} requests lost: {tally.wrong}")
    return Load(tally.answered, tally.seconds, tally.p50_us, tally.p99_us, cpu_seconds)


class Generator:
    """One run of load."""

    def __init__(self, port: int, rate: float, seconds: float) -> None:
        self._address = ("127.0.0.1", port)
        self._rate, self._seconds = rate, seconds
        self._idle: list[socket.socket] = []
        self._busy: dict[socket.socket, tuple[float, bytes]] = {}
        """When the request on it was due, and what has come of the answer."""
        self._waiting: deque[float] = deque()
        self._latencies: list[float] = []
        self._wrong: Counter[str] = Counter()

    def run(self) -> Tally:
        arrivals = random.Random(1)  # the same arrivals for every peer
        began = time.perf_counter()
        due, end = began + arrivals.expovariate(self._rate), began + self._seconds
        sent = 0
        while True:
            now = time.perf_counter()
            while due <= now and due < end:
                self._waiting.append(due)
                due += arrivals.expovariate(self._rate)
                sent += 1
            while self._waiting and (self._idle or len(self._busy) < MAX_CONNECTIONS):
                self._send(self._waiting.popleft())
            if now >= end and (not (self._busy or self._waiting) or now > end + LAST_ANSWERS_SECONDS):
                break
            timeout = max(0.0, (due if due < end else now + 0.05) - time.perf_counter())
            for ready in select.select([*self._busy, *self._idle], [], [], timeout)[0]:
                self._receive(ready)
        self._wrong["no answer"] += len(self._busy) + len(self._waiting)
        for each in (*self._busy, *self._idle):
            each.close()
        ordered = sorted(self._latencies) or [0.0]
        p50, p99, most = (quantile(ordered, share) * 1e6 for share in (0.5, 0.99, 1.0))
        wrong = {reason: count for reason, count in self._wrong.items() if count}
        return Tally(sent, len(self._latencies), wrong, p50, p99, most, time.perf_counter() - began)

    def _send(self, due: float) -> None:
        connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = socket.create_connection(self._address, 5.0)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.send(REQUEST)
        except OSError as error:
            self._wrong[f"not sent: {type(error).__name__}"] += 1
            return
        self._busy[connection] = (due, b"")

    def _receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except OSError as error:
            data, reason = b"", type(error).__name__
        else:
            reason = "closed"
        under_way = self._busy.get(connection)
        if not data or under_way is None:
            connection.close()
            if under_way is not None:
                del self._busy[connection]
                self._wrong[f"connection {reason}"] += 1
            else:
                self._idle.remove(connection)  # an idle connection may be closed at any time: no request was on it
            return
        due, before = under_way
        received = before + data
        head, end, body = received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0):
            self._busy[connection] = (due, received)
            return
        del self._busy[connection]
        if head[9:10] == b"2":
            self._latencies.append(time.perf_counter() - due)
        else:
            self._wrong[head[9:12].decode("latin-1")] += 1
        if b"connection: close" in head.lower():
            connection.close()
        else:
            self._idle.append(connection)


if __name__ == "__main__":
    print(json.dumps(asdict(Generator(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])).run())))
