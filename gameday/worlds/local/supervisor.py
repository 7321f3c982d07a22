"""The supervisor of an embedded world: a process of its own that outlives the runner.

    python -m gameday.worlds.local.supervisor RUN_DIR

It reads RUN_DIR/spec.json, brings everything up, writes world.json, serves its API on a unix socket, and ends when told
to (`/shutdown`, SIGTERM) or when the runner is gone and no fault is left to revert. A fault that cannot be reverted
keeps it for a while, and nothing stays for ever.

    GET  /status
    POST /processes/<name>/down   {"signal": "KILL"|"TERM"}     ended, and stays down
    POST /processes/<name>/up                                   wanted again; the same twice is the same once
    POST /pods/<name>/kill                                      SIGKILL to its processes, which are then restarted
    PUT|DELETE /registry/<name>   a manifest                    added to what the control plane reads; taken away
    PUT|DELETE /telemetry/<name>  ["cart"]                      services whose scrapes are blocked; let through again
    POST /shutdown
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiohttp import web

from chaos.ledger import Ledger
from chaos.processes import is_alive, record_child, started_at
from chaos.world import FILE, Named, PodAddress, SupervisorAddress, WorldState
from gameday.worlds.local.addresses import plan_of
from gameday.worlds.local.layout import Layout, lay_out
from gameday.worlds.local.registry import Registry
from gameday.worlds.local.supervised import Supervised
from mesh.viz.pods import Pod
from reports.run import scenario_from

SPEC = "spec.json"
EVENTS = "supervisor-events.ndjson"
VIZ_PODS = "pods.json"
"""For `python -m mesh.viz --pods`."""
STARTING_AT_ONCE = 6
"""More only queue for the cores."""
GRACE_SECONDS, KILL_SECONDS = 3.0, 5.0
FAILED_STARTS = 4
"""Exits of one process before the world is up, after which it will not come up."""
BAD_CONFIGURATION = 2
"""Exit code of our own programs for input that no restart mends."""
ORPHAN_VARIABLE = "GAMEDAY_ORPHAN_SECONDS"
ORPHAN_SECONDS = 120.0
"""Without a runner, while a fault is still to be reverted."""
IDLE_ORPHAN_SECONDS = 3.0
"""Without a runner or such a fault: chaostoolkit may be in the middle of its last step."""


class WorldSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner wants; written to spec.json."""

    run: str
    scenario: dict[str, object]
    seed: int
    addresses: str
    """Label of the address plan; the inherited socket `lock_fd` keeps it ours."""
    runner: Named
    version: str


class Down(msgspec.Struct, frozen=True):
    """Body of a `down`."""

    signal: Literal["KILL", "TERM"] = "KILL"


