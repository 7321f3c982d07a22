"""Pods as the processes of a run: names that stay while pods come and go, what to scrape, and what happened.

Kubernetes calls a pod cart-7d9f-x2x; reports, faults and the twin call it cart-0, in every world. A pod takes the
lowest number of its service that is free, and gives it back once it is being deleted; so the pod that replaces a killed
one goes on under the same name, as a restarted process does in the embedded world.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from gameday.worlds.kind.messages import PodRow
from gameday.worlds.kind.names import (
    APP_CONTAINER,
    CONTROL_ADMIN_PORTS,
    CONTROL_COMPONENT_LABEL,
    PROXY_ADMIN_PORT,
    PROXY_CONTAINER,
    SERVICE_LABEL,
    WORKLOAD_ADMIN_PORT,
)

# ---- as much of a PodList as we read --------------------------------------------------------------------------------


class _Struct(msgspec.Struct, rename="camel"):
    pass


class Terminated(_Struct):
    reason: str = ""
    exit_code: int = 0


class Waiting(_Struct):
    reason: str = ""


class ContainerState(_Struct):
    waiting: Waiting | None = None
    running: dict[str, str] | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Struct):
    name: str
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = msgspec.field(default_factory=ContainerState)
    last_state: ContainerState = msgspec.field(default_factory=ContainerState)


class Condition(_Struct):
    type: str
    status: str


class Metadata(_Struct):
    name: str
    namespace: str
    uid: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    deletion_timestamp: str | None = None
    creation_timestamp: str = ""


class PodStatus(_Struct):
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: list[Condition] = msgspec.field(default_factory=list)
    container_statuses: list[ContainerStatus] = msgspec.field(default_factory=list)
    init_container_statuses: list[ContainerStatus] = msgspec.field(default_factory=list)


class Pod(_Struct):
    metadata: Metadata
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def ready(self) -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)

    @property
    def ending(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    def containers(self) -> list[ContainerStatus]:
        """Sidecars that are init containers included."""
        return [*self.status.init_container_statuses, *self.status.container_statuses]

    def runs(self, container: str) -> bool:
        return any(c.name == container and c.state.running is not None for c in self.containers())


class PodList(msgspec.Struct):
    items: list[Pod]


_decoder = msgspec.json.Decoder(PodList)


def decode_pods(body: bytes) -> list[Pod]:
    """Pods of a PodList. Raises msgspec.DecodeError."""
    return _decoder.decode(body).items


# ---- names, targets, events -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    kind: str
    process: str
    text: str


@dataclass(slots=True)
class Fleet:
    """The run's pods as last listed."""

    workloads: frozenset[str]
    """Services that are played by the workload, and so have its admin port."""
    _slots: dict[str, tuple[str, int]] = field(default_factory=dict)
    """(service, number) by the pod's uid."""
    _seen: dict[str, Pod] = field(default_factory=dict)
    _control: list[Pod] = field(default_factory=list)
    rows: tuple[PodRow, ...] = ()

    def update(self, pods: Iterable[Pod], control: Iterable[Pod]) -> list[Event]:
        """Takes in new lists; what happened since the last ones."""
        listed = sorted(
            (pod for pod in pods if SERVICE_LABEL in pod.metadata.labels),
            key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name),
        )
        events = self._compare({pod.metadata.uid: pod for pod in listed})
        alive = [pod for pod in listed if not pod.ending]
        known = {pod.metadata.uid for pod in alive}
        self._slots = {uid: slot for uid, slot in self._slots.items() if uid in known}
        for pod in alive:
            self._slots.setdefault(pod.metadata.uid, self._free(pod.metadata.labels[SERVICE_LABEL]))
        events += self._compare_control(list(control))
        self._seen = {pod.metadata.uid: pod for pod in listed}
        self.rows = tuple(
            sorted(
                (self._row(pod) for pod in alive if pod.status.pod_ip), key=lambda row: (row.service, _number(row.name))
            )
        )
        return events

    def targets(self) -> list[tuple[str, str]]:
        """(process, metrics URL) of every container of ours that runs. One that is down on purpose is no target."""
        found: list[tuple[str, str]] = []
        for component, port in CONTROL_ADMIN_PORTS.items():
            for pod in self._control:
                if pod.status.pod_ip and not pod.ending and pod.runs(component):
                    found.append((f"control/{component}", f"http://{pod.status.pod_ip}:{port}/metrics"))
                    break  # with several replicas, one stands for all
        for uid, (service, number) in self._slots.items():
            pod = self._seen[uid]
            ip = pod.status.pod_ip
            if not ip:
                continue
            if pod.runs(PROXY_CONTAINER):
                found.append((f"{service}-{number}/proxy", f"http://{ip}:{PROXY_ADMIN_PORT}/metrics"))
            if service in self.workloads and pod.runs(APP_CONTAINER):
                found.append((f"{service}-{number}/app", f"http://{ip}:{WORKLOAD_ADMIN_PORT}/metrics"))
        return found

    def _row(self, pod: Pod) -> PodRow:
        service, number = self._slots[pod.metadata.uid]
        return PodRow(
            f"{service}-{number}",
            service,
            pod.metadata.namespace,
            pod.metadata.name,
            pod.status.pod_ip,
            pod.ready,
        )

    def _free(self, service: str) -> tuple[str, int]:
        taken = {number for name, number in self._slots.values() if name == service}
        return service, next(number for number in range(len(taken) + 1) if number not in taken)

    def _compare(self, now: Mapping[str, Pod]) -> list[Event]:
        events: list[Event] = []
        for uid, before in self._seen.items():
            after = now.get(uid)
            name = self._name(uid, before)
            if after is None or (after.ending and not before.ending):
                if not before.ending:
                    events.append(Event("kill", name, f"pod {before.metadata.name} ({name}) is deleted"))
                continue
            events += _restarts(before, after, name)
            if before.ready is not after.ready and not after.ending:
                kind = "ready" if after.ready else "unready"
                text = f"{name} is {'ready' if after.ready else 'not ready any more'}"
                events.append(Event(kind, name, text))
        return events

    def _compare_control(self, now: list[Pod]) -> list[Event]:
        events: list[Event] = []
        before = {pod.metadata.uid: pod for pod in self._control if not pod.ending}
        after = {pod.metadata.uid: pod for pod in now if not pod.ending}
        for uid, pod in before.items():
            name = f"control/{pod.metadata.labels.get(CONTROL_COMPONENT_LABEL, pod.metadata.name)}"
            if uid not in after:
                events.append(Event("down", name, f"{name} is gone"))
                continue
            events += _restarts(pod, after[uid], name)
        for uid, pod in after.items():
            name = f"control/{pod.metadata.labels.get(CONTROL_COMPONENT_LABEL, pod.metadata.name)}"
            was_ready = before[uid].ready if uid in before else not self._control
            if pod.ready and not was_ready:
                events.append(Event("up", name, f"{name} is ready"))
        self._control = now
        return events

    def _name(self, uid: str, pod: Pod) -> str:
        slot = self._slots.get(uid)
        return f"{slot[0]}-{slot[1]}" if slot is not None else pod.metadata.name


def _restarts(before: Pod, after: Pod, name: str) -> list[Event]:
    counts = {container.name: container.restart_count for container in before.containers()}
    events = []
    for container in after.containers():
        if container.restart_count > counts.get(container.name, 0):
            ended = container.last_state.terminated
            why = f"{ended.reason or 'exit code'} ({ended.exit_code})" if ended is not None else "it ended"
            events.append(Event("restart", name, f"{name}: {container.name} restarted: {why}"))
    return events


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])
