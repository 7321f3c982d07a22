"""`python -m benchmarks` (= `make bench`): our proxy beside nginx, HAProxy and Envoy, on the same work, in one run."""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from benchmarks.load import LoadFailed
from benchmarks.machine import StartFailed, pinned
from benchmarks.measure import Cores, Effort, measure
from benchmarks.overhead import overhead
from benchmarks.peers import PEERS, Peer
from benchmarks.profile import profile
from benchmarks.report import Outcome, insert, machine, reading, table

FULL, QUICK = Effort(4.0, 2.0, 5), Effort(1.0, 1.0, 1)
TWIN_TIMEOUT_SECONDS = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short repetition: shows that it works, no more")
    parser.add_argument("--repetitions", type=int, choices=range(1, 51), metavar="1..50")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS], metavar="PROXY")
    parser.add_argument("--run", type=Path, metavar="DIR", help="a finished run: adds what it cost")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the figures into this page")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        print("python -m benchmarks reads CPU time from /proc: Linux only", file=sys.stderr)
        return 2
    try:
        whole_run = overhead(arguments.run) if arguments.run else ""
    except (OSError, ValueError, sqlite3.DatabaseError) as error:
        print(f"--run {arguments.run}: {error}", file=sys.stderr)
        return 2
    effort = QUICK if arguments.quick else FULL
    if arguments.repetitions:
        effort = Effort(effort.saturated_seconds, effort.latency_seconds, arguments.repetitions)
    # SIGTERM ends us as Ctrl-C does: through the context managers that end what we started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = Cores.here()
    os.sched_setaffinity(0, {cores.load})
    peers = [peer for peer in PEERS if not arguments.only or peer.name in arguments.only]
    sections: list[str] = []

    def show(section: str) -> None:
        sections.append(section)
        print(section + "\n", flush=True)

    show(machine(effort))
    for hops in (1, 2):
        outcomes = _measure_all([peer for peer in peers if hops in peer.hops], hops, effort, cores)
        show(f"{table(hops, outcomes)}\n\n{reading(hops, outcomes)}".rstrip())
    for peer in peers:
        if peer.name == "gameday" and (text := _profiles(peer, cores)):
            show(f"### Where our proxy's time goes\n\n{text}")
    show(_twin(cores))
    if arguments.run:
        show("### A whole run\n\n" + whole_run)
    if arguments.write:
        page = arguments.write.read_text() if arguments.write.exists() else ""
        arguments.write.write_text(insert(page, "\n\n".join(sections)))
    return 0


def _measure_all(peers: list[Peer], hops: int, effort: Effort, cores: Cores) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    for peer in peers:
        outcomes[peer.name] = [] if peer.version() else f"not installed: {peer.install}"
    for number in range(effort.repetitions):
        for peer in peers:
            samples = outcomes[peer.name]
            if isinstance(samples, str):
                continue
            _say(f"{hops} hop{'s' * (hops > 1)}, repetition {number + 1} of {effort.repetitions}: {peer.name}")
            try:
                samples.append(measure(peer, hops, effort, cores))
            except (StartFailed, LoadFailed, subprocess.SubprocessError) as error:
                outcomes[peer.name] = f"failed: {' '.join(str(error).split())}"
    _say("")
    return outcomes


def _profiles(peer: Peer, cores: Cores) -> str:
    try:
        return "  \n".join(filter(None, (profile(peer, hops, cores) for hops in peer.hops)))
    except (StartFailed, LoadFailed, subprocess.SubprocessError) as error:
        return f"failed: {' '.join(str(error).split())}"


def _twin(cores: Cores) -> str:
    """What `python -m benchmarks.twin` prints: simulated requests a second."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.twin"],
        capture_output=True,
        text=True,
        timeout=TWIN_TIMEOUT_SECONDS,
        check=False,
        preexec_fn=pinned(cores.proxy),
    )
    text = done.stdout if done.returncode == 0 else f"failed: {done.stderr[-400:]}"
    return f"### The twin, on one core\n\n```\n{text.strip()}\n```"


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
