"""CPU in the twin: few cores that many single-threaded processes share, and one core that many jobs share.

Between processes (`Machine`, `Thread`). Proxies, apps and the load generator are event loops: each takes what reaches
it one after another, and uses one core at most. A loop that has something to do advances at

    1 / s        s = max(1, k / (cores - b))

with k loops that have something to do, this one included, and b cores used by everything else: egalitarian sharing
between loops, first come first served in each. The background is many processes that each ask for little, and gets what
it asks for however many loops are at work, up to two thirds of the cores. What a loop still has to do is exact,
whatever comes: it is kept in virtual time, which grows at 1/s. When a burst will be done is told when it is put in, and
what comes later is unknown then. Let w be the work until then, w_j that of the other loops, and ρ the load that is to
be expected:

    T = min( w · s,  Σ min(w_j, w) / (cores - b - ρ) ),  w at least

The first is an even share for all of it: an arrival sees the time average (PASTA), so with bursts in processes of their
own its mean is that of M/G/1-PS, d/(1 − ρ). The second is what the machine needs for all that it has, beside the load
that goes on. Of bursts of about the same size the first is nearly always less; it is too long where hundreds of answers
come in one moment, when a throttle ends, since loops that are done leave their share to the others. (Sengupta and
Jagerman 1985 have the mean given the others: d·k for small d, all work over 1 − ρ for large.) Cutting one way only
makes the mean 2 to 9 % less than d/(1 − ρ). It costs no calendar entry.

What a request costs a loop is not all in its own way: a proxy sends it on and then does its books, runs timers and
frees memory. Of a burst, the share `Machine.ahead` delays the request, and the whole of it those that come after. And
much of it is the waking up: what finds a loop at work is read, handled and sent with what was there before, and costs
the share `Machine.together` only. So a loop is an M/G/1 queue with an exceptional first service (Welch 1964).

Among jobs of one process (`SharedProcessor`). True egalitarian sharing, for apps with `work: shared`: with n jobs each
advances at 1/n. Played in virtual time (Parekh and Gallager 1993): V grows at 1/n, a job of demand d that enters at V
leaves at V + d, so one heap and one calendar entry at a time are enough.

Rejected: ends that later arrivals may still move (a calendar entry a burst, four bursts a hop: half the speed, for
bursts of a tenth of a millisecond), a stretch by average utilisation alone (blind to a storm's first second), and an
even share always: 0.35 s of work for twenty loops took 2.3 s on one core, where reality had it done in 0.2.
"""

from __future__ import annotations

from heapq import heappop, heappush

from sim.model.agenda import Agenda, Call, Entry

TOGETHER = 0.25
"""Two of our proxies, HTTP/2 and mTLS between them, took 147 µs of a request at 2,000 a second and 33.5 µs where there
was always another to read (183 and 64 µs interpreted, Envoy 219 and 46): docs/performance.md, (f) and (b)."""
LEAST_FREE = 1 / 3
"""Of all cores. A background that would have them all has to share as well, with how many nobody knows."""
LOAD_SECONDS = 5.0
"""Over which the load that is still to come is estimated from what came."""


class Machine:
    """The cores that all processes share."""

    __slots__ = ("_at", "_busy", "_load", "_virtual", "ahead", "free", "together")

    def __init__(self, cores: float, background: float, ahead: float = 1.0, together: float = TOGETHER) -> None:
        """`background`: cores that what is not modelled uses, constantly. `ahead`, `together`: see the module."""
        self.free = max(cores - background, LEAST_FREE * cores)
        """Cores that are left to what is modelled."""
        self.ahead = ahead
        self.together = together
        self._busy: list[Thread] = []
        self._virtual = 0.0
        """Seconds of CPU that a process with work to do has had by now."""
        self._at = -1e18
        """When `_virtual` and `_load` were brought up to date."""
        self._load = 0.0
        """Cores that bursts asked for lately."""

    def put(self, thread: Thread, now: float, seconds: float, ahead: float, together: float) -> float:
        """How long from now until the process has done the share `ahead` of a burst of so much CPU, after all that it
        had to do before. `together`: what of the burst is left where it had something to do."""
        busy = self._advance(now)
        virtual = self._virtual
        if thread.ends_at <= virtual:
            thread.ends_at = virtual
            busy.append(thread)
        else:
            seconds *= together
        work = thread.ends_at + seconds * ahead - virtual
        thread.ends_at += seconds
        self._load += seconds / LOAD_SECONDS
        share = len(busy) / self.free
        if share <= 1.0:
            return work
        alone = self.free - self._load
        if len(busy) == 1 or alone <= 0.0:
            return work * share
        left_in_all = 0.0
        for other in busy:
            left = other.ends_at - virtual
            left_in_all += left if left < work else work
        drained = left_in_all / alone
        shared = work * share
        return shared if shared < drained else drained if drained > work else work

    def stretch(self, now: float, thread: Thread) -> float:
        """For a process that has something to do now: how much longer it takes than on a core of its own."""
        busy = self._advance(now)
        count = len(busy) + (1 if thread.ends_at <= self._virtual else 0)
        return max(1.0, count / self.free)

    def left(self, now: float, thread: Thread) -> float:
        """Seconds until the process has done what it was given, if nothing else gets anything to do and nobody is done
        before; 0 where it is done."""
        busy = self._advance(now)
        work = thread.ends_at - self._virtual
        return work * max(1.0, len(busy) / self.free) if work > 0.0 else 0.0

    def forget(self, thread: Thread) -> None:
        """The process has nothing to do any more."""
        self._busy = [other for other in self._busy if other is not thread]

    def _advance(self, now: float) -> list[Thread]:
        """Lets the time pass until now; returns the processes that still have something to do."""
        passed = now - self._at
        if passed <= 0.0:
            return self._busy
        self._at = now
        self._load = self._load * (1.0 - passed / LOAD_SECONDS) if passed < LOAD_SECONDS else 0.0
        busy = self._busy
        while busy:
            first = busy[0].ends_at
            for other in busy:
                if other.ends_at < first:
                    first = other.ends_at
            share = len(busy) / self.free
            if share < 1.0:
                share = 1.0
            passed -= (first - self._virtual) * share
            if passed < 0.0:
                self._virtual = first + passed / share
                if self._virtual < first:  # rounding may say otherwise
                    break
            self._virtual = first
            if len(busy) == 1:
                busy.clear()
                break
            busy = [other for other in busy if other.ends_at > first]
        self._busy = busy
        return busy


class Thread:
    """One event loop: a proxy's, an app's, the load generator's."""

    __slots__ = ("ends_at", "machine")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.ends_at = -1e18
        """When all that it was given is done, on the machine's virtual clock."""

    def take(self, now: float, seconds: float) -> float:
        """Gives it a request that costs so much CPU time. Returns how long from now until the request goes on, waiting
        included."""
        machine = self.machine
        return machine.put(self, now, seconds, machine.ahead, machine.together)

    def burn(self, now: float, seconds: float) -> float:
        """Gives it a burst of so much CPU time. Returns how long from now until all of it is done, waiting included."""
        return self.machine.put(self, now, seconds, 1.0, 1.0)

    def left(self, now: float) -> float:
        """How long until all that it was given is done, as it looks now; what comes meanwhile changes it."""
        return self.machine.left(now, self)

    def reset(self) -> None:
        """The process died with all it had to do."""
        self.machine.forget(self)
        self.ends_at = -1e18


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
