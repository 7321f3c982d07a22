"""kind and docker, as commands with one line of error.

The cluster's kubeconfig lies in the run's folder. An image is copied only where a node lacks it: `kind load` would copy
it again each time, and half a gigabyte takes its time.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from gameday.errors import WorldFailed

NODE_IMAGE = "kindest/node:v1.34.4"
CREATE_SECONDS, LOAD_SECONDS, SHORT_SECONDS = 300.0, 300.0, 30.0


def run(command: Sequence[str], timeout: float = SHORT_SECONDS) -> str:
    """Its standard output.

    Raises:
        WorldFailed: it is missing, failed, or took too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise WorldFailed(f"no {command[0]} on this machine's PATH") from None
    except subprocess.TimeoutExpired:
        raise WorldFailed(f"{' '.join(command[:3])}: not done after {timeout:.0f} s") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise WorldFailed(f"{' '.join(command[:3])}: {' / '.join(lines[-3:]) or f'exit code {done.returncode}'}")
    return done.stdout


def clusters() -> list[str]:
    """Names of the kind clusters on this machine. Raises WorldFailed."""
    return [line for line in run(["kind", "get", "clusters"]).split() if line]


def create(name: str, kubeconfig: Path) -> None:
    """A cluster of one node, ready. Raises WorldFailed."""
    command = ["kind", "create", "cluster", "--name", name, "--kubeconfig", str(kubeconfig), "--wait", "120s"]
    if has_image(NODE_IMAGE):
        command += ["--image", NODE_IMAGE]  # else kind's own default, which it pulls
    run(command, CREATE_SECONDS)
    kubeconfig.chmod(0o600)


def write_kubeconfig(name: str, kubeconfig: Path) -> None:
    """Of a cluster that is there. Raises WorldFailed."""
    text = run(["kind", "get", "kubeconfig", "--name", name])
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(text)


def delete(name: str, kubeconfig: Path) -> None:
    """Raises WorldFailed."""
    run(["kind", "delete", "cluster", "--name", name, "--kubeconfig", str(kubeconfig)], CREATE_SECONDS)


def has_image(tag: str) -> bool:
    """Whether docker has it. Raises WorldFailed: no docker."""
    return bool(run(["docker", "images", "--quiet", tag]).strip())


def load_images(name: str, tags: Sequence[str]) -> list[str]:
    """Copies what some node of the cluster lacks, or has an older build of; returns the tags that were copied.

    Raises:
        WorldFailed
    """
    nodes = run(["kind", "get", "nodes", "--name", name]).split()
    missing = [tag for tag in tags if not all(_node_has(node, tag) for node in nodes)]
    if missing:
        run(["kind", "load", "docker-image", "--name", name, *missing], LOAD_SECONDS)
    return missing


def _node_has(node: str, tag: str) -> bool:
    """By the image's id, which is the digest of its configuration."""
    wanted = run(["docker", "image", "inspect", "--format", "{{.Id}}", tag]).strip()
    listed = run(["docker", "exec", node, "ctr", "--namespace", "k8s.io", "images", "ls", "-q"]).split()
    return any(wanted in line for line in listed)
