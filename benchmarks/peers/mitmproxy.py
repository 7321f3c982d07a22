"""mitmproxy: the other proxy in Python. One hop only: it asks for client certificates and does not verify them."""

from __future__ import annotations

from benchmarks.chain import Node, Wire
from benchmarks.machine import Command
from benchmarks.peers.peer import find, first_line


def mitmproxy(node: Node) -> Command:
    scheme = "tcp" if node.wire is Wire.TCP else "http"
    argv = [find("mitmdump") or "mitmdump", "--quiet", "--mode", f"reverse:{scheme}://127.0.0.1:{node.upstream}"]
    argv += ["--listen-host", "127.0.0.1", "--listen-port", str(node.listen)]
    options = {"confdir": str(node.directory / f"{node.place}-mitmproxy"), "flow_detail": "0"}
    options |= {"stream_large_bodies": "64k", "keep_host_header": "true"}
    return Command([*argv, *(part for pair in options.items() for part in ("--set", "=".join(pair)))], node.listen)


def version() -> str | None:
    line = first_line(find("mitmdump"), "--version")
    return " ".join(line.replace(":", "").split()) if line is not None else None
