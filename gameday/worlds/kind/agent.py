"""The program in the cluster: sends the load, looks at everything once a second, and keeps what it saw.

    python -m gameday.worlds.kind.agent --run RUN --app /gameday/app.yaml --spool /spool --mesh-namespace linkerd

Its pod is injected, so that load enters the mesh through a proxy like any client's; scrapes and API calls go past that
proxy (ports that the pod's annotations name), or they would count as the mesh's traffic.

    GET    /ready                     200 once all pods were listed
    GET    /clock                     our Unix seconds, to measure the offset between two machines' clocks
    GET    /targets                   the proxies, for Prometheus' HTTP service discovery
    GET    /stream?offset=N           the spool from there on, for ever
    POST   /load                      a load plan (loadtests.plan); the same again is the same once
    GET    /load                      that plan, for workers; 404 before
    POST   /load/stop?grace=SECONDS   ends the load; answers when the last result is in the spool
    PUT    /telemetry/<fault>         ["cart"]: scrapes of these fail until
    DELETE /telemetry/<fault>
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import ssl
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from gameday.ingest import LineTail
from gameday.scrape import Scraper
from gameday.worlds.kind.messages import (
    Begun,
    Clock,
    Happened,
    Line,
    LoadEnded,
    LoadStopped,
    NewSeries,
    Pods,
    ProcessUsage,
    Result,
    Samples,
    encode,
)
from gameday.worlds.kind.names import (
    AGENT_PORT,
    CONTROL_COMPONENT_LABEL,
    LOAD_SERVICE,
    PROXY_ADMIN_PORT,
    RUN_LABEL,
    SPOOL_MOUNT,
)
from gameday.worlds.kind.pods import Fleet, Pod, decode_pods
from gameday.worlds.kind.spool import Spool
from loadtests.plan import LoadPlan, command, environment, worker_options, write_plan
from loadtests.results import parse_line
from reports.store import Usage
from scenarios.load.application import load_application

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LIST_SECONDS, LIST_TIMEOUT_SECONDS = 1.0, 3.0
RESULTS_SECONDS = 0.2
SILENCE_SECONDS = 2.0
REACH_SECONDS = 15.0
CPU, MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"


class ApiServer:
    """The Kubernetes API with the pod's own service account."""

    def __init__(self, account: Path = SERVICE_ACCOUNT) -> None:
        self._account = account
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        self._base = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        context = ssl.create_default_context(cafile=str(account / "ca.crt"))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(total=LIST_TIMEOUT_SECONDS)
        )

    async def pods(self, path: str, selector: str) -> list[Pod]:
        """Raises aiohttp.ClientError, TimeoutError."""
        token = (self._account / "token").read_text()  # kubelet rotates it
        query = {"labelSelector": selector, "resourceVersion": "0"}  # from the server's cache: cheap for etcd
        async with self._session.get(
            f"{self._base}{path}", params=query, headers={"authorization": f"Bearer {token}"}
        ) as answer:
            answer.raise_for_status()
            return decode_pods(await answer.read())


