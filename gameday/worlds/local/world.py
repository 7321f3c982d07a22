"""The runner's side of the embedded world: starts the supervisor, knows where things are, asks it to end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from chaos.processes import started_at
from chaos.requests import Step, StepFailed, perform
from chaos.world import Named, WorldState, read_world
from gameday import __version__
from gameday.children import Child
from gameday.errors import WorldFailed
from gameday.scrape import Scraper
from gameday.worlds.local.addresses import claim
from gameday.worlds.local.layout import LOAD_SERVICE
from gameday.worlds.local.supervisor import SPEC, WorldSpec
from gameday.worlds.local.usage import usage_of, usage_of_machine
from loadtests.plan import LoadPlan, command, environment, write_plan
from reports.run import scenario_to
from reports.store import LOAD_PROCESS, RunStore, Usage
from scenarios.model import Scenario
from sim.cores import count_cores

UP_TIMEOUT_SECONDS = 90.0
DOWN_TIMEOUT_SECONDS = 10.0


class LocalWorld:
    """One embedded world."""

    name = "local"

    def __init__(self, scenario: Scenario, run_dir: Path, seed: int) -> None:
        """Claims addresses; raises BadInput where that cannot be done. Nothing is started yet."""
        self._scenario = scenario
        self._run_dir = run_dir
        self._seed = seed
        self._claim = claim(service.port for service in scenario.app.services)
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._state: WorldState | None = None
        self._state_stamp = 0
        self._load_pid: int | None = None

    # ---- up and down

    async def up(self, progress: Callable[[str], None]) -> None:
        """Starts the supervisor and waits until it says that all is ready."""
        spec = WorldSpec(
            run=self._run_dir.name,
            scenario=scenario_to(self._scenario),
            seed=self._seed,
            addresses=self._claim.plan.label,
            runner=Named(pid=os.getpid(), start=started_at(os.getpid()) or ""),
            version=__version__,
        )
        (self._run_dir / SPEC).write_bytes(msgspec.json.encode(spec))
        log = self._run_dir / "logs" / "supervisor.log"
        with log.open("ab") as output:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "gameday.worlds.local.supervisor", str(self._run_dir)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self._claim.lock.fileno(),),
            )
        self._claim.lock.close()  # the supervisor's copy keeps the range
        began = time.monotonic()
        while not (state := self._read()) or not state.ready:
            if self._supervisor.poll() is not None:
                raise WorldFailed(f"the supervisor ended: {_last_line(log)}")
            if time.monotonic() - began > UP_TIMEOUT_SECONDS:
                raise WorldFailed(
                    f"not ready after {UP_TIMEOUT_SECONDS:.0f} s: {self._not_ready()}; see {self._run_dir / 'logs'}"
                )
            await asyncio.sleep(0.1)
        progress(
            f"{len(state.processes)} processes ready on {self._claim.plan.label} in {time.monotonic() - began:.1f} s"
        )

    async def down(self) -> None:
        """Asks the supervisor to end everything; kills it if it does not answer."""
        self._claim.lock.close()
        supervisor = self._supervisor
        if supervisor is None or supervisor.poll() is not None:
            return
        state = self._read()
        try:
            if state is None:
                raise StepFailed("not up yet")
            await asyncio.to_thread(perform, Step("POST", state.supervisor_url("/shutdown")))
        except StepFailed:
            supervisor.terminate()
        deadline = time.monotonic() + DOWN_TIMEOUT_SECONDS
        while supervisor.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if supervisor.poll() is None:
            from gameday.worlds.local.recover import recover

            await asyncio.to_thread(recover, self._run_dir)
            supervisor.wait()

    # ---- load and eyes

    async def observe(self, store: RunStore) -> None:
        """Scrapes from this very process, until cancelled."""
        store.set_meta(cores=count_cores())
        await Scraper(store, self.scrape_targets, self.usage).run()

    async def start_load(self, plan: LoadPlan, log: Path) -> Child:
        """Locust as a child of the runner, behind the outbound proxy of the load generator's pod."""
        path = self._run_dir / "load-plan.json"
        write_plan(msgspec.structs.replace(plan, proxy=f"http://{self.load_entry()}"), path)
        child = await Child.start("load", command(), log, self._run_dir, environment(path))
        self._load_pid = child.pid
        return child

    # ---- where things are

    def scrape_targets(self) -> list[tuple[str, str | None]]:
        """(process, metrics URL) of everything that has metrics; no URL where a fault blocks the scrape."""
        state = self._read()
        if state is None:
            return []
        targets = [(component.process, f"http://{component.admin}/metrics") for component in state.control.values()]
        for pod in state.pods:
            if pod.proxy_admin is not None:
                targets.append((f"{pod.name}/proxy", f"http://{pod.proxy_admin}/metrics"))
            if pod.workload_admin is not None:
                targets.append((f"{pod.name}/app", f"http://{pod.workload_admin}/metrics"))
        # A process that is down on purpose is no lost telemetry.
        return [(name, None if state.blocks(name) else url) for name, url in targets if name in state.processes]

    def usage(self) -> list[Usage]:
        state = self._read()
        if state is None:
            return []
        load = {LOAD_PROCESS: self._load_pid} if self._load_pid is not None else {}
        return [*usage_of({**state.processes, **load}), *usage_of_machine()]

    def load_entry(self) -> str:
        state = self._read()
        assert state is not None, "the world is up"
        return state.pods_of(LOAD_SERVICE)[0].outbound

    def _read(self) -> WorldState | None:
        """The newest world.json; read again only when it changed."""
        try:
            stamp = (self._run_dir / "world.json").stat().st_mtime_ns
            if stamp != self._state_stamp:
                self._state = read_world(self._run_dir)
                self._state_stamp = stamp
        except FileNotFoundError:
            return None
        return self._state

    def _not_ready(self) -> str:
        state = self._read()
        if state is None:
            return "nothing was started"
        try:
            status = msgspec.json.decode(perform(Step("GET", state.supervisor_url("/status"))))
        except StepFailed as failure:
            return str(failure)
        waiting = [name for name, process in status.items() if not process["ready"]]
        return ", ".join(waiting[:5])


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"no word in {log}"
