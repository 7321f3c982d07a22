"""All peers."""

from __future__ import annotations

from benchmarks.chain import Node
from benchmarks.machine import Command
from benchmarks.peers import envoy, haproxy, mitmproxy, nginx, ours
from benchmarks.peers.peer import Peer

OURS = "gameday"
INTERPRETED = "gameday, interpreted"
_DEBIAN, _WHEELS = "apt-get install nginx-light haproxy", "make bench installs it into .bench"


def _through_http2(node: Node) -> Command:
    return envoy.envoy(node, http2_between=True)


PEERS = (
    Peer(OURS, ours.ours, ours.version, "abcdef", in_mesh=True),
    Peer(INTERPRETED, ours.interpreted, ours.interpreted_version, "abcdf", "make native", in_mesh=True),
    Peer("nginx", nginx.nginx, nginx.version, "abcef", _DEBIAN),
    Peer("HAProxy", haproxy.haproxy, haproxy.version, "abcdef", _DEBIAN),
    Peer("Envoy", envoy.envoy, envoy.version, "abcdef", _WHEELS),
    Peer("Envoy, HTTP/2 between", _through_http2, envoy.version, "bf", _WHEELS),
    Peer("mitmproxy", mitmproxy.mitmproxy, mitmproxy.version, "ade", _WHEELS),
)
