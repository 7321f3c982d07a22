"""Network namespaces of a test's own: pods without Kubernetes. Needs root.

with pods("client", "server") as (client, server): …      each with an address, joined by a bridge
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

_HAS_IPV6 = os.path.exists("/proc/net/if_inet6")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("iptables-nft-restore") is None,
    reason="needs root, iproute2 and iptables",
)


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace with one address."""

    name: str
    address: str
    ipv6: str
    """Its other one; empty where the kernel has no IPv6."""

    def command(self, *command: str, uid: int | None = None) -> list[str]:
        """`command` as it runs inside, as that user."""
        who: list[str] = []
        if uid is not None:
            # Any file may be read and run, as root's own Python is, which the tests run on.
            caps = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
            who = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *caps]
        return ["ip", "netns", "exec", self.name, *who, *command]

    def run(self, *command: str, uid: int | None = None, given: str | None = None) -> str:
        """Standard output; raises CalledProcessError."""
        done = subprocess.run(
            self.command(*command, uid=uid), input=given, capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def start(
        self, *command: str, uid: int | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """A process inside, with its output in pipes."""
        return subprocess.Popen(
            self.command(*command, uid=uid),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
        )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def pods(*names: str, network: str = "10.241.77") -> Iterator[list[Namespace]]:
    """Namespaces in one network, gone with the block."""
    tag = f"gt{os.getpid() % 100000}"
    bridge = f"{tag}br"
    with ExitStack() as stack:
        # The bridge has a namespace of its own: nothing of the machine's network is touched.
        switch = f"{tag}-switch"
        _ip("netns", "add", switch)
        stack.callback(_ip, "netns", "del", switch)
        _ip("-n", switch, "link", "add", bridge, "type", "bridge")
        _ip("-n", switch, "link", "set", bridge, "up")
        found = []
        for number, name in enumerate(names, start=2):
            space = Namespace(f"{tag}-{name}", f"{network}.{number}", f"fd77::{number}" if _HAS_IPV6 else "")
            _ip("netns", "add", space.name)
            stack.callback(_ip, "netns", "del", space.name)
            port = f"p{number}"
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space.name)
            _ip("-n", switch, "link", "set", port, "master", bridge, "up")
            _ip("-n", space.name, "addr", "add", f"{space.address}/24", "dev", "eth0")
            if space.ipv6:
                _ip("-n", space.name, "addr", "add", f"{space.ipv6}/64", "dev", "eth0", "nodad")
            for link in ("lo", "eth0"):
                _ip("-n", space.name, "link", "set", link, "up")
            _ip("-n", space.name, "route", "add", "default", "via", f"{network}.1")
            if space.ipv6:
                _ip("-n", space.name, "-6", "route", "add", "default", "via", "fd77::1")
            found.append(space)
        yield found


def python(code: str) -> Sequence[str]:
    """A Python program as a command."""
    import sys

    return (sys.executable, "-c", code)
