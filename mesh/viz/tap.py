"""Tap: requests live, from the proxies of a resource at once, as one stream of JSON lines.

    client ──► viz ──► proxy:4190 of each pod (mutual TLS; only viz's identity is let in)     POST /v1/tap
           ◄──     ◄── requestInit, responseInit, responseEnd, one JSON object a line

Each event is passed on as the proxy said it, with the pod that said it and, where an address belongs to a pod, that
pod and its workload at both ends. What went wrong at a proxy is a line of its own (`event: note`): one pod that cannot
be tapped must not hide what the others say. A client that reads too slowly loses events, which are counted and told.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from mesh.viz.failures import describe
from mesh.viz.fleet import Fleet, Member
from mesh.viz.identity import NoLeaf
from mesh.viz.pods import Pod
from mesh.viz.resources import Resource

MAX_PODS = 100
"""Tapped at once by one client."""
MAX_TARGETS = 100
"""Pods of `--to` that a filter names."""
QUEUE_EVENTS = 5_000
CONNECT_SECONDS = 5.0
MAX_LINE_BYTES = 1 << 20
DEFAULT_MAX_RPS = 100.0
"""Linkerd's."""
TAPPING = "tapping"
"""The note that a proxy has opened its stream."""

Event = dict[str, Any]


class TapRefused(Exception):
    """Nothing can be tapped; the text is for the user."""


@dataclass(frozen=True, slots=True)
class TapQuery:
    """What a client wants to see."""

    resource: Resource
    to: Resource | None = None
    method: str = ""
    path: str = ""
    """Prefix."""
    authority: str = ""
    max_rps: float = DEFAULT_MAX_RPS
    """Requests a second of all pods together; each pod shows at least one."""
    limit: int = 0
    """Requests of each pod until its stream ends; 0: none."""
    headers: bool = False
    direction: str = ""


def tap_request(query: TapQuery, fleet: Fleet, pods: int) -> dict[str, Any]:
    """The body of `POST /v1/tap` for each of so many pods (`mesh.proxy.tap_filter.TapRequest`).

    Raises:
        TapRefused: `--to` names nothing that is known, or too much.
    """
    match: dict[str, Any] = {}
    if query.method:
        match["method"] = query.method.upper()
    if query.path:
        match["pathPrefix"] = query.path
    if query.authority:
        match["authority"] = query.authority
    if query.direction:
        match["direction"] = query.direction
    if query.to is not None:
        match["direction"] = "outbound"
        match["any"] = _targets(query.to, fleet)
    request: dict[str, Any] = {"match": match, "headers": query.headers}
    if query.limit:
        request["limit"] = query.limit
    if query.max_rps > 0:
        request["maxRps"] = max(1.0, query.max_rps / max(1, pods))
    return request


def _targets(to: Resource, fleet: Fleet) -> list[dict[str, Any]]:
    if not to.of_pods and not to.name:
        raise TapRefused(f"to {to}: name one, such as {to}/NAME")
    if to.kind == "Authority":
        return [{"authority": to.name}]
    if to.kind == "Service":
        # Clients write a service's full name or a short one, with a port or none; without one any port is meant.
        names = (f"{to.name}.{to.namespace}.svc.{fleet.domain}", f"{to.name}.{to.namespace}", to.name)
        return [{"authority": name} for name in names]
    if to.kind == "Namespace" and to.name:
        return [{"destination": {"labels": {"namespace": to.name}}}]
    pods = [member.pod for member in fleet.running() if to.holds(member.pod)]
    if not pods:
        raise TapRefused(f"no running pod of {to} in {to.namespace or 'any namespace'}")
    if len(pods) > MAX_TARGETS:
        raise TapRefused(f"{to} has {len(pods)} pods; at most {MAX_TARGETS} can be told apart: narrow it down")
    return [{"destination": {"labels": {"pod": pod.name, "namespace": pod.namespace}}} for pod in pods]


def tapped_pods(fleet: Fleet, query: TapQuery) -> list[Member]:
    """Whom to tap.

    Raises:
        TapRefused: nobody, or too many.
    """
    found = [member for member in fleet.running() if query.resource.holds(member.pod)]
    where = f"in namespace {query.resource.namespace}" if query.resource.namespace else "in the cluster"
    if not found:
        raise TapRefused(f"no running pod of {query.resource} {where}; see the name, and the namespace (-n)")
    can = [member for member in found if member.pod.tap]
    if not can:
        why = "has a proxy: inject it" if not any(m.pod.meshed for m in found) else "allows tap: restart it"
        raise TapRefused(f"none of the {len(found)} pods of {query.resource} {where} {why}")
    if len(can) > MAX_PODS:
        raise TapRefused(f"{query.resource} has {len(can)} pods; at most {MAX_PODS} are tapped at once: narrow it down")
    return can


