"""What the viz commands say of a real cluster is what a client sent: counted, secured, tapped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.kind, pytest.mark.e2e, pytest.mark.timeout(600)]

SHOP = "viz-shop"
SENT, FAILED = 60, 15
WAIT_SECONDS = 120.0
SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(500 if self.path.startswith("/bad") else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


def deployment(name: str, image: str, *command: str) -> dict[str, Any]:
    """No HTTP probes: the kubelet's requests would be counted too."""
    container = {"name": "app", "image": image, "imagePullPolicy": "Never", "command": list(command)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "serviceAccountName": name,
                    "terminationGracePeriodSeconds": 2,
                    "containers": [container],
                },
            },
        },
    }


def manifests(image: str) -> str:
    def plain(kind: str, name: str, **more: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": SHOP}, **more}

    inject = {"linkerd.io/inject": "enabled"}
    return yaml.safe_dump_all(
        [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP, "annotations": inject}},
            plain("ServiceAccount", "web"),
            plain("ServiceAccount", "pay"),
            plain("Service", "pay", spec={"selector": {"app": "pay"}, "ports": [{"port": 80, "targetPort": 8080}]}),
            deployment("web", image, "sleep", "3600"),
            deployment("pay", image, "python", "-c", SERVER),
        ]
    )


class Shop:
    """kubectl and `gameday mesh` on the cluster."""

    def __init__(self, context: str, kubeconfig: str) -> None:
        self._kubectl = ["kubectl", "--context", context, "--kubeconfig", kubeconfig]
        self._where = ["--context", context, "--kubeconfig", kubeconfig, "-n", SHOP]

    def kubectl(self, *words: str, given: str | None = None, seconds: float = 180.0) -> str:
        done = subprocess.run(
            [*self._kubectl, *words], input=given, capture_output=True, text=True, check=False, timeout=seconds
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "gameday", "mesh", *words, *self._where]

    def mesh(self, *words: str) -> Any:
        """The JSON that a command prints."""
        done = subprocess.run(
            self.command(*words, "-o", "json"), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return json.loads(done.stdout)

    def send(self, count: int, path: str) -> None:
        """So many requests of web to pay, one after another."""
        script = f"for i in $(seq {count}); do curl -s -o /dev/null -m 10 http://pay{path}; done"
        self.kubectl("exec", "-n", SHOP, "deploy/web", "-c", "app", "--", "sh", "-c", script)

    def until(self, *words: str, true: Any) -> dict[str, Any]:
        """The one row of a command's answer, once it is so."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            rows = self.mesh(*words)
            for row in rows:
                if true(row):
                    return dict(row)
            assert time.monotonic() < deadline, f"{words}: {json.dumps(rows, indent=1)}"
            time.sleep(1)


@pytest.fixture(scope="module")
def shop(kind_mesh: str, kind_kubeconfig: str, kind_images: str) -> Iterator[Shop]:
    made = Shop(kind_mesh, kind_kubeconfig)
    made.kubectl("apply", "-f", "-", given=manifests(kind_images))
    try:
        for name in ("web", "pay"):
            made.kubectl("rollout", "status", "-n", SHOP, f"deployment/{name}", "--timeout=150s")
        made.kubectl("rollout", "status", "-n", "linkerd-viz", "deployment/viz", "--timeout=150s")
        # Both have been scraped before anything is sent: what came before the first scrape could not be counted.
        for name in ("web", "pay"):
            made.until("stat", f"deploy/{name}", true=lambda row: row["rps"] is not None)
        yield made
    finally:
        made.kubectl("delete", "namespace", SHOP, "--wait=false")


def test_stat_edges_and_routes_count_what_was_sent(shop: Shop) -> None:
    shop.send(SENT - FAILED, "/good")
    shop.send(FAILED, "/bad")
    arrived = shop.until("stat", "deploy/pay", "-t", "10m", true=lambda row: row["requests"] >= SENT)
    assert (round(arrived["requests"]), round(arrived["failures"])) == (SENT, FAILED)
    assert (arrived["success"], arrived["meshed"], arrived["pods"]) == (1 - FAILED / SENT, 1, 1)
    sent = shop.until("stat", "deploy/web", "--to", "svc/pay", "-t", "10m", true=lambda row: row["requests"] >= SENT)
    assert (round(sent["requests"]), round(sent["failures"])) == (SENT, FAILED)
    edge = shop.until("edges", "deploy", "-t", "10m", true=lambda row: (row["src"], row["dst"]) == ("web", "pay"))
    suffix = f"{SHOP}.serviceaccount.identity.linkerd.cluster.local"
    assert (edge["secured"], edge["client_id"], edge["server_id"]) == (True, f"web.{suffix}", f"pay.{suffix}")
    route = shop.until("routes", "svc/pay", "-t", "10m", true=lambda row: row["service"] == f"pay.{SHOP}:80")
    assert route["effective_success"] == pytest.approx(1 - FAILED / SENT)
    (inbound,) = [row for row in shop.mesh("stat-inbound", "deploy/pay", "-t", "10m") if row["allowed"]]
    assert round(inbound["allowed"]) == SENT


def test_tap_shows_the_requests(shop: Shop) -> None:
    words = ("tap", "deploy/pay", "--path", "/tapped", "-o", "json")
    with subprocess.Popen(shop.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tap:
        try:
            assert tap.stdout is not None
            time.sleep(6)  # the stream is open when its first line comes, and that takes a request
            shop.send(2, "/not-this")
            shop.send(2, "/tapped/1?x=2")
            begun = json.loads(tap.stdout.readline())
        finally:
            tap.terminate()
    assert (begun["event"], begun["method"], begun["path"]) == ("requestInit", "GET", "/tapped/1?x=2")
    assert (begun["source"]["workload"], begun["destination"]["workload"]) == ("web", "pay")
    assert begun["tls"] is True
