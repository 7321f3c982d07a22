"""One locust worker of a load that takes several pods: waits for its plan, then is locust.

    python -m gameday.worlds.kind.worker

The plan is the agent's (GET /load on its port); a worker that has it knows its share, and dials the master.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec

from gameday.worlds.kind.names import AGENT, AGENT_PORT, APP_MOUNT, LOAD_NAMESPACE
from loadtests.plan import LoadPlan, environment, worker_command, write_plan

AGENT_HOST = f"{AGENT}.{LOAD_NAMESPACE}.svc.cluster.local"
PLAN = Path("/tmp/load-plan.json")  # noqa: S108 - a volume of the pod's own
POLL_SECONDS = 0.5


def main() -> None:
    """Never returns: the process becomes locust."""
    url = f"http://{AGENT_HOST}:{AGENT_PORT}/load"
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2.0) as answer:
                plan = msgspec.json.decode(answer.read(), type=LoadPlan)
            break
        except (OSError, urllib.error.URLError, msgspec.DecodeError):
            time.sleep(POLL_SECONDS)  # no load is wanted yet
    write_plan(msgspec.structs.replace(plan, app=f"{APP_MOUNT}/app.yaml", output="-"), PLAN)
    command = worker_command(AGENT_HOST)
    os.execve(sys.executable, command, {**os.environ, **environment(PLAN)})


if __name__ == "__main__":
    main()
