"""chaostoolkit probes. They observe; the verdict of a game day never rests on them."""

from __future__ import annotations

from pathlib import Path

from chaos.kube_steps import through_pod
from chaos.ledger import Ledger
from chaos.requests import Step, StepFailed, perform
from chaos.world import read_world

__all__ = ["fault_active", "pods_ready", "world_is_up"]


def world_is_up(run_dir: str) -> bool:
    """Whether the world's supervisor (on Kubernetes, the agent) answers and said that all is ready."""
    try:
        world = read_world(Path(run_dir))
        if world.cluster is not None:
            perform(Step("GET", world.kube_url(f"{world.cluster.agent}/ready")))
        else:
            perform(Step("GET", world.supervisor_url("/status")))
    except (FileNotFoundError, StepFailed):
        return False
    return world.ready


def fault_active(run_dir: str, name: str) -> bool:
    """Whether the fault is in and not yet undone."""
    ledger = Ledger(Path(run_dir))
    try:
        return any(record.name == name and record.state == "injected" for record in ledger.records())
    finally:
        ledger.close()


def pods_ready(run_dir: str, service: str) -> int:
    """How many of a service's meshed pods have a proxy that says it is ready."""
    ready = 0
    world = read_world(Path(run_dir))
    for pod in world.pods_of(service):
        if pod.proxy_admin is None:
            continue
        try:
            if world.cluster is not None:
                port = pod.proxy_admin.rpartition(":")[2]
                perform(through_pod(world, "GET", pod.namespace, f"{pod.kubernetes_name}:{port}", "/ready"))
            else:
                perform(Step("GET", f"http://{pod.proxy_admin}/ready"))
            ready += 1
        except StepFailed:
            continue  # not ready is an answer
    return ready
