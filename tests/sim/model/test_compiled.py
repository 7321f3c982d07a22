"""The compiled twin is the interpreted one, request by request.

After `make native` this process plays machine code, and the other one, which has a copy of the sources and nothing
else, the interpreter. Without a build both interpret, and the test then only says that a scenario does not depend on
the process that plays it (hash seeds, import order).
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import twin_traces

from scenarios.load import load_scenario
from sim.model.setup import read_setup

ROOT = Path(twin_traces.__file__).parents[2]


def test_every_request_ends_as_it_does_interpreted(tmp_path: Path) -> None:
    for package in ("mesh", "scenarios", "sim"):
        sources_only = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "native.json")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=sources_only)
    tests = Path(twin_traces.__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(tests.parent)])}
    done = subprocess.run(
        [sys.executable, "-P", str(tests)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["interpreted"]
    here = twin_traces.traces()
    assert set(here["crowded"]["status"]) >= {0, 200, 502}, "a scenario in which little happens compares little"
    for name, trace in here.items():
        there = said["traces"][name]
        assert len(trace["status"]) > 500, name
        for column in trace:
            assert trace[column] == there[column], f"{name}: {column}"


def test_a_setup_reaches_the_workers_whole() -> None:
    """Compiled, too: a frozen dataclass of machine code does not pickle by itself."""
    setup = read_setup(load_scenario("retry-storm"))
    assert pickle.loads(pickle.dumps(setup)) == setup
