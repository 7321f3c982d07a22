"""A Kubernetes API server of a few paths: remembers what it was asked, keeps one ConfigMap, refuses on demand."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from chaos.kube import Access
from chaos.world import ClusterAddress, ControlComponent, Named, PodAddress, WorldState


@dataclass
class FakeApi:
    url: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    """By the beginning of the path; 200 otherwise."""
    asked: list[tuple[str, str, Any, str]] = field(default_factory=list)
    """(method, path, body, content type)."""
    data: dict[str, str] = field(default_factory=dict)
    """Of the ConfigMap gameday-ledger."""

    def write_access(self, folder: Path) -> Path:
        """A kubeconfig and an access file that lead here."""
        config = {
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": "t"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }
        (folder / "kubeconfig").write_text(json.dumps(config))
        access = folder / "kube.json"
        access.write_bytes(msgspec.json.encode(Access(kubeconfig=str(folder / "kubeconfig"))))
        return access


@contextmanager
def fake_api() -> Iterator[FakeApi]:
    api = FakeApi()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            text = self.rfile.read(int(self.headers.get("content-length") or 0))
            body = json.loads(text) if text else None
            api.asked.append((self.command, self.path, body, self.headers.get("content-type") or ""))
            status = next((code for begin, code in api.statuses.items() if self.path.startswith(begin)), 200)
            found: Any = {}
            if self.path.endswith("/configmaps/gameday-ledger") and status == 200:
                if self.command == "PATCH" and body is not None:
                    api.data.update(body["data"])
                found = {"data": api.data}
            elif status >= 400:
                found = {"message": f"fake {status}"}
            answer = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - the names that http.server wants

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


def pod_address(service: str, number: int = 0) -> PodAddress:
    return PodAddress(
        name=f"{service}-{number}",
        service=service,
        namespace=service,
        ip="10.0.0.1",
        app="10.0.0.1:8080",
        inbound="10.0.0.1:4143",
        outbound="10.0.0.1:4140",
        proxy_admin="10.0.0.1:4191",
        workload_admin="10.0.0.1:9999",
        processes=(),
        pod=f"{service}-x{number}",
    )


def cluster_world(access: Path, *pods: PodAddress) -> WorldState:
    """A world on Kubernetes with these pods and a control plane of two Deployments."""
    control = {
        name: ControlComponent(
            address="", admin="", process=f"control/{name}", deployment=deployment, selector=f"c={deployment}"
        )
        for name, deployment in (("identity", "i"), ("destination", "d"), ("policy", "d"))
    }
    return WorldState(
        run="r",
        ready=True,
        runner=Named(pid=1, start="x"),
        control=control,
        pods=pods,
        processes={},
        cluster=ClusterAddress(
            access=str(access),
            mesh_namespace="linkerd",
            run_namespace="gameday",
            agent="/api/v1/namespaces/load/pods/agent-x:9200/proxy",
            agent_image="gameday/agent:1",
        ),
    )