class SpoolSink:
    """Takes scrapes and writes what changed into the spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._last: list[float | None] = []

    def add_samples(self, at: float, process: str, samples: Iterable[tuple[str, str, float]]) -> None:
        lines: list[Line] = []
        values: list[tuple[int, float]] = []
        cpu = memory = None
        for name, labels, value in samples:
            number = self._numbers.get((process, name, labels))
            if number is None:
                number = self._numbers[process, name, labels] = len(self._last)
                self._last.append(None)
                lines.append(NewSeries(number, process, name, labels))
            if self._last[number] != value:
                self._last[number] = value
                values.append((number, value))
            if name == CPU:
                cpu = value
            elif name == MEMORY:
                memory = value
        if values:
            lines.append(Samples(round(at, 6), process, values))
        if cpu is not None and memory is not None:
            lines.append(ProcessUsage(round(at, 6), process, cpu, int(memory)))
        self._spool.append(encode(line) for line in lines)

    def add_usage(self, usages: Iterable[Usage]) -> None:
        """Usage comes with the metrics here; there is no other."""


class Agent:
    """Everything that the pod does."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._run: str = arguments.run
        self._mesh_namespace: str = arguments.mesh_namespace
        self._app = Path(arguments.app)
        self._folder = Path(arguments.spool)
        app = self._topology = load_application(self._app)
        self._spool = Spool(self._folder / "spool.ndjson")
        self._fleet = Fleet(frozenset(service.name for service in app.services if service.command is None))
        self._unmeshed = {service.name for service in app.services if not service.meshed}
        self._blocked: dict[str, tuple[str, ...]] = {}
        self._plan: LoadPlan | None = None
        self._load: asyncio.subprocess.Process | None = None
        self._results = LineTail(self._folder / "requests.ndjson")
        self._watching: asyncio.Task[None] | None = None
        self._listed = False
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Until told to stop; the load ends with it."""
        self._write(Begun(time.time(), self._run))
        runner = web.AppRunner(self._routes(), handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", AGENT_PORT).start()
        works = [
            asyncio.create_task(self._list_forever()),
            asyncio.create_task(Scraper(SpoolSink(self._spool), self._targets, list).run()),
            asyncio.create_task(self.stopping.wait()),
        ]
        try:
            done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            for work in done:
                work.result()  # an agent that cannot see any more must not go on as if it did
        finally:
            for work in works:
                work.cancel()
            await self._end_load(1.0)
            await runner.cleanup()
            self._spool.close()

    # ---- looking

    async def _list_forever(self) -> None:
        api = ApiServer()
        label = f"{RUN_LABEL}={self._run}"
        control_path = f"/api/v1/namespaces/{self._mesh_namespace}/pods"
        while True:
            # While the API server is away, the pods last listed go on being scraped.
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
                pods, control = await asyncio.gather(
                    api.pods("/api/v1/pods", label), api.pods(control_path, CONTROL_COMPONENT_LABEL)
                )
                self._take(pods, control)
            await asyncio.sleep(LIST_SECONDS)

    def _take(self, pods: list[Pod], control: list[Pod]) -> None:
        before = self._fleet.rows
        events = self._fleet.update(pods, control)
        now = time.time()
        if self._listed:
            for event in events:
                self._write(Happened(now, event.kind, event.text, {"process": event.process}))
        if self._fleet.rows != before:
            self._write(Pods(now, list(self._fleet.rows)))
        self._listed = True

    def _targets(self) -> list[tuple[str, str | None]]:
        blocked = {name for names in self._blocked.values() for name in names}
        return [(process, None if is_blocked(process, blocked) else url) for process, url in self._fleet.targets()]

    # ---- load

    async def _start_load(self, plan: LoadPlan) -> None:
        if self._plan is not None:
            return
        await self._reach_services()
        self._plan = msgspec.structs.replace(
            plan, app=str(self._app), proxy=None, direct=True, output=str(self._folder / "requests.ndjson")
        )
        path = self._folder / "load-plan.json"
        write_plan(self._plan, path)
        with (self._folder / "load.log").open("ab") as log:
            self._load = await asyncio.create_subprocess_exec(
                *command(worker_options(plan.workers), users=plan.workers),
                env={**os.environ, **environment(path)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
            )
        self._watching = asyncio.create_task(self._watch_load(self._load))

    async def _reach_services(self) -> None:
        """Waits until every service that a journey begins or goes on with takes connections.

        A pod is ready a moment before the nodes' rules lead to it; load must not be sent into that moment.
        """
        steps = {step.service for journey in self._topology.journeys for step in journey.steps}
        deadline = time.monotonic() + REACH_SECONDS
        for service in (self._topology.service(name) for name in sorted(steps)):
            while time.monotonic() < deadline:
                try:
                    _, writer = await asyncio.wait_for(asyncio.open_connection(f"{service.host}.", service.port), 2.0)
                    writer.transport.abort()
                    break
                except (OSError, TimeoutError):
                    await asyncio.sleep(0.2)

    async def _watch_load(self, load: asyncio.subprocess.Process) -> None:
        ended = asyncio.create_task(load.wait())
        while not ended.done():
            await asyncio.wait((ended,), timeout=RESULTS_SECONDS)
            self._take_results()
        self._take_results()
        self._write(LoadEnded(load.returncode if load.returncode is not None else -1))

    def _take_results(self) -> None:
        self._spool.append(encode(Result(*parse_line(line))) for line in self._results.read())

    async def _end_load(self, grace: float) -> int:
        """The driver's exit code; 0 where none was started."""
        load, watching = self._load, self._watching
        if load is None or watching is None:
            return 0
        if load.returncode is None:
            load.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(load.wait(), grace)
        if load.returncode is None:
            load.kill()
        await watching
        return load.returncode or 0

    # ---- API

    def _routes(self) -> web.Application:
        app = web.Application(client_max_size=4 * 1024**2)
        app.router.add_get("/ready", self._get_ready)
        app.router.add_get("/clock", self._get_clock)
        app.router.add_get("/targets", self._get_targets)
        app.router.add_get("/stream", self._get_stream)
        app.router.add_get("/load", self._get_load)
        app.router.add_post("/load", self._post_load)
        app.router.add_post("/load/stop", self._post_stop)
        app.router.add_put("/telemetry/{name:[a-z0-9-]+}", self._put_telemetry)
        app.router.add_delete("/telemetry/{name:[a-z0-9-]+}", self._delete_telemetry)
        return app

    async def _get_ready(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._listed else 503, text="ok\n" if self._listed else "not listed yet\n")

    async def _get_clock(self, _: web.Request) -> web.Response:
        return _json(Clock(time.time()))

    async def _get_targets(self, _: web.Request) -> web.Response:
        return _json(
            [
                {
                    "targets": [f"{row.ip}:{PROXY_ADMIN_PORT}"],
                    "labels": {"namespace": row.namespace, "pod": row.pod, "service": row.service, "process": row.name},
                }
                for row in self._fleet.rows
                if row.service not in self._unmeshed
            ]
        )

    async def _get_stream(self, request: web.Request) -> web.StreamResponse:
        text = request.query.get("offset", "0")
        if not text.isascii() or not text.isdigit() or int(text) > self._spool.size:
            raise web.HTTPConflict(text=f"offset {text} is beyond the spool ({self._spool.size}): another agent's")
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the runner will come back with its offset
            async for data in self._spool.read(int(text), SILENCE_SECONDS):
                await response.write(data)
        return response

    async def _post_load(self, request: web.Request) -> web.Response:
        try:
            plan = msgspec.json.decode(await request.read(), type=LoadPlan)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        await self._start_load(plan)
        return _json({})

    async def _get_load(self, _: web.Request) -> web.Response:
        if self._plan is None:
            raise web.HTTPNotFound(text="no load yet")
        return _json(self._plan)

    async def _post_stop(self, request: web.Request) -> web.Response:
        try:
            grace = float(request.query.get("grace", "1"))
        except ValueError:
            raise web.HTTPBadRequest(text="grace: seconds expected") from None
        code = await self._end_load(grace)
        return _json(LoadStopped(code, self._spool.size))

    async def _put_telemetry(self, request: web.Request) -> web.Response:
        try:
            self._blocked[request.match_info["name"]] = msgspec.json.decode(await request.read(), type=tuple[str, ...])
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=f'{error}; write ["cart"]') from None
        return _json({})

    async def _delete_telemetry(self, request: web.Request) -> web.Response:
        self._blocked.pop(request.match_info["name"], None)
        return _json({})

    def _write(self, line: Line) -> None:
        self._spool.append([encode(line)])


def is_blocked(process: str, blocked: set[str]) -> bool:
    """Whether a fault keeps `cart-0/proxy` or `control/policy` from being scraped."""
    pod, _, _ = process.partition("/")
    return bool({"all", pod, pod.rpartition("-")[0]} & blocked)


def _json(body: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _serve(arguments: argparse.Namespace) -> None:
    agent = Agent(arguments)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stopping.set)
    print(f"{LOAD_SERVICE}: agent of run {arguments.run} on port {AGENT_PORT}", flush=True)
    await agent.run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gameday.worlds.kind.agent")
    parser.add_argument("--run", required=True, help="the run, as its pods' label says it")
    parser.add_argument("--app", required=True, help="the application file")
    parser.add_argument("--spool", default=SPOOL_MOUNT, help="a folder that outlives this container")
    parser.add_argument("--mesh-namespace", default="linkerd")
    asyncio.run(_serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
