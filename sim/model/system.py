"""One replication: the whole meshed system, put together and played.

Second 0 is the begin of the inject phase. The clock starts where the observation ended, so that certificates renew in
the twin as they do in reality meanwhile. So does load, if that is not long ago: pools, balancers and caches are then as
warm as the real ones, and of a destination that is asked every few seconds each knows what it knows in reality.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from random import Random
from typing import Any

from mesh.api.messages import Endpoint
from mesh.behavior.renewal import RENEW_AT_SHARE, next_attempt_delay
from scenarios.model import AppService, FaultSpec
from sim.model.agenda import TooManyEvents
from sim.model.app import AppPod
from sim.model.arrivals import Schedule, gaps
from sim.model.calendar import Calendar
from sim.model.control import WATCHED, ControlPlane, LeafHolder, expiry
from sim.model.distributions import declared
from sim.model.draws import Draws, Streams
from sim.model.faults import Unrepresented, process_of
from sim.model.load import LoadGenerator, Step
from sim.model.parameters import Parameters
from sim.model.processor import Machine, Thread
from sim.model.proxy import ClientProxy, Target
from sim.model.record import Record, Tally
from sim.model.route import RouteModel
from sim.model.setup import Setup
from sim.observation import PodState

LOAD_SERVICE = "loadgen"
WARM_UP_SECONDS = 6.0
"""Longer than the discovery cache's idle time."""
HISTORY_SECONDS = 20.0
"""Of load before second 0, at most: twice the time constant of the balancers' estimates."""
STARTING_LOOK_SECONDS = 0.005
"""At least so long between two looks whether a process has started."""
EVENTS_PER_SECOND_BOUND = 400_000
"""Of simulated time; a drill at full tilt needs a few thousand."""