class Supervisor:
    """Everything that runs in this world."""

    def __init__(self, spec: WorldSpec, run_dir: Path) -> None:
        self._spec = spec
        self._run_dir = run_dir
        self._scenario = scenario_from(spec.scenario)
        self._layout: Layout = lay_out(self._scenario, run_dir, plan_of(spec.addresses), spec.seed)
        self._registry = Registry(run_dir / "registry", spec.version)
        self._slots = asyncio.Semaphore(STARTING_AT_ONCE)
        self._events = (run_dir / EVENTS).open("ab", buffering=0)
        self._processes = {
            process.name: Supervised(process, run_dir, self._slots, self._report) for process in self._layout.processes
        }
        self._published: dict[str, bool] = {}
        self._all_were_ready = False
        self._written: tuple[bool, dict[str, int], tuple[str, ...]] | None = None
        self._blocked: dict[str, tuple[str, ...]] = {}
        self.stopping = asyncio.Event()
        self.failure: str | None = None
        """Why the world did not come up."""
        # A unix socket's path may be a hundred bytes at most, and the run's folder may be deep.
        self._socket_dir = tempfile.mkdtemp(prefix="gameday-")
        self.socket = f"{self._socket_dir}/supervisor"

    # ---- life

    async def run(self) -> None:
        """Until told to stop, or until the runner has been gone for too long."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._on_child)
        self._registry.write_static(self._scenario, self._layout.pods)
        (self._run_dir / VIZ_PODS).write_bytes(msgspec.json.encode([_as_viz_sees(pod) for pod in self._layout.pods]))
        self._publish_readiness()
        runner = web.AppRunner(self._routes())
        await runner.setup()
        await web.UnixSite(runner, self.socket).start()
        self._write_state()
        try:
            for process in self._processes.values():
                process.up()
            await self._watch()
        finally:
            await self._end_all()
            await runner.cleanup()
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._report("down", "supervisor", "the world is down")

    def _on_child(self) -> None:
        for process in self._processes.values():
            process.child_exited()

    def _will_not_come_up(self) -> str | None:
        for name, process in self._processes.items():
            if process.last_exit == BAD_CONFIGURATION or process.restarts >= FAILED_STARTS:
                return f"{name} does not start: {_last_line(process.log)} (see {process.log})"
        return None

    async def _watch(self) -> None:
        patience = float(os.environ.get(ORPHAN_VARIABLE, ORPHAN_SECONDS))
        gone_since: float | None = None
        checked = 0.0
        while not self.stopping.is_set():
            self._publish_readiness()
            self._write_state()
            if not self._all_were_ready:
                self.failure = self._will_not_come_up()
                if self.failure is not None:
                    self._report("failed", "supervisor", self.failure)
                    return
            now = time.monotonic()
            if now - checked > 1.0:
                checked = now
                if is_alive(self._spec.runner.pid, self._spec.runner.start):
                    gone_since = None
                else:
                    gone_since = gone_since if gone_since is not None else now
                    allowed = patience if self._faults_are_open() else IDLE_ORPHAN_SECONDS
                    if now - gone_since > allowed:
                        self._report(
                            "down", "supervisor", f"the runner has been gone for {allowed:g} s; ending the world"
                        )
                        return
            await asyncio.sleep(0.1)

    def _faults_are_open(self) -> bool:
        try:
            ledger = Ledger(self._run_dir)
        except FileNotFoundError:
            return False
        try:
            return any(record.open for record in ledger.records())
        finally:
            ledger.close()

    async def _end_all(self) -> None:
        for process in self._processes.values():
            process.hold_down(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and any(process.pid is not None for process in self._processes.values()):
            await asyncio.sleep(0.05)
        for process in self._processes.values():
            if process.pid is not None:
                process.send(signal.SIGKILL)
        deadline += KILL_SECONDS  # only a process that hangs in the kernel lasts longer, and nobody can end that
        while time.monotonic() < deadline and any(process.pid is not None for process in self._processes.values()):
            await asyncio.sleep(0.02)

    # ---- what others see

    def _publish_readiness(self) -> None:
        """Endpoint slices follow readiness: a pod is ready when all its processes are."""
        for pod in self._layout.pods:
            service = self._layout.services.get(pod.service)
            if service is None:
                continue
            ready = all(self._processes[name].ready for name in pod.processes)
            if self._published.get(pod.name) is not ready:
                self._published[pod.name] = ready
                self._registry.write_slice(service, pod, ready)

    def _write_state(self) -> None:
        if not self._all_were_ready and all(process.ready for process in self._processes.values()):
            self._all_were_ready = True
            self._report("ready", "world", "everything is ready")
        processes = {name: process.pid for name, process in self._processes.items() if process.pid is not None}
        blocked = tuple(sorted({service for services in self._blocked.values() for service in services}))
        if self._written == (self._all_were_ready, processes, blocked):
            return
        self._written = (self._all_were_ready, processes, blocked)
        state = WorldState(
            run=self._spec.run,
            ready=self._all_were_ready,
            supervisor=SupervisorAddress(pid=os.getpid(), start=started_at(os.getpid()) or "", socket=self.socket),
            runner=self._spec.runner,
            control=self._layout.control,
            pods=self._layout.pods,
            processes=processes,
            blocked=blocked,
        )
        temporary = self._run_dir / f".{FILE}.tmp"
        temporary.write_bytes(msgspec.json.encode(state))
        os.replace(temporary, self._run_dir / FILE)

    def _report(self, kind: str, name: str, text: str) -> None:
        event = {"at": time.time(), "kind": kind, "text": text, "data": {"process": name}}
        self._events.write(msgspec.json.encode(event) + b"\n")

    # ---- API

    def _routes(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/status", self._get_status)
        app.router.add_post("/processes/{name:.+}/down", self._post_down)
        app.router.add_post("/processes/{name:.+}/up", self._post_up)
        app.router.add_post("/pods/{name}/kill", self._post_kill)
        app.router.add_put("/registry/{name:[a-z0-9-]+}", self._put_manifest)
        app.router.add_delete("/registry/{name:[a-z0-9-]+}", self._delete_manifest)
        app.router.add_put("/telemetry/{name:[a-z0-9-]+}", self._put_telemetry)
        app.router.add_delete("/telemetry/{name:[a-z0-9-]+}", self._delete_telemetry)
        app.router.add_post("/shutdown", self._post_shutdown)
        return app

    async def _get_status(self, _: web.Request) -> web.Response:
        return _json(
            {
                name: {"pid": process.pid, "ready": process.ready, "restarts": process.restarts}
                for name, process in self._processes.items()
            }
        )

    async def _post_down(self, request: web.Request) -> web.Response:
        process = self._named(request)
        try:
            how = msgspec.json.decode(await request.read() or b"{}", type=Down).signal
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=f'{error}; write {{"signal": "KILL"}} or TERM') from None
        process.hold_down(signal.SIGKILL if how == "KILL" else signal.SIGTERM)
        self._report("down", process.spec.name, f"{process.spec.name} taken down on purpose (SIG{how})")
        return _json({})

    async def _post_up(self, request: web.Request) -> web.Response:
        process = self._named(request)
        process.up()
        self._report("up", process.spec.name, f"{process.spec.name} may start again")
        return _json({})

    async def _post_kill(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        pod = next((pod for pod in self._layout.pods if pod.name == name), None)
        if pod is None:
            raise web.HTTPNotFound(text=f"no pod {name}")
        for process in pod.processes:
            self._processes[process].kill()
        self._report("kill", name, f"pod {name} killed on purpose (SIGKILL)")
        return _json({})

    async def _put_manifest(self, request: web.Request) -> web.Response:
        try:
            manifest = msgspec.json.decode(await request.read(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        self._registry.put(request.match_info["name"], manifest)
        return _json({})

    async def _delete_manifest(self, request: web.Request) -> web.Response:
        self._registry.remove(request.match_info["name"])
        return _json({})

    async def _put_telemetry(self, request: web.Request) -> web.Response:
        try:
            services = msgspec.json.decode(await request.read(), type=tuple[str, ...])
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=f'{error}; write ["cart"]') from None
        self._blocked[request.match_info["name"]] = services
        self._write_state()
        return _json({})

    async def _delete_telemetry(self, request: web.Request) -> web.Response:
        self._blocked.pop(request.match_info["name"], None)
        self._write_state()
        return _json({})

    async def _post_shutdown(self, _: web.Request) -> web.Response:
        self.stopping.set()
        return _json({})

    def _named(self, request: web.Request) -> Supervised:
        name = request.match_info["name"]
        if name not in self._processes:
            raise web.HTTPNotFound(text=f"no process {name}")
        return self._processes[name]


def _as_viz_sees(pod: PodAddress) -> Pod:
    return Pod(
        namespace=pod.namespace,
        name=pod.name,
        kind="Deployment",
        workload=pod.service,
        ip=pod.ip,
        admin=pod.proxy_admin or "",
        service_account=pod.service,
        addresses=tuple(address for address in (pod.app, pod.inbound) if address),
    )


def _json(body: dict[str, object]) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return lines[-1] if lines else "it said nothing"


async def _serve(run_dir: Path) -> str | None:
    """Until the end of the world; why it did not come up, or None."""
    spec = msgspec.json.decode((run_dir / SPEC).read_bytes(), type=WorldSpec)
    supervisor = Supervisor(spec, run_dir)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stopping.set)
    await supervisor.run()
    return supervisor.failure


def main() -> None:
    if len(sys.argv) != 2:
        print("usage: python -m gameday.worlds.local.supervisor RUN_DIR", file=sys.stderr)
        sys.exit(2)
    run_dir = Path(sys.argv[1])
    record_child(run_dir, "supervisor", os.getpid())
    failure = asyncio.run(_serve(run_dir))
    if failure is not None:
        print(failure, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
