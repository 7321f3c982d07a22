"""What this machine has and lacks for game days on Kubernetes: Docker, kind, images, room.

`missing` is asked before a run starts anything; `checks` is the section of `gameday doctor`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from gameday.errors import WorldFailed
from gameday.worlds.base import WorldOptions
from gameday.worlds.kind import cluster
from gameday.worlds.kind.names import AGENT_IMAGE, MESH_IMAGE

MIN_MEMORY_BYTES, MIN_DISK_BYTES = 5 * 1024**3, 6 * 1024**3

Check = tuple[str, bool, str, str]
"""(name, whether it is well, what was found, what to do where it is not)."""

GET_DOCKER = "install Docker (https://docs.docker.com/engine/install) and start it; your user must be able to use it"
GET_KIND = "install kind 0.27 or newer (https://kind.sigs.k8s.io/docs/user/quick-start/#installation)"
GET_IMAGES = "gameday mesh images builds them from a checkout (two minutes the first time); a run does it by itself"


def checks() -> Iterator[Check]:
    """Each check as it is made."""
    yield _docker()
    kind = shutil.which("kind")
    yield "kind", kind is not None, kind or "not on the PATH", GET_KIND
    try:
        absent = [tag for tag in (MESH_IMAGE, AGENT_IMAGE) if not cluster.has_image(tag)]
    except WorldFailed:
        absent = [MESH_IMAGE, AGENT_IMAGE]
    yield "images", not absent, ", ".join(absent) + " missing" if absent else "there", GET_IMAGES
    memory = _free_memory()
    if memory is not None:
        found = f"{memory / 1024**3:.1f} GiB free"
        yield "memory", memory >= MIN_MEMORY_BYTES, found, "a game day of the retail app takes about 4 GiB in a cluster"
    disk = shutil.disk_usage("/").free
    yield (
        "disk",
        disk >= MIN_DISK_BYTES,
        f"{disk / 1024**3:.1f} GiB free",
        "a node with our images takes 2 GiB; make room",
    )


def missing(options: WorldOptions) -> str | None:
    """Why a run cannot be started here, with how to get it, one line; None where it can."""
    if options.context is not None:
        return None  # the cluster is there already, and says by itself what it lacks
    name, ok, found, remedy = _docker()
    if not ok:
        return f"--world kind needs {name}: {found}; {remedy}, or name a cluster with --context"
    if shutil.which("kind") is None:
        return f"--world kind needs kind, which is not on the PATH; {GET_KIND}, or name a cluster with --context"
    return None


def throttling(network_throttle: bool) -> str | None:
    """Why `tc` cannot shape traffic on this machine's kernel (kind nodes share it); None where it can."""
    if not network_throttle:
        return None
    try:
        cluster.run(
            [
                *("docker", "run", "--rm", "--user", "0", "--cap-add", "NET_ADMIN", "--network", "none", AGENT_IMAGE),
                *("tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "64kbit", "burst", "3000", "latency", "2s"),
            ]
        )
    except WorldFailed as error:
        return f"this machine's kernel or Docker does not let containers shape traffic ({error}); use app-degrade"
    return None


def _docker() -> Check:
    if shutil.which("docker") is None:
        return "Docker", False, "not on the PATH", GET_DOCKER
    try:
        version = cluster.run(["docker", "version", "--format", "{{.Server.Version}}"]).strip()
    except WorldFailed as error:
        return "Docker", False, f"does not answer ({error})", "start the daemon, and see that your user may use it"
    return "Docker", True, f"server {version}", ""


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def cores() -> int:
    return os.cpu_count() or 1
