"""nginx. HTTP/2 goes through its gRPC module, which gives each call under way a connection of its own to the app.

Not on opaque TCP: Debian's nginx-light has no stream module.
"""

from __future__ import annotations

from benchmarks.chain import NAMES, Node, Wire
from benchmarks.machine import Command
from benchmarks.peers.peer import find, first_line


def nginx(node: Node) -> Command:
    pair = "{0}_certificate {1}; {0}_certificate_key {1}; {0}_protocols TLSv1.3; {0}_verify_depth 2;"
    bind = "http2" if node.wire is Wire.HTTP2 else ""
    server = next_server = ""
    if node.tls_in:
        bind += " ssl"
        server = f"ssl_verify_client on; ssl_client_certificate {node.anchor};" + pair.format("ssl", node.credentials)
    if node.tls_out:
        next_server = f"""proxy_ssl_verify on; proxy_ssl_trusted_certificate {node.anchor};
            proxy_ssl_name {NAMES["b"]}; proxy_ssl_server_name on;""" + pair.format("proxy_ssl", node.credentials)
    temporary = " ".join(
        f"{kind}_temp_path {node.directory}/{node.place}-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    if node.wire is Wire.HTTP2:
        forward = "grpc_pass grpc://next;"
    else:
        forward = f"""proxy_pass {"https" if node.tls_out else "http"}://next; proxy_http_version 1.1;
            proxy_max_temp_file_size 0; proxy_set_header Connection ""; proxy_set_header Host $http_host;"""
    text = f"""daemon off; worker_processes 1; pid {node.directory}/{node.place}.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000000; {temporary}
    upstream next {{ server 127.0.0.1:{node.upstream}; keepalive 64; keepalive_requests 1000000000; }}
    server {{ listen 127.0.0.1:{node.listen} {bind}; {server}
        location / {{ {forward} {next_server} }} }} }}
"""
    return Command([find("nginx") or "nginx", "-e", "stderr", "-c", node.file("nginx.conf", text)], node.listen)


def version() -> str | None:
    line = first_line(find("nginx"), "-v")
    return f"nginx {line.rpartition('/')[2]}" if line is not None else None
