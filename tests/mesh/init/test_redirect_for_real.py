"""The rules in the kernel: two pods (network namespaces), real iptables of both kinds, real connections."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.mesh.namespaces import Namespace, needs_root, pods, python

pytestmark = [pytest.mark.root, needs_root]

LISTEN = """
import socket, struct, sys
port = int(sys.argv[1])
server = socket.create_server(("0.0.0.0", port), backlog=8)
print("listens", flush=True)
while True:
    client, _ = server.accept()
    try:
        raw = client.getsockopt(socket.SOL_IP, 80, 16)
        meant = struct.unpack("!H", raw[2:4])[0]
    except OSError:
        meant = port
    client.sendall(f"{port} {meant}".encode())
    client.close()
"""
PORTS = ("4140", "4143", "4191", "8080", "9000")
ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as server:
        print(server.recv(100).decode())
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def two() -> Iterator[list[Namespace]]:
    with pods("client", "server") as spaces:
        servers: list[subprocess.Popen[str]] = []
        try:
            for space in spaces:
                servers += [space.start(*python(LISTEN), port) for port in PORTS]
            for server in servers:
                assert server.stdout is not None
                assert server.stdout.readline() == "listens\n"
            yield spaces
        finally:
            for server in servers:
                server.kill()
                server.wait()
                assert server.stdout is not None
                server.stdout.close()


def init(space: Namespace, *flags: str) -> str:
    return space.run(sys.executable, "-m", "mesh.init", *flags)


def ask(space: Namespace, host: str, port: int, uid: int | None = None) -> str:
    """What the listener that answered says: its own port, and the one that was dialled."""
    return space.run(*python(ASK), host, str(port), uid=uid).strip()


def test_before_the_rules_every_port_answers_for_itself(two: list[Namespace]) -> None:
    client, server = two
    assert ask(client, server.address, 8080) == "8080 8080"


@pytest.mark.parametrize("mode", ["nft", "legacy"])
def test_both_directions_are_redirected_and_what_is_ignored_is_not(two: list[Namespace], mode: str) -> None:
    client, server = two
    other = "legacy" if mode == "nft" else "nft"
    for space in two:
        subprocess.run(space.command(f"iptables-{other}", "-t", "nat", "-F"), check=False, capture_output=True)
    said = init(server, "--inbound-ports-to-ignore", "9000", "--iptables-mode", mode)
    if f"IPv4 ({mode})" not in said:
        pytest.skip(f"this kernel has no {mode}: {said}")
    init(client, "--outbound-ports-to-ignore", "9000", "--iptables-mode", mode)

    # What the proxy of the client's pod (uid 2102) sends is not taken in again, and arrives at the server's proxy.
    assert ask(client, server.address, 8080, uid=2102) == "4143 8080"
    assert ask(client, server.address, 9000, uid=2102) == "9000 9000"
    assert ask(client, server.address, 4191, uid=2102) == "4191 4191"
    # What its app sends goes to its own proxy, which learns where it was going.
    assert ask(client, server.address, 8080, uid=1000) == "4140 8080"
    assert ask(client, server.address, 9000, uid=1000) == "9000 9000"
    # Loopback, and the pod's own address.
    assert ask(client, "127.0.0.1", 8080, uid=1000) == "8080 8080"
    assert ask(client, client.address, 8080, uid=1000) == "8080 8080"


def test_running_again_changes_nothing_and_keeps_foreign_rules(two: list[Namespace]) -> None:
    server = two[1]
    server.run("iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "udp", "-j", "ACCEPT")
    init(server)
    once = server.run("iptables-nft-save", "-t", "nat")
    init(server)
    again = server.run("iptables-nft-save", "-t", "nat")
    assert sorted(line for line in again.splitlines() if line.startswith("-A")) == sorted(
        line for line in once.splitlines() if line.startswith("-A")
    )
    assert again.count("-j PROXY_INIT_REDIRECT") == 1
    assert "-p udp -j ACCEPT" in again


def test_thirty_ignored_ports_fit(two: list[Namespace]) -> None:
    server = two[1]
    init(server, "--inbound-ports-to-ignore", ",".join(str(port) for port in range(7000, 7060, 2)))
    assert server.run("iptables-nft-save", "-t", "nat").count("--dports") >= 3


def test_without_the_capability_it_says_so_in_one_line(two: list[Namespace]) -> None:
    command = two[1].command(sys.executable, "-m", "mesh.init", uid=65534)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "needs NET_ADMIN and NET_RAW" in done.stderr
