"""The reaper in the cluster: a Job that outlives the runner and its machine.

    python -m chaos.cluster_reaper --namespace gameday

It reads the ledger's copy (`chaos.mirror`) twice a second, and reverts what has outlived its time to live with the
pod's own service account. It ends when the run is closed. It never ends a fault early: whether the runner lives cannot
be told from here, and the TTL is the promise. What is still open when the Job's own deadline comes is reverted first.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType

import msgspec

from chaos.mirror import CLOSED, FAULT, REVERTED, MirroredFault, config_map_path
from chaos.requests import Step, StepFailed, WorldGone, perform, perform_all

POLL_SECONDS = 0.5


class _ConfigMap(msgspec.Struct):
    data: dict[str, str] = {}


def due(data: Mapping[str, str], now: float, *, all_open: bool = False) -> list[MirroredFault]:
    """Faults to revert: open, their time over, and not reverted from here already."""
    found = []
    for key, text in data.items():
        if not key.startswith(FAULT):
            continue
        fault = msgspec.json.decode(text, type=MirroredFault)
        is_open = fault.state != "reverted" and f"{REVERTED}{fault.name}" not in data
        if is_open and (all_open or fault.deadline <= now):
            found.append(fault)
    return found


def sweep(namespace: str, *, all_open: bool = False) -> bool:
    """Reverts what is due; False once the run is closed.

    Raises:
        StepFailed: the ledger's copy cannot be read now.
    """
    data = msgspec.json.decode(perform(Step("GET", f"kube::{config_map_path(namespace)}")), type=_ConfigMap).data
    if CLOSED in data:
        return False
    for fault in due(data, time.time(), all_open=all_open):
        try:
            perform_all(fault.rollback)
        except WorldGone as gone:
            print(f"{fault.name}: nothing left to undo: {gone}", flush=True)
        except StepFailed as failure:
            print(f"{fault.name}: {failure}", flush=True)
            continue
        note = msgspec.json.encode({"data": {f"{REVERTED}{fault.name}": f"{time.time():.3f}"}}).decode()
        perform(Step("PATCH", f"kube::{config_map_path(namespace)}", note, "application/merge-patch+json"))
        print(f"reverted {fault.name}", flush=True)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.cluster_reaper")
    parser.add_argument("--namespace", required=True, help="where the ledger's copy lies")
    namespace: str = parser.parse_args().namespace
    ending = False

    def end(_: int, __: FrameType | None) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, end)
    while True:
        try:
            if not sweep(namespace, all_open=ending) or ending:
                return
        except WorldGone:
            return  # the ConfigMap is gone, and the run's namespaces with it
        except StepFailed as failure:
            print(failure, file=sys.stderr, flush=True)
            if ending:
                return
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
