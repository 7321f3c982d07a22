"""The runner's side of a world on Kubernetes.

    cluster ─ images ─ guard ─ run namespace with reaper ─ mesh ─ application ─ agent ─ ready ─ clocks compared

Steps that block run one after another on a thread of their own; one that is under way when the run is interrupted is
waited for, so that what it makes is known when everything is taken down again.

One file although it is long: it is the order in which a world comes up and goes; how each step is done lies beside it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
from lightkube import Client

from chaos.kube import Access
from chaos.processes import started_at
from chaos.requests import Step, StepFailed, perform
from chaos.world import FILE, ClusterAddress, ControlComponent, Named, PodAddress, WorldState
from gameday.errors import BadInput, WorldFailed
from gameday.worlds.base import WorldOptions
from gameday.worlds.kind import cluster, doctor, images, mesh, prometheus
from gameday.worlds.kind import names as n
from gameday.worlds.kind.access import FILE as ACCESS
from gameday.worlds.kind.access import KUBECONFIG, client_of, write_access
from gameday.worlds.kind.clock import MAX_OFFSET_SECONDS, Offset, measure
from gameday.worlds.kind.guard import forbidden
from gameday.worlds.kind.manifests import AppTooLarge, app_objects, load_objects, run_objects, scenario_resources
from gameday.worlds.kind.messages import Clock, LoadStopped, Pods
from gameday.worlds.kind.objects import apply, namespaces, pods_of_run
from gameday.worlds.kind.pods import Pod
from gameday.worlds.kind.record import Made
from gameday.worlds.kind.remove import keep_logs, remove_world
from gameday.worlds.kind.stream import Intake, Stream
from loadtests.plan import LoadPlan
from mesh.deploy.labels import NAMESPACE as MESH_NAMESPACE
from mesh.kube.client import ClusterUnreachable, connect, http_of
from reports.store import RunStore
from scenarios.model import Scenario

READY_SECONDS = 300.0
STREAM_GRACE_SECONDS = 10.0
FAILED_STARTS = 3
"""Ends of one container before the world is up, after which it will not come up."""
T = TypeVar("T")


class KindLoad:
    """The load, as the agent runs it."""

    def __init__(self, world: KindWorld) -> None:
        self._world = world
        self.ended: int | None = None

    @property
    def exit_code(self) -> int | None:
        return self.ended

    async def stop(self, grace_seconds: float) -> None:
        """Returns when the last result is in the requests file. Raises WorldFailed: the agent does not answer."""
        await self._world.stop_load(grace_seconds)


class KindWorld:
    """One run's world in a cluster."""

    name = "kind"

    def __init__(self, scenario: Scenario, run_dir: Path, options: WorldOptions) -> None:
        """Looks whether the run could start; nothing is started yet.

        Raises:
            BadInput: Docker or kind is missing, or the cluster holds something that the run must not touch.
        """
        self._scenario = scenario
        self._run_dir = run_dir
        self._options = options
        self._run = n.run_label(run_dir.name)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kind")
        self._load = KindLoad(self)
        self._stream: Stream | None = None
        self._offset = Offset(0.0, 0.0)
        self._agent = ""
        self._progress: Callable[[str], None] = lambda _: None
        name = None if options.context is not None else options.cluster or n.cluster_name(self._run)
        self._made = Made(run=self._run, cluster=name)
        self._begun = False
        self._stopping = False
        self._check()

    # ---- beforehand

    def _check(self) -> None:
        options = self._options
        if options.context is not None and options.cluster is not None:
            raise BadInput("--cluster and --context both name a cluster; give one")
        if options.load_workers < 1:
            raise BadInput("--load-workers: one pod at least sends the load")
        lacks = doctor.missing(options)
        if lacks is not None:
            raise BadInput(lacks)
        try:
            if self._made.cluster is None:
                client: Client | None = connect(options.context)
            elif self._made.cluster in cluster.clusters():
                kubeconfig = self._run_dir / KUBECONFIG
                cluster.write_kubeconfig(self._made.cluster, kubeconfig)
                client = connect(None, str(kubeconfig))
            else:
                client = None
            if client is not None:
                self._guard(client)
            throttles = any(fault.kind == "network-throttle" for fault in self._scenario.faults)
            if throttles and self._made.cluster is not None and cluster.has_image(n.AGENT_IMAGE):
                cannot = doctor.throttling(throttles)
                if cannot is not None:
                    raise BadInput(cannot)
        except (ClusterUnreachable, WorldFailed) as error:
            self._forget()
            raise BadInput(str(error)) from None
        except BadInput:
            self._forget()
            raise

    def _guard(self, client: Client) -> None:
        existing = namespaces(client)
        why = forbidden(self._needed(), existing, self._run, self._options.allowed_namespaces)
        if why is not None:
            raise BadInput(why)
        if MESH_NAMESPACE in existing:
            unfit = mesh.unfit(client, self._scenario.identity)
            if unfit is not None:
                raise BadInput(f"the mesh in namespace {MESH_NAMESPACE} cannot be used: {unfit}")

    def _needed(self) -> list[str]:
        apps = sorted({service.namespace for service in self._scenario.app.services})
        return [n.RUN_NAMESPACE, MESH_NAMESPACE, n.LOAD_NAMESPACE, *apps]

    def _forget(self) -> None:
        (self._run_dir / KUBECONFIG).unlink(missing_ok=True)

    # ---- up

    async def up(self, progress: Callable[[str], None]) -> None:
        """All of it, ready, with the load's pod in the mesh.

        Raises:
            WorldFailed
        """
        self._begun = True
        self._progress = progress
        began = time.monotonic()
        client = await self._do(self._cluster)
        await self._do(self._images)
        await self._do(self._put_in, client)
        await self._do(self._wait_ready, client)
        self._agent = await self._do(self._find_agent, client)
        self._write_state(())
        await self._do(self._compare_clocks)
        progress(f"the world is up after {time.monotonic() - began:.0f} s")

    def _cluster(self) -> Client:
        name, options = self._made.cluster, self._options
        if name is None:
            write_access(self._run_dir, Access(context=options.context))
            self._made.write(self._run_dir)
            return client_of(self._run_dir)
        kubeconfig = self._run_dir / KUBECONFIG
        write_access(self._run_dir, Access(kubeconfig=str(kubeconfig)))
        if name not in cluster.clusters():
            began = time.monotonic()
            self._made.created = not options.keep_cluster
            self._made.write(self._run_dir)
            cluster.create(name, kubeconfig)
            self._progress(f"cluster {name} created in {time.monotonic() - began:.0f} s")
        else:
            self._made.write(self._run_dir)
            cluster.write_kubeconfig(name, kubeconfig)
        return client_of(self._run_dir)

    def _images(self) -> None:
        name = self._made.cluster
        if name is None:
            context = self._options.context or ""
            name = context.removeprefix("kind-") if context.startswith("kind-") else None
        if name is None:
            return  # somebody else's cluster pulls what it needs, or has it
        images.prepare(self._progress)
        prometheus_image = self._options.prometheus
        images.put_on_nodes(name, [prometheus_image] if prometheus_image is not None else [], self._progress)

    def _put_in(self, client: Client) -> None:
        scenario, run = self._scenario, self._run
        existing = namespaces(client)
        kept = frozenset(name for name in self._needed() if name in existing)
        self._made.guests = sorted(kept)
        self._made.namespaces = [name for name in self._needed() if name not in kept]
        self._made.mesh = MESH_NAMESPACE not in kept
        self._made.write(self._run_dir)
        self._apply(client, run_objects(run))
        if self._made.mesh:
            began = time.monotonic()
            mesh.install(client, scenario.identity, run, lambda _: None)
            self._progress(f"mesh installed in {time.monotonic() - began:.0f} s")
        try:
            application = app_objects(scenario, run, self._options.seed, kept)
        except AppTooLarge as error:
            raise WorldFailed(str(error)) from None
        load = load_objects(scenario.app, run, self._options.load_workers)
        objects = [*application, *scenario_resources(scenario.resources), *load]
        if self._options.prometheus is not None:
            objects += prometheus.prometheus_objects(scenario, run, self._options.prometheus)
        self._apply(client, [item for item in objects if item["kind"] == "Namespace"])
        mesh.wait_for_injection(client, n.LOAD_NAMESPACE)
        self._apply(client, [item for item in objects if item["kind"] != "Namespace"])

    def _apply(self, client: Client, objects: list[dict[str, object]]) -> None:
        for item in objects:
            if self._stopping:
                raise WorldFailed("interrupted while coming up")
            apply(client, item)

    def _wait_ready(self, client: Client) -> None:
        app = self._scenario.app
        workers = self._options.load_workers
        wanted = sum(service.replicas for service in app.services) + 1 + (workers if workers > 1 else 0)
        began = time.monotonic()
        while True:
            listed = pods_of_run(client, self._run)
            pods = [pod for pod in listed if n.SERVICE_LABEL in pod.metadata.labels]
            waiting = [pod for pod in listed if not pod.ready and not pod.ending]
            if len(pods) >= wanted and not waiting:
                unmeshed = _without_proxy(pods, {s.name for s in app.services if not s.meshed})
                if unmeshed:
                    raise WorldFailed(
                        f"no sidecar in {', '.join(unmeshed[:3])}: the injector was not asked or not there"
                    )
                self._progress(f"{len(pods)} pods ready in {time.monotonic() - began:.0f} s")
                return
            if self._stopping:
                raise WorldFailed("interrupted while coming up")
            hopeless = _hopeless(waiting)
            if hopeless is not None:
                raise WorldFailed(f"{hopeless}; see {self._run_dir / 'logs'}")
            if time.monotonic() - began > READY_SECONDS:
                names = ", ".join(f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in waiting[:4])
                raise WorldFailed(
                    f"{len(pods)} of {wanted} pods after {READY_SECONDS:.0f} s, not ready: {names or 'none'};"
                    f" see {self._run_dir / 'logs'}"
                )
            time.sleep(0.5)

    def _find_agent(self, client: Client) -> str:
        for pod in pods_of_run(client, self._run):
            if pod.metadata.labels.get("gameday.role") == n.AGENT and pod.ready:
                return f"/api/v1/namespaces/{n.LOAD_NAMESPACE}/pods/{pod.metadata.name}:{n.AGENT_PORT}/proxy"
        raise WorldFailed("the agent's pod is gone")

    def _compare_clocks(self) -> None:
        self._offset = measure(lambda: msgspec.json.decode(self._ask("GET", "/clock"), type=Clock).now)
        if self._offset.too_far:
            raise WorldFailed(
                f"the cluster's clock is {self._offset.seconds * 1000:.0f} ms ahead of this machine's, and beyond"
                f" {MAX_OFFSET_SECONDS * 1000:.0f} ms nothing measured could be trusted; set both by NTP"
            )
        self._progress(
            f"the agent's clock: {self._offset.seconds * 1000:+.1f} ms from ours, ±{self._offset.error * 1000:.1f} ms"
        )

    # ---- load and eyes

    async def observe(self, store: RunStore) -> None:
        """Takes in what the agent sees, until cancelled."""

        def ended(code: int) -> None:
            self._load.ended = code

        intake = Intake(
            store,
            self._run_dir / "requests.ndjson",
            self._run_dir / "supervisor-events.ndjson",
            self._offset.correction,
            lambda pods: self._write_state(tuple(self._address(pods))),
            ended,
        )
        self._stream = Stream(self._run_dir, self._agent, intake, self._progress)
        await self._stream.run()

    async def start_load(self, plan: LoadPlan, log: Path) -> KindLoad:
        """Sends the plan to the agent."""
        plan = msgspec.structs.replace(plan, workers=self._options.load_workers)
        await self._do(self._ask, "POST", "/load", msgspec.json.encode(plan).decode())
        return self._load

    async def stop_load(self, grace_seconds: float) -> None:
        """Ends the load and waits for its last result. Raises WorldFailed."""
        path = f"/load/stop?grace={quote(f'{grace_seconds:g}')}"
        body = await self._do(lambda: self._ask("POST", path, timeout=grace_seconds + 10.0))
        stopped = msgspec.json.decode(body, type=LoadStopped)
        if self._options.prometheus is not None:
            await self._do(self._save_prometheus)
        stream = self._stream
        if stream is not None and not await stream.reached(stopped.offset, STREAM_GRACE_SECONDS):
            raise WorldFailed("the agent's last results did not arrive; what was measured before is kept")

    def _save_prometheus(self) -> None:
        """What Prometheus counted; without an answer the run goes on, for it is no part of the verdict."""
        try:
            found = prometheus.counted(client_of(self._run_dir), self._scenario)
        except (prometheus.ProxyFailed, WorldFailed) as error:
            self._progress(f"Prometheus did not tell what it counted: {error}")
            return
        (self._run_dir / prometheus.FILE).write_bytes(msgspec.json.format(msgspec.json.encode(found)))
        total = sum(row["count"] for row in found["requests"])
        failed = sum(row["count"] for row in found["requests"] if row["status"].startswith("5") or not row["status"])
        fired = ", ".join(found["alerts"]) or "none"
        self._progress(
            f"Prometheus counted {total:.0f} requests, {failed:.0f} of them failed; alerts that fired: {fired}"
        )

    def _ask(self, method: str, path: str, body: str = "", timeout: float | None = None) -> bytes:
        """A request to the agent. Raises WorldFailed."""
        if timeout is None:
            try:
                return perform(Step(method, f"kube:{self._run_dir / ACCESS}:{self._agent}{path}", body))
            except StepFailed as error:
                raise WorldFailed(f"the agent: {error}") from None
        answer = http_of(client_of(self._run_dir)).request(method, f"{self._agent}{path}", timeout=timeout)
        if answer.status_code != 200:
            raise WorldFailed(f"the agent: {answer.status_code} {answer.text[:200]}")
        return answer.content

    # ---- where things are

    def _address(self, pods: Pods) -> list[PodAddress]:
        services = {service.name: service for service in self._scenario.app.services}
        found = []
        for row in pods.rows:
            service = services.get(row.service)
            meshed = service is None or service.meshed
            workload = service is not None and service.command is None
            found.append(
                PodAddress(
                    name=row.name,
                    service=row.service,
                    namespace=row.namespace,
                    ip=row.ip,
                    app=f"{row.ip}:{service.port}" if service is not None else None,
                    inbound=f"{row.ip}:{n.PROXY_INBOUND_PORT}",
                    outbound=f"{row.ip}:{n.PROXY_OUTBOUND_PORT}",
                    proxy_admin=f"{row.ip}:{n.PROXY_ADMIN_PORT}" if meshed else None,
                    workload_admin=f"{row.ip}:{n.WORKLOAD_ADMIN_PORT}" if workload else None,
                    processes=(),
                    pod=row.pod,
                )
            )
        return found

    def _write_state(self, pods: tuple[PodAddress, ...]) -> None:
        control = {
            component: ControlComponent(
                address="",
                admin=f":{port}",
                process=f"control/{component}",
                deployment=n.CONTROL_DEPLOYMENTS[component],
                selector=f"{n.CONTROL_COMPONENT_LABEL}={n.CONTROL_DEPLOYMENTS[component].removeprefix('linkerd-')}",
            )
            for component, port in n.CONTROL_ADMIN_PORTS.items()
        }
        state = WorldState(
            run=self._run,
            ready=True,
            runner=Named(pid=os.getpid(), start=started_at(os.getpid()) or ""),
            control=control,
            pods=pods,
            processes={},
            cluster=ClusterAddress(
                access=str(self._run_dir / ACCESS),
                mesh_namespace=MESH_NAMESPACE,
                run_namespace=n.RUN_NAMESPACE,
                agent=self._agent,
                agent_image=n.AGENT_IMAGE,
            ),
        )
        temporary = self._run_dir / f".{FILE}.tmp"
        temporary.write_bytes(msgspec.json.encode(state))
        os.replace(temporary, self._run_dir / FILE)

    # ---- down

    async def down(self) -> None:
        """Takes away all that was made. Raises WorldFailed: something stayed; `gameday recover` tries again."""
        self._stopping = True
        if not self._begun:
            return
        self._begun = False
        await self._do(keep_logs, self._made, self._run_dir)
        await self._do(remove_world, self._made, self._run_dir)
        self._forget()
        self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*arguments))


def _without_proxy(pods: list[Pod], unmeshed: set[str]) -> list[str]:
    """Pods that should have a sidecar and have none."""
    return [
        f"{pod.metadata.namespace}/{pod.metadata.name}"
        for pod in pods
        if pod.metadata.labels[n.SERVICE_LABEL] not in unmeshed
        and not any(container.name == n.PROXY_CONTAINER for container in pod.containers())
    ]


def _hopeless(pods: list[Pod]) -> str | None:
    """Which container ends again and again, or has an image that nobody has; None while all may still come up."""
    for pod in pods:
        for container in pod.containers():
            waiting = container.state.waiting
            reason = waiting.reason if waiting is not None else ""
            crashes = container.restart_count >= FAILED_STARTS and not container.ready
            if crashes or reason in ("ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName"):
                why = f"ended {container.restart_count} times" if crashes else f"has no image ({reason})"
                return f"{pod.metadata.namespace}/{pod.metadata.name}: container {container.name} {why}"
    return None
