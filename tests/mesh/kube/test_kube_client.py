"""Finding a cluster as kubectl does, and one line for the user where there is none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from mesh.kube.client import (
    ClusterUnreachable,
    ProxyFailed,
    connect,
    find_config,
    proxy_get,
    proxy_lines,
    service_account_config,
)


class _Api(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = 200, b"{}"
        if self.path == "/version" and self.headers.get("Authorization") == "Bearer wrong":
            status = 401
        elif self.path == "/api/v1/namespaces/shop/pods/cart-1:4191/proxy/metrics?all=1":
            body = b"requests_total 3\n"
        elif self.path == "/api/v1/namespaces/shop/services/viz:8084/proxy/lines":
            body = b"one\ntwo\n"
        elif "/proxy/" in self.path:
            status, body = 503, json.dumps({"message": "no endpoints available"}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[str]:
    api = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    thread = threading.Thread(target=api.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{api.server_port}"
    api.shutdown()
    api.server_close()


def _kubeconfig(path: Path, name: str, server: str, credential: str = "right", *, current: bool = True) -> Path:
    content = {
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": name, "user": {"token": credential}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "shop"}}],
    }
    if current:
        content["current-context"] = name  # type: ignore[assignment]
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_pod_is_reached_through_the_api_server(server: str, tmp_path: Path) -> None:
    client = connect(kubeconfig=str(_kubeconfig(tmp_path / "config", "one", server)))
    assert proxy_get(client, "shop", "pods", "cart-1:4191", "/metrics", params={"all": "1"}) == b"requests_total 3\n"
    with proxy_lines(client, "shop", "services", "viz:8084", "lines") as lines:
        assert list(lines) == ["one", "two"]
    with pytest.raises(ProxyFailed, match=r"pods shop/gone:4191: 503 .*no endpoints available") as failed:
        proxy_get(client, "shop", "pods", "gone:4191", "/metrics")
    assert failed.value.status == 503


def test_an_unreachable_cluster_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = _kubeconfig(tmp_path / "config", "gone", "http://127.0.0.1:1")
    with pytest.raises(ClusterUnreachable, match=r"http://127.0.0.1:1 \(context gone\) does not answer.*--context"):
        connect(kubeconfig=str(path))


def test_refused_credentials_say_so(server: str, tmp_path: Path) -> None:
    path = _kubeconfig(tmp_path / "config", "one", server, credential="wrong")
    with pytest.raises(ClusterUnreachable, match=r"refuses these credentials \(401\)"):
        connect(kubeconfig=str(path))


def test_an_unknown_context_lists_those_there_are(tmp_path: Path) -> None:
    path = _kubeconfig(tmp_path / "config", "one", "http://127.0.0.1:1")
    with pytest.raises(ClusterUnreachable, match="'two' not found; contexts there: one"):
        find_config("two", str(path))


@pytest.mark.parametrize("text", ["just words", "clusters: 3", "{", ""])
def test_a_file_that_is_no_kubeconfig_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(ClusterUnreachable, match="config: not a kubeconfig"):
        find_config(None, str(tmp_path / "config"))


def test_a_kubeconfig_without_clusters_says_so(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("apiVersion: v1")
    with pytest.raises(ClusterUnreachable, match="config: not a kubeconfig \\(it has no 'clusters'\\)"):
        find_config(None, str(tmp_path / "config"))


def test_a_context_whose_cluster_is_missing_is_named(tmp_path: Path) -> None:
    path = _kubeconfig(tmp_path / "config", "one", "http://127.0.0.1:1")
    content = yaml.safe_load(path.read_text())
    content["clusters"] = []
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ClusterUnreachable, match="names 'one', which it does not have"):
        find_config(None, str(path))


def test_several_kubeconfigs_are_one_and_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _kubeconfig(tmp_path / "a", "one", "http://127.0.0.1:1", current=False)
    second = _kubeconfig(tmp_path / "b", "two", "http://127.0.0.1:2")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{tmp_path / 'missing'}:{second}")
    assert find_config().context_name == "two"
    assert find_config("one").cluster.server == "http://127.0.0.1:1"


def test_no_kubeconfig_at_all_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterUnreachable, match=r"no kubeconfig at .*none; create a cluster, or give --kubeconfig"):
        connect()


def test_outside_of_a_pod_there_is_no_service_account(tmp_path: Path) -> None:
    with pytest.raises(ClusterUnreachable, match="no service account in"):
        service_account_config(str(tmp_path))
