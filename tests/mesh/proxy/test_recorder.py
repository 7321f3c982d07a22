"""The flight recorder: what it keeps of failures, and that successes leave no trace."""

from __future__ import annotations

import pytest
from observed import TRACE, Side, asked

from mesh.behavior.outcome import Cause
from mesh.proxy.recorder import Recorder


def recorded(size: int = 256) -> tuple[Side, Recorder]:
    recorder = Recorder(size, clock=lambda: 1_700_000_000.0)
    return Side("outbound", recorder=recorder), recorder


def test_a_failure_tells_everything_that_is_needed_to_explain_it() -> None:
    side, recorder = recorded()
    traceparent = (b"traceparent", f"00-{TRACE}-b7ad6b7169203331-00".encode())
    side.serve(asked(status=504, cause=Cause.RESPONSE_TIMEOUT, attempts=3, headers=[traceparent]))
    (failure,) = recorder.failures()
    assert (failure.kind, failure.cause, failure.status) == ("request", "response timeout", 504)
    assert (failure.method, failure.path, failure.route) == ("GET", "/orders?id=1", "checkout")
    assert (failure.authority, failure.direction) == ("pay.shop.svc.cluster.local:80", "outbound")
    assert (failure.endpoint, failure.pod, failure.peer_identity) == ("10.0.0.20:4143", "pay-0", "cart.shop.local")
    assert (failure.attempts, failure.retries_exhausted) == (3, True)
    assert failure.trace_id == TRACE
    assert failure.time == 1_700_000_000.0
    assert failure.latency_seconds is not None


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"status": 200}, False),
        ({"status": 404}, False),
        ({"status": 429}, False),
        ({"status": 200, "grpc_status": 5}, False),
        ({"status": 200, "grpc_status": 14}, True),
        ({"status": 503}, True),
        ({"status": 403, "cause": Cause.LOADSHED}, True),
        ({"status": 200, "cause": Cause.CONNECT}, True),
    ],
)
def test_only_failures_are_kept(fields: dict[str, object], kept: bool) -> None:
    side, recorder = recorded()
    side.serve(asked(**fields))  # type: ignore[arg-type]
    assert len(recorder.failures()) == kept


def test_the_newest_failures_push_out_the_oldest() -> None:
    side, recorder = recorded(size=3)
    for index in range(5):
        side.serve(asked(f"/{index}", status=500))
    assert [failure.path for failure in recorder.failures()] == ["/4", "/3", "/2"]
    assert [failure.path for failure in recorder.failures(limit=1)] == ["/4"]
    assert recorder.total == 5


def test_a_long_path_is_cut() -> None:
    side, recorder = recorded()
    side.serve(asked("/" + "x" * 100_000, status=500, endpoint=None))
    assert len(recorder.failures()[0].path) == 256


def test_a_failed_handshake_is_kept_with_its_reason() -> None:
    _, recorder = recorded()
    recorder.connection_failed("inbound", "tls handshake", "certificate_expired", "10.0.0.7:4000")
    (failure,) = recorder.failures()
    assert (failure.kind, failure.cause, failure.reason) == ("connection", "tls handshake", "certificate_expired")
    assert failure.peer == "10.0.0.7:4000"
