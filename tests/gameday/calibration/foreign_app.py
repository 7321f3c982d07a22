"""An application that is not ours, as Linkerd's proxies count it: known truth, series as a Prometheus returns them."""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from mesh.proxy.metrics import LATENCY_BUCKETS_MS

APP = """\
apiVersion: gameday.dev/v1
kind: Application
metadata: {name: books}
spec:
  services:
    web:
      namespace: books
      replicas: 2
      workers: 64
      queue: 64
      routes:
        GET /page: {time: 10ms, sigma: 0.5, calls: [GET store /list]}
    store:
      namespace: books
      replicas: 2
      workers: 16
      queue: 64
      routes:
        GET /list: {time: 10ms, sigma: 0.5}
  journeys:
    read: {share: 100%, steps: [GET web /page]}
"""
START = 1_767_225_600.0
RATE = 40.0
OVERHEAD = 0.002
WEB_SELF = 0.006
STORE_MEDIAN = 0.018
STORE_SIGMA = 0.4

Series = dict[str, Any]


def app_file(folder: Path) -> Path:
    path = folder / "app.yaml"
    path.write_text(APP)
    return path


@dataclass
class Scraped:
    """Cumulative series of a window, by (name, labels)."""

    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[float, float]]] = field(default_factory=dict)

    def result(self, name: str | None = None, namespaces: str = ".*") -> list[Series]:
        return [
            {"metric": {"__name__": metric, **dict(labels)}, "values": [[t, f"{v:g}"] for t, v in samples]}
            for (metric, labels), samples in self.values.items()
            if (name is None or metric == name) and re.fullmatch(namespaces, dict(labels)["namespace"])
        ]

    def without(self, *names: str) -> Scraped:
        return Scraped({key: samples for key, samples in self.values.items() if key[0] not in names})

    def text(self, index: int, stamps: bool = True) -> str:
        """One scrape as a page of /federate."""
        lines = ["# TYPE response_latency_ms histogram"]
        for (name, labels), samples in self.values.items():
            at, value = samples[index]
            body = ",".join(f'{k}="{v}"' for k, v in labels)
            lines.append(f"{name}{{{body}}} {value:g}" + (f" {at * 1000:.0f}" if stamps else ""))
        return "\n".join(lines) + "\n"


def scraped(
    seconds: float = 120.0,
    interval: float = 10.0,
    rate: float = RATE,
    failures: float = 0.0,
    bounds: tuple[float, ...] = LATENCY_BUCKETS_MS,
    seed: int = 1,
) -> Scraped:
    """What two services' proxies counted; milliseconds in the histograms, as Linkerd's are."""
    generator = np.random.default_rng(seed)
    found = Scraped()
    totals: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    inbound_web = {"direction": "inbound", "namespace": "books", "deployment": "web", "pod": "web-6f7c9d5b8-x2x4z"}
    inbound_store = {"direction": "inbound", "namespace": "books", "deployment": "store", "pod": "store-0"}
    outbound = {**inbound_web, "direction": "outbound", "authority": "store.books.svc.cluster.local:80"}

    def put(name: str, labels: dict[str, str], add: float) -> None:
        key = (name, tuple(sorted(labels.items())))
        totals[key] = totals.get(key, 0.0) + add

    def observe(labels: dict[str, str], milliseconds: np.ndarray[Any, Any], bad: int) -> None:
        put("response_latency_ms_sum", labels, float(milliseconds.sum()))
        put("response_latency_ms_count", labels, float(len(milliseconds)))
        places = [bisect_left(bounds, v) for v in milliseconds.tolist()]
        for index, bound in enumerate([*bounds, float("inf")]):
            le = "+Inf" if bound == float("inf") else f"{bound:g}"
            put("response_latency_ms_bucket", {**labels, "le": le}, float(sum(p <= index for p in places)))
        put("response_total", {**labels, "classification": "failure"}, float(bad))
        put("response_total", {**labels, "classification": "success"}, float(len(places) - bad))
        put("request_total", labels, float(len(places)))

    for step in range(round(seconds / interval) + 1):
        count = int(generator.poisson(rate * interval)) if step else 3
        store = generator.lognormal(np.log(STORE_MEDIAN), STORE_SIGMA, count)
        out = store + OVERHEAD * generator.lognormal(-0.08, 0.4, count)
        web = out + WEB_SELF * generator.lognormal(-0.125, 0.5, count)
        bad = int(generator.binomial(count, failures)) if step else 0
        for labels, values in ((inbound_store, store), (outbound, out), (inbound_web, web)):
            observe(labels, values * 1e3, bad)
        for key, value in totals.items():
            found.values.setdefault(key, []).append((START + step * interval, value))
    return found


def answer(result: list[Series]) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


@contextmanager
def prometheus(window: Scraped | None, *, status: int = 200, body: bytes | None = None) -> Iterator[str]:
    """A server that answers /api/v1/query as Prometheus does; `body`: says this instead. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("query", [""])[0]
            match = re.fullmatch(r'(\w+)(?:\{namespace=~"([^"]*)"\})?\[(\d+)s\]', query)
            said = body
            if said is None:
                assert match is not None
                assert window is not None
                said = answer(window.result(match[1], match[2] or ".*"))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def requests_csv(
    folder: Path,
    count: int = 2_000,
    rate: float = RATE,
    seed: int = 2,
    route: str = "GET store /list",
    hole: float = 0.0,
) -> Path:
    """A table of requests to the store, as a load tool or an access log would have it; `hole`: seconds of silence."""
    generator = np.random.default_rng(seed)
    at = START + np.cumsum(generator.exponential(1.0 / rate, count))
    at[count // 2 :] += hole
    took = generator.lognormal(np.log(STORE_MEDIAN), STORE_SIGMA, count) + OVERHEAD
    rows = [f"{t:.6f},{route},{x:.6f},200" for t, x in zip(at.tolist(), took.tolist(), strict=True)]
    path = folder / "requests.csv"
    path.write_text("\n".join(["time,route,latency,status", *rows]) + "\n")
    return path
