"""The reaper against a real runner that is really killed, with the real chaostoolkit where it matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from chaos.experiment import command
from chaos.ledger import Ledger
from chaos.processes import record_child, started_at
from chaos.requests import Step
from chaos.world import ControlComponent, Named, SupervisorAddress, WorldState

pytestmark = pytest.mark.e2e


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands in for the runner."""
    process = subprocess.Popen(["sleep", "60"])
    record_child(tmp_path, "runner", process.pid)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def reaper(tmp_path: Path, runner: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    Ledger(tmp_path, create=True).close()
    process = subprocess.Popen([sys.executable, "-m", "chaos.reaper", str(tmp_path)])
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


def wait_for_state(run_dir: Path, state: str, seconds: float) -> float:
    """How long it took."""
    began = time.monotonic()
    ledger = Ledger(run_dir)
    while time.monotonic() - began < seconds:
        records = ledger.records()
        if records and records[0].state == state:
            return time.monotonic() - began
        time.sleep(0.05)
    raise AssertionError(f"not {state} within {seconds} s: {ledger.records()}")


def test_an_expired_fault_is_reverted_while_the_runner_lives(tmp_path: Path, reaper, target) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin("f", "k", "t", [Step("DELETE", f"{target.url}/faults")], 1.5)
    ledger.injected("f")
    time.sleep(1.0)
    assert ledger.records()[0].state == "injected", "not before its time"
    wait_for_state(tmp_path, "reverted", 0.5 + 5.0)
    assert target.asked == [("DELETE", "/faults", "")]
    assert reaper.poll() is None, "it stays for faults to come"
    ledger.close_run()
    assert reaper.wait(5.0) == 0


def test_kill_9_of_the_runner_reverts_within_the_time_to_live_and_five_seconds(
    tmp_path: Path, runner, reaper, target
) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin("f", "k", "t", [Step("DELETE", f"{target.url}/faults")], 3.0)
    ledger.injected("f")
    runner.kill()
    runner.wait()
    assert wait_for_state(tmp_path, "reverted", 3.0 + 5.0) < 8.0
    assert reaper.wait(5.0) == 0, "nothing is left to do"


def test_a_revert_that_fails_at_first_is_tried_again(tmp_path: Path, runner, reaper, target) -> None:
    target.status = 500
    ledger = Ledger(tmp_path)
    ledger.begin("f", "k", "t", [Step("DELETE", f"{target.url}/faults")], 0.1)
    ledger.injected("f")
    wait_for_state(tmp_path, "failed", 5.0)
    target.status = 200
    wait_for_state(tmp_path, "reverted", 5.0)


def test_ctrl_c_in_the_terminal_does_not_reach_the_reaper(tmp_path: Path, reaper) -> None:
    deadline = time.monotonic() + 5.0
    while os.getsid(reaper.pid) != reaper.pid and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.getsid(reaper.pid) == reaper.pid


# ---- chaostoolkit itself, with a world of one control-plane component that the stand-in plays


def experiment(run_dir: Path, url: str, duration: float, hold_seconds: float) -> None:
    """identity down for `duration` seconds, and an experiment that would end it `hold_seconds` from now.

    The supervisor's API is the stand-in's.
    """
    me = Named(pid=os.getpid(), start=started_at(os.getpid()) or "")
    nowhere = f"{url.removeprefix('http://')}"
    state = WorldState(
        run="r",
        ready=True,
        supervisor=SupervisorAddress(pid=me.pid, start=me.start, socket=str(run_dir / "s")),
        runner=me,
        control={"identity": ControlComponent(address=nowhere, admin=nowhere, process="control/identity")},
        pods=(),
        processes={},
    )
    (run_dir / "world.json").write_bytes(msgspec.json.encode(state))
    (run_dir / "logs").mkdir(exist_ok=True)
    now = time.time()
    fault = {
        "name": "away",
        "kind": "control-plane-down",
        "at": 0.0,
        "duration": duration,
        "targets": {"component": "identity"},
        "parameters": {},
    }

    def action(title: str, func: str, /, **arguments: object) -> dict[str, object]:
        provider = {"type": "python", "module": "chaos.actions", "func": func, "arguments": arguments}
        return {"type": "action", "name": title, "provider": provider}

    revert = action("revert", "revert_fault", run_dir=str(run_dir), name="away")
    body = {
        "title": "t",
        "description": "d",
        "method": [
            action("inject", "inject_fault", run_dir=str(run_dir), fault=fault),
            action("wait", "wait_until", epoch=now + hold_seconds),
            revert,
        ],
        "rollbacks": [revert],
    }
    (run_dir / "experiment.json").write_bytes(msgspec.json.encode(body))


@pytest.fixture
def unix_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A supervisor that only writes down what it was asked."""
    asked = tmp_path / "asked"
    script = (
        "import socketserver, http.server, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        self.rfile.read(int(self.headers['content-length'] or 0))\n"
        "        open(sys.argv[2], 'a').write(self.path + chr(10))\n"
        "        self.send_response(200); self.send_header('content-length', '0'); self.end_headers()\n"
        "    def address_string(self): return 'unix'\n"
        "socketserver.ThreadingUnixStreamServer(sys.argv[1], H).serve_forever()\n"
    )
    asked.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "s"), str(asked)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 5.0
    while not (tmp_path / "s").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield asked
    process.kill()
    process.wait()


def heed_interrupts() -> None:
    """Of a child: a shell that runs the tests in the background has told them to ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_chaostoolkit_that_is_killed_leaves_the_fault_to_the_reaper(
    tmp_path: Path, reaper, unix_target: Path, target, number: signal.Signals
) -> None:
    duration = 2.0
    # However long chaostoolkit takes to start, it is caught holding the fault.
    experiment(tmp_path, target.url, duration, hold_seconds=120.0)
    toolkit = subprocess.Popen(
        command(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    try:
        wait_for_state(tmp_path, "injected", 60.0)
        toolkit.send_signal(number)
        toolkit.wait(20.0)
    finally:
        if toolkit.poll() is None:
            toolkit.kill()
            toolkit.wait()
    wait_for_state(tmp_path, "reverted", duration + 10.0 + 5.0)
    lines = unix_target.read_text().split()
    assert lines[0] == "/processes/control/identity/down"
    assert lines[-1] == "/processes/control/identity/up"


def test_an_undisturbed_experiment_injects_and_reverts_and_writes_its_journal(
    tmp_path: Path, reaper, unix_target: Path, target
) -> None:
    experiment(tmp_path, target.url, duration=1.0, hold_seconds=1.0)
    done = subprocess.run(command(tmp_path), capture_output=True, timeout=60.0, check=False)
    assert done.returncode == 0, done.stderr
    journal = msgspec.json.decode((tmp_path / "journal.json").read_bytes())
    assert journal["status"] == "completed"
    assert Ledger(tmp_path).records()[0].state == "reverted"
    assert unix_target.read_text().split() == ["/processes/control/identity/down", "/processes/control/identity/up"]