class System:
    """The system of one replication. Build it, then `run`."""

    def __init__(
        self,
        setup: Setup,
        parameters: Parameters,
        streams: Streams,
        *,
        pods: tuple[PodState, ...] = (),
        start: float = -WARM_UP_SECONDS,
        load_from: float = -HISTORY_SECONDS,
        end: float | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """`pods`: leaves as observed, on the replication's clock. `end`: of arrivals; default the recover window's.
        `schedule`: the arrivals, where they are known; else Poisson ones at the parameters' rate."""
        self.setup = setup
        self.parameters = parameters
        self._end = setup.end if end is None else end
        self._load_from = max(start, load_from)
        self._loaded = False
        bound = int(EVENTS_PER_SECOND_BOUND * max(1.0, self._end - start))
        self.calendar = Calendar(start, bound)
        self.agenda = self.calendar.agenda
        self.record = Record()
        self._streams = streams
        self._schedule = schedule
        self._leaves = _Leaves(setup, pods, start, streams.random("leaves"))
        self._holders: dict[str, LeafHolder] = {}
        self.control = ControlPlane(
            self.calendar,
            setup.rules,
            setup.identity,
            setup.zero_at,
            streams.draws("discovery", parameters.discovery.block),
            parameters.delays,
            streams.random("rewatch"),
            streams.random("certify"),
            self.worked,
            self._component_leaves(),
        )
        for holder in self._holders.values():
            self.calendar.process(self.control.renewal(holder))
        self._pods_by_address: dict[str, AppPod] = {}
        self.pods: dict[str, list[AppPod]] = {}
        self._proxies: list[ClientProxy] = []
        cpu = parameters.cpu
        self._machine = Machine(cpu.cores, cpu.background, cpu.ahead) if cpu is not None else None
        self._overhead = streams.draws("overhead", parameters.overhead.block)
        self._handshake = streams.draws("handshake", parameters.handshake.block)
        self._balancing = streams.random("balancer")
        self._jitter = streams.random("jitter")
        self.restarts = streams.random("restarts")
        self._build()

    # ---- putting it together

    def _build(self) -> None:
        routes: dict[tuple[str, str, str], Target] = {}
        models: list[RouteModel] = []
        for service in self.setup.app.services:
            reached, meant = self.record.tallies(service.name)
            for route in service.routes:
                distribution = self.parameters.times.get((service.name, route.name)) or declared(route.service_time)
                times = self._streams.draws(f"work/{service.name}/{route.name}", distribution.block)
                model = RouteModel(route, times)
                models.append(model)
                routes[service.name, route.method, route.path] = Target(service.name, service.authority, model, meant)
            self._add_pods(service, reached)
        for target in routes.values():
            for pod in self.pods[target.service]:
                pod.routes[target.method, target.path] = target.route
        for model in models:
            model.calls = tuple(
                tuple(routes[call.service, call.method, call.path] for call in group) for group in model.route.calls
            )
        self._load = self._add_load(routes)
        for fault in self.setup.faults:
            try:
                self.calendar.process(process_of(fault, self))
            except Unrepresented:
                continue  # said beforehand, among the limits, by `sim.model.faults.check`

    def _component_leaves(self) -> dict[str, LeafHolder]:
        found: dict[str, LeafHolder] = {}
        for component in WATCHED:
            name = f"linkerd-{component}"
            expires_at, next_attempt_at = self._leaves.of(name, name)

            def alive(component: str = component) -> bool:
                return self.control.is_up(component)

            found[component] = LeafHolder(expires_at, next_attempt_at, alive, lambda _: None)
            self._holders[name] = found[component]
        return found

    def _add_pods(self, service: AppService, reached: Tally) -> None:
        failures = self._streams.random(f"failures/{service.name}")
        pods: list[AppPod] = []
        if service.name in self.parameters.workers:
            service = replace(service, workers=self.parameters.workers[service.name])
        for index in range(service.replicas):
            name = f"{service.name}-{index}"
            pod = AppPod(name, f"{name}:4143", service, self.agenda, failures, reached)
            pod.proxy = self._add_proxy(name, service.name, pod, service.meshed)
            identity = f"{service.service_account}.{service.namespace}" if service.meshed else None
            endpoint = Endpoint(address=pod.address, pod=name, namespace=service.namespace, identity=identity)
            self._give_sizes(pod)
            self.control.register(service.authority, pod, endpoint)
            self._pods_by_address[pod.address] = pod
            pods.append(pod)
        self.pods[service.name] = pods

    def _add_proxy(self, name: str, service: str, pod: AppPod | None, meshed: bool) -> ClientProxy:
        proxy = ClientProxy(
            name,
            self.agenda,
            self.control,
            self._pods_by_address,
            self.setup.backend,
            self.setup.discovery_idle_seconds,
            self._overhead,
            self._handshake,
            self._balancing,
            self._jitter,
            self.record.mesh,
            meshed,
        )
        self._proxies.append(proxy)
        self._give_cpu(proxy, pod)
        if meshed:
            expires_at, next_attempt_at = self._leaves.of(name, service)

            def alive() -> bool:
                return pod is None or pod.alive

            def changed(expires_at: float | None) -> None:
                if pod is not None:
                    pod.leaf_expires_at = expires_at
                proxy.certified(expires_at)

            holder = self._holders[name] = LeafHolder(expires_at, next_attempt_at, alive, changed)
            changed(expires_at)
            self.calendar.process(self.control.renewal(holder))
        return proxy

    def _give_sizes(self, pod: AppPod) -> None:
        sizes = self.parameters.bytes_sent.get(pod.service.name)
        if sizes is not None and pod.proxy is not None:
            answer, call = sizes
            pod.answer_bytes = answer
            if call > 0.0:
                pod.proxy.call_bytes = call

    def _give_cpu(self, proxy: ClientProxy, pod: AppPod | None) -> None:
        """Processes of the machine for a pod: one app, and one proxy where it is meshed."""
        machine, cpu = self._machine, self.parameters.cpu
        if machine is None or cpu is None:
            return
        app = Thread(machine) if pod is not None else None
        if pod is not None and app is not None:
            pod.runs_on(app, cpu.app_serve)
        if proxy.meshed:
            proxy.runs_on(Thread(machine), app, cpu.proxy_inbound, cpu.proxy_outbound, cpu.app_call)

    def _add_load(self, routes: dict[tuple[str, str, str], Target]) -> LoadGenerator:
        spec = self.setup.load
        journeys = [
            (
                journey.name,
                spec.mix.get(journey.name, 0.0),
                tuple(Step(step, routes[step.service, step.method, step.path]) for step in journey.steps),
            )
            for journey in self.setup.app.journeys
        ]
        proxies = [
            self._add_proxy(f"{LOAD_SERVICE}-{i}", LOAD_SERVICE, None, True) for i in range(self.setup.load_pods)
        ]
        for proxy in proxies:
            proxy.entered = self.record.entered
        load = LoadGenerator(
            self.agenda,
            spec,
            journeys,
            proxies,
            self.parameters.rate,
            self.parameters.failure_share,
            Draws(gaps(self.parameters.dispersion), self._streams.generator("arrivals")),
            self._streams.draws("client", self.parameters.client_overhead.block),
            self._streams.random("journeys"),
            self.record,
            self._end,
            self._schedule,
        )
        if self._machine is not None and self.parameters.cpu is not None:
            load.runs_on(Thread(self._machine), self.parameters.cpu.client)
        return load

    # ---- playing

    def run(self) -> Record:
        """Plays until every request of the window has had its timeout; returns the client's record."""
        self.advance(self._end + self.setup.load.timeout)
        return self.finish()

    def advance(self, until: float) -> bool:
        """Plays on until that second; False where the event bound ended the replication before. May be repeated."""
        try:
            if not self._loaded and until > self._load_from:
                self.agenda.run_until(self._load_from)
                self._loaded = True
                self._load.start()
            self.agenda.run_until(until)
        except TooManyEvents as error:
            self.record.stopped_at = error.at
        return self.record.stopped_at is None

    def finish(self) -> Record:
        """Closes the record: what is still under way was never answered in time."""
        record = self.record
        self._load.finish()
        record.settle()
        record.events = self.agenda.events
        record.handshake_failures = sum(proxy.handshake_failures for proxy in self._proxies)
        return record

    def offer(self, rate: float) -> None:
        """From the next arrival on, journeys come at this rate, a second; it must be above 0."""
        self._load.offer(rate)

    @property
    def backlog(self) -> int:
        """Requests inside the applications' pods now: being served, queued, or held by a freeze."""
        return sum(pod.backlog for pods in self.pods.values() for pod in pods)

    # ---- for faults

    def sleep_until(self, at: float) -> Generator[Any, Any, None]:
        yield self.calendar.timeout(max(0.0, at - self.calendar.now))

    def targets(self, fault: FaultSpec) -> list[AppPod]:
        """The pods that a fault hits: the first of the service's, as chaos picks them.

        Raises:
            Unrepresented: the twin has no such service.
        """
        service = str(fault.targets.get("service", ""))
        pods = self.pods.get(service)
        if pods is None:
            raise Unrepresented(f"fault {fault.name}: the twin has no service {service}")
        return pods[: int(fault.targets.get("replicas", len(pods)))]

    def kill(self, pod: AppPod, proxy_outlives: float = 0.0) -> None:
        """Its app dies now, and its proxy so many seconds later."""
        alive = sum(other.alive for other in self.pods[pod.service.name])
        self.record.killed.append((self.calendar.now, pod.service.name, 1.0 / max(alive, 1)))
        if proxy_outlives and pod.service.meshed:
            pod.kill_app()
            self.agenda.call_at(self.agenda.now + proxy_outlives, self._kill_all, pod)
        else:
            self._kill_all(pod)
        self.control.set_ready(pod.service.authority, pod, False)

    def _kill_all(self, pod: AppPod) -> None:
        pod.kill()
        if pod.name in self._holders:
            self._holders[pod.name].forget()

    def worked(self, *cpu_seconds: float) -> Generator[Any, Any, None]:
        """Processes that start, or work beside their event loop, each with so much to do, are waited for. They and all
        others on the machine delay each other: when they are done is only known then. Where CPU is not modelled each
        has a core of its own."""
        machine = self._machine
        if machine is None:
            yield self.calendar.timeout(max(cpu_seconds))
            return
        threads = [Thread(machine) for _ in cpu_seconds]
        for thread, seconds in zip(threads, cpu_seconds, strict=True):
            thread.burn(self.calendar.now, seconds)
        for thread in threads:
            while (left := thread.left(self.calendar.now)) > 0.0:
                yield self.calendar.timeout(max(left, STARTING_LOOK_SECONDS))

    def restart(self, pod: AppPod) -> bool:
        """Brings a killed pod back; False where it cannot become ready, for want of a certificate."""
        holder = self._holders.get(pod.name)
        if holder is not None:
            if not self.control.is_up("identity"):
                return False
            holder.renew(self.control.new_expiry())
        pod.start()
        self.control.set_ready(pod.service.authority, pod, True)
        return True


class _Leaves:
    """Each pod's leaf at the start: as observed, else at a random point of its renewal cycle."""

    def __init__(self, setup: Setup, pods: tuple[PodState, ...], start: float, random: Random) -> None:
        self._setup = setup
        self._start = start
        self._random = random
        self._observed: dict[str, list[PodState]] = {}
        for pod in sorted(pods, key=lambda state: state.name):
            self._observed.setdefault(pod.service, []).append(pod)

    def of(self, name: str, service: str) -> tuple[float, float]:
        """(expires at, next attempt at)."""
        settings = self._setup.identity
        observed = self._observed.get(service)
        if observed:
            state = next((s for s in observed if s.name == name), observed[0])
            observed.remove(state)
            refreshed, expires = state.leaf_refreshed_at, state.leaf_expires_at
        else:
            life = settings.leaf_lifetime + settings.clock_skew
            period = min(max(life * RENEW_AT_SHARE, settings.min_refresh), settings.max_refresh)
            refreshed = self._start - self._random.random() * period
            expires = expiry(refreshed, settings, self._setup.zero_at)
        wait = next_attempt_delay(refreshed, expires, settings.min_refresh, settings.max_refresh)
        return expires, refreshed + wait