class TapStream:
    """One client's tap. Use as an async iterator of events, and close it."""

    def __init__(self, fleet: Fleet, query: TapQuery, context: Callable[[], ssl.SSLContext]) -> None:
        """Raises TapRefused."""
        self._fleet = fleet
        self._context = context
        self.members = tapped_pods(fleet, query)
        self._body = json.dumps(tap_request(query, fleet, len(self.members))).encode()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE_EVENTS + len(self.members) + 2)
        self._tasks: list[asyncio.Task[None]] = []
        self._lost = 0

    async def events(self, silence: float) -> AsyncIterator[Event | None]:
        """Events as they come, until every proxy has ended its stream; None after `silence` seconds without one."""
        loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, read_bufsize=MAX_LINE_BYTES, trust_env=False
        ) as session:
            self._tasks = [loop.create_task(self._follow(session, member)) for member in self.members]
            everything = loop.create_task(_ended(self._tasks, self._events))
            try:
                while True:
                    try:
                        async with asyncio.timeout(silence):
                            event = await self._events.get()
                    except TimeoutError:
                        yield None
                        continue
                    if event is None:
                        return
                    yield event
                    if self._lost:
                        lost, self._lost = self._lost, 0
                        yield _note(f"{lost} events were lost: this client reads too slowly")
            finally:
                for task in (*self._tasks, everything):
                    task.cancel()
                await asyncio.gather(*self._tasks, everything, return_exceptions=True)

    async def _follow(self, session: aiohttp.ClientSession, member: Member) -> None:
        pod = member.pod
        try:
            async with session.post(
                f"https://{pod.tap}/v1/tap",
                data=self._body,
                ssl=self._context(),
                server_hostname=pod.identity,
                headers={"content-type": "application/json"},
            ) as response:
                if response.status != 200:
                    said = (await response.content.read(300)).decode(errors="replace").strip()
                    self._put(_note(f"its proxy answered {response.status}: {said}", pod))
                    return
                self._put(_note(TAPPING, pod))
                async for line in response.content:
                    if line.strip():
                        self._put(self._enriched(json.loads(line), pod))
        except (aiohttp.ClientError, OSError, ssl.SSLError, TimeoutError, ValueError, NoLeaf) as error:
            self._put(_note(f"cannot be tapped: {describe(error)}", pod))

    def _put(self, event: Event) -> None:
        # Notes always fit: there is room for one of each pod beyond the events.
        if event["event"] != "note" and self._events.qsize() >= QUEUE_EVENTS:
            self._lost += 1
            return
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            self._lost += 1

    def _enriched(self, event: Event, pod: Pod) -> Event:
        event["namespace"], event["pod"] = pod.namespace, pod.name
        for end in ("source", "destination"):
            event[end] = self._named(event.get(end) or {})
        if event.get("proxyDirection") == "inbound":
            event["destination"] |= _own(pod)
        else:
            event["source"] |= _own(pod)
            # The proxy tells of its client's connection, which never leaves the pod. What counts is the one to the
            # endpoint: secured where the endpoint has an identity, not known before there is an endpoint.
            destination = event["destination"]
            event["tls"] = bool(destination.get("identity")) if destination.get("pod") else None
        return event

    def _named(self, end: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(end)
        member = None
        if found.get("pod") and found.get("namespace"):
            member = self._fleet.named(found["namespace"], found["pod"])
        elif found.get("ip"):
            member = self._fleet.at(f"{found['ip']}:{found.get('port', 0)}")
        if member is not None:
            found |= _own(member.pod)
        elif found.get("identity"):
            found |= self._by_identity(found["identity"])
        return found

    def _by_identity(self, identity: str) -> dict[str, str]:
        """The workload that goes by a name, where it is one only; its address was of no pod that is known."""
        owners = {
            (m.pod.namespace, m.pod.kind, m.pod.owner) for m in self._fleet.running() if m.pod.identity == identity
        }
        if len(owners) != 1:
            return {}
        namespace, kind, workload = owners.pop()
        return {"namespace": namespace, "kind": kind, "workload": workload}


def _own(pod: Pod) -> dict[str, str]:
    return {"pod": pod.name, "namespace": pod.namespace, "kind": pod.kind, "workload": pod.owner}


def _note(text: str, pod: Pod | None = None) -> Event:
    where = {"namespace": pod.namespace, "pod": pod.name} if pod is not None else {}
    return {"event": "note", "text": text, **where}


async def _ended(tasks: Sequence[asyncio.Task[None]], events: asyncio.Queue[Event | None]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    await events.put(None)
