"""`python -m benchmarks` (= `make bench`): our proxy beside its peers, on the same work, in one run.

    python -m benchmarks [--rows a,b,profile] [--only gameday Envoy] [--quick] [--write docs/performance.md]

Rows a–f are in `benchmarks/rows.py`; `profile` says where our proxy's time goes, `twin` how fast the twin is. Memory,
stalls and attacks are programs of their own: `python -m benchmarks.memory`, `.stalls`, `.attack`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.load import LoadFailed, NoGenerator
from benchmarks.machine import StartFailed, pinned, raise_descriptor_limit
from benchmarks.measure import Cores, Effort, NotThere, measure
from benchmarks.overhead import overhead
from benchmarks.peers.catalogue import OURS, PEERS
from benchmarks.peers.peer import Peer
from benchmarks.profile import profile
from benchmarks.report import Outcome, insert, machine, table
from benchmarks.rows import ROWS

SATURATED_SECONDS, LATENCY_SECONDS, REPETITIONS = 2.0, 1.0, 3
BUDGET_SECONDS = 600.0
"""Repetitions of disturbed runs begin within it; the rest of twelve minutes is for what is under way, and the twin."""
PARTS = ("profile", "twin")
PROFILED = "abcd"
TWIN_TIMEOUT_SECONDS = 300.0


def main() -> int:
    arguments = _parser().parse_args()
    if sys.platform != "linux":
        print("python -m benchmarks reads CPU time from /proc: Linux only", file=sys.stderr)
        return 2
    try:
        whole_run = overhead(arguments.run) if arguments.run else ""
    except (OSError, ValueError, sqlite3.DatabaseError) as error:
        print(f"--run {arguments.run}: {error}", file=sys.stderr)
        return 2
    repetitions = arguments.repetitions or (1 if arguments.quick else REPETITIONS)
    saturated = 1.0 if arguments.quick else SATURATED_SECONDS
    until = time.monotonic() + (0.0 if arguments.quick else BUDGET_SECONDS)
    effort = Effort(saturated, LATENCY_SECONDS, repetitions, until)
    # SIGTERM ends us as Ctrl-C does: through the context managers that end what we started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_descriptor_limit()
    cores = Cores.here()
    os.sched_setaffinity(0, {cores.load})
    peers = [peer for peer in PEERS if not arguments.only or peer.name in arguments.only]
    sections: list[str] = []

    def show(section: str) -> None:
        sections.append(section)
        print(section + "\n", flush=True)

    show(machine(effort))
    for key in arguments.rows:
        if key in ROWS:
            show(table(ROWS[key], key, _measure_all([peer for peer in peers if key in peer.rows], key, effort, cores)))
    ours = next((peer for peer in peers if peer.name == OURS), None)
    if "profile" in arguments.rows and ours is not None and (text := _profiles(ours, arguments.rows, cores)):
        show(f"### Where our proxy's time goes\n\n{text}")
    if "twin" in arguments.rows:
        show(_twin(cores))
    if arguments.run:
        show("### A whole run\n\n" + whole_run)
    if arguments.write:
        page = arguments.write.read_text() if arguments.write.exists() else ""
        arguments.write.write_text(insert(page, "\n\n".join(sections)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = (*ROWS, *PARTS)
    parser.add_argument("--rows", type=_rows, default=everything, metavar="a,b,…", help=",".join(everything))
    parser.add_argument("--quick", action="store_true", help="one short repetition: shows that it works, no more")
    parser.add_argument("--repetitions", type=int, choices=range(1, 51), metavar="1..50")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS], metavar="PROXY")
    parser.add_argument("--run", type=Path, metavar="DIR", help="a finished run: adds what it cost")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the figures into this page")
    return parser


def _rows(text: str) -> tuple[str, ...]:
    keys = tuple(part.strip() for part in text.split(","))
    for key in keys:
        if key not in ROWS and key not in PARTS:
            raise argparse.ArgumentTypeError(f"{key!r} is no row; known: {', '.join((*ROWS, *PARTS))}")
    return keys


def _measure_all(peers: list[Peer], key: str, effort: Effort, cores: Cores) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    for peer in peers:
        outcomes[peer.name] = [] if peer.version() else f"not installed: {peer.install}"
    for number in range(effort.repetitions):
        for peer in peers:
            samples = outcomes[peer.name]
            if isinstance(samples, str):
                continue
            _say(f"({key}), repetition {number + 1} of {effort.repetitions}: {peer.name}")
            try:
                samples.append(measure(peer, ROWS[key], effort, cores))
            except NoGenerator as error:
                outcomes[peer.name] = str(error)
            except NotThere as error:
                outcomes[peer.name] = f"not there yet: {' '.join(str(error).split())}"
            except (StartFailed, LoadFailed, subprocess.SubprocessError) as error:
                outcomes[peer.name] = f"failed: {' '.join(str(error).split())}"
    _say("")
    return outcomes


def _profiles(peer: Peer, rows: tuple[str, ...], cores: Cores) -> str:
    lines = []
    for key in rows:
        if key in PROFILED:
            try:
                lines.append(profile(peer, ROWS[key], key, cores))
            except (StartFailed, LoadFailed, NoGenerator, subprocess.SubprocessError) as error:
                lines.append(f"({key}) failed: {' '.join(str(error).split())}")
    return "  \n".join(filter(None, lines))


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
