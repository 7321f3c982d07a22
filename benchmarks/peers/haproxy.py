"""HAProxy."""

from __future__ import annotations

from benchmarks.chain import NAMES, Node, Wire
from benchmarks.machine import Command
from benchmarks.peers.peer import find, first_line


def haproxy(node: Node) -> Command:
    certificate = f"ssl crt {node.credentials} ca-file {node.anchor} ssl-min-ver TLSv1.3"
    bind = f"{certificate} verify required" if node.tls_in else ""
    server = f"{certificate} verify required verifyhost {NAMES['b']} sni str({NAMES['b']})" if node.tls_out else ""
    protocol = "proto h2" if node.wire is Wire.HTTP2 else ""
    text = f"""global
    nbthread 1
defaults
    mode {"tcp" if node.wire is Wire.TCP else "http"}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    {"http-reuse always" if node.wire is not Wire.TCP else ""}
listen chain
    bind 127.0.0.1:{node.listen} {bind} {protocol}
    server next 127.0.0.1:{node.upstream} {server} {protocol}
"""
    return Command([find("haproxy") or "haproxy", "-db", "-f", node.file("haproxy.cfg", text)], node.listen)


def version() -> str | None:
    line = first_line(find("haproxy"), "-v")
    return " ".join(line.split()[:3]) if line is not None else None
