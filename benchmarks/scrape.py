"""Scrapes our proxies once a second, as Prometheus would, while something is measured."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Sequence
from types import TracebackType

INTERVAL_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0


def scrape(admin: int) -> str:
    """The exposition of one proxy. Raises OSError."""
    url = f"http://127.0.0.1:{admin}/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        return str(answer.read().decode())


def total(exposition: str, name: str, *labels: str) -> float:
    """Sum of the series of `name` whose labels hold all these texts."""
    found = 0.0
    for line in exposition.splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name and all(label in series for label in labels):
            found += float(value)
    return found


class Scraper:
    """A thread; use as a context manager."""

    def __init__(self, admins: Sequence[int]) -> None:
        self._admins = admins
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failed = 0
        self.last: dict[int, str] = {}
        """The latest exposition by admin port."""

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._end.wait(max(0.0, due - time.monotonic())):
            due += INTERVAL_SECONDS
            for admin in self._admins:
                try:
                    self.last[admin] = scrape(admin)
                except OSError:
                    self.failed += 1  # a proxy that is gone shows as failed load, not here
