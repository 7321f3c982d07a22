"""CPU in the twin: few cores that many single-threaded processes share, and one core that many jobs share.

Between processes (`Machine`, `Thread`). Proxies, apps and the load generator are event loops: each takes what reaches
it one after another, and uses one core at most. Of a burst of d CPU seconds that reaches a process whose earlier
bursts end at F, the end is

    F' = max(now, F) + d · s        s = max(1, (k + b) / cores)

k: processes that have something to do at that moment, this one included; b: what everything else on the machine uses,
in cores. So a loop is first come first served, exactly (Lindley's recursion), and the machine is processor sharing with
each burst's share fixed when it is put in. What that is worth: an arrival sees the time average (PASTA), so with bursts
of their own processes E[T | d] = d·(1 + E[k]) = d/(1 − ρ), the mean of M/G/1-PS for each size of burst and whatever
their distribution; and n processes that all have work get cores/n each, so that a full machine does no more than it
can. Only the spread around the mean is smaller than under true sharing. It costs no calendar entry.

What a request costs a loop is not all in its own way: a proxy sends it on and then does its books, runs timers and
frees memory. Of a burst, the share `Machine.ahead` delays the request, and the whole of it those that come after.

Among jobs of one process (`SharedProcessor`). True egalitarian sharing, for apps with `work: shared`: with n jobs each
advances at 1/n. Played in virtual time (Parekh and Gallager 1993): V grows at 1/n, a job of demand d that enters at V
leaves at V + d, so one heap and one calendar entry at a time are enough.

Rejected: true sharing between processes too (a calendar entry a burst, four bursts a hop: half the speed, for bursts of
a tenth of a millisecond), and a stretch by average utilisation alone (blind to a storm's first second).
"""

from __future__ import annotations

from heapq import heappop, heappush

from sim.model.agenda import Agenda, Call, Entry

LOOK_SECONDS = 0.0005
"""For how long a count of busy processes may be used again by one that is busy itself."""


class Machine:
    """The cores that all processes share."""

    __slots__ = ("_busy", "_looked_at", "_stretch", "ahead", "background", "cores")

    def __init__(self, cores: float, background: float, ahead: float = 1.0) -> None:
        """`background`: cores that are used by what is not modelled, constantly. `ahead`: see the module."""
        self.cores = cores
        self.background = background
        self.ahead = ahead
        self._busy: list[Thread] = []
        self._looked_at = -1e18
        self._stretch = 1.0

    def joined(self, now: float, thread: Thread) -> float:
        """The stretch for a process that was idle and has something to do now."""
        busy = [other for other in self._busy if other.free_at > now]
        busy.append(thread)
        self._busy = busy
        return self._count(now)

    def stretch(self, now: float) -> float:
        """The stretch for a process that is busy already."""
        if now - self._looked_at < LOOK_SECONDS:
            return self._stretch
        self._busy = [other for other in self._busy if other.free_at > now]
        return self._count(now)

    def _count(self, now: float) -> float:
        self._looked_at = now
        share = (len(self._busy) + self.background) / self.cores
        self._stretch = share if share > 1.0 else 1.0
        return self._stretch


class Thread:
    """One event loop: a proxy's, an app's, the load generator's."""

    __slots__ = ("free_at", "machine")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.free_at = -1e18
        """When all that it was given is done."""

    def take(self, now: float, seconds: float) -> float:
        """Gives it a request that costs so much CPU time. Returns how long from now until the request goes on, waiting
        included."""
        begin = self.free_at if self.free_at > now else now
        seconds = self.burn(now, seconds) + now - begin
        return begin + seconds * self.machine.ahead - now

    def burn(self, now: float, seconds: float) -> float:
        """Gives it a burst of so much CPU time. Returns how long from now until all of it is done, waiting included."""
        begin = self.free_at
        if begin <= now:
            begin = now
            stretch = self.machine.joined(now, self)
        else:
            stretch = self.machine.stretch(now)
        end = begin + seconds * stretch
        self.free_at = end
        return end - now

    def reset(self) -> None:
        """The process died with all it had to do."""
        self.free_at = -1e18


class _Job:
    """Somebody in a shared processor."""

    __slots__ = ("entry", "latency", "leaves_at", "serial")

    def __init__(self, leaves_at: float, serial: int, entry: Entry, latency: float) -> None:
        self.leaves_at = leaves_at
        """In virtual time."""
        self.serial = serial
        self.entry = entry
        self.latency = latency


class SharedProcessor:
    """One core, shared evenly by all jobs that are in it."""

    __slots__ = ("_agenda", "_at", "_heap", "_jobs", "_next", "_serial", "_virtual")

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self._heap: list[tuple[float, int]] = []
        self._jobs: dict[int, _Job] = {}
        self._serial = 0
        self._virtual = 0.0
        self._at = agenda.now
        """When `_virtual` was brought up to date."""
        self._next: Call | None = None

    @property
    def jobs(self) -> int:
        return len(self._jobs)

    def put(self, demand: float, entry: Entry, latency: float = 0.0) -> None:
        """`entry` happens `latency` after it has had `demand` seconds of the core."""
        self._advance()
        self._serial += 1
        job = _Job(self._virtual + demand, self._serial, entry, latency)
        self._jobs[self._serial] = job
        heappush(self._heap, (job.leaves_at, self._serial))
        self._rearm()

    def clear(self) -> None:
        """All jobs are lost."""
        self._heap = []
        self._jobs = {}
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _advance(self) -> None:
        now = self._agenda.now
        if self._jobs:
            self._virtual += (now - self._at) / len(self._jobs)
        self._at = now

    def _rearm(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._heap:
            left = (self._heap[0][0] - self._virtual) * len(self._jobs)
            self._next = self._agenda.call_at(self._agenda.now + max(0.0, left), self._leave, self._heap[0][1])

    def _leave(self, serial: int) -> None:
        """The job with the least left is done."""
        self._next = None
        self._advance()
        heappop(self._heap)
        job = self._jobs.pop(serial)
        self._virtual = job.leaves_at  # what rounding made of it
        self._rearm()
        self._agenda.put(self._agenda.now + job.latency, job.entry)
