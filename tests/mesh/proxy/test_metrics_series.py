"""The series objects: what each event counts, under Linkerd's names and labels."""

from __future__ import annotations

import errno
from random import Random

from prometheus_client.parser import text_string_to_metric_families

from mesh.api.messages import Endpoint, RetrySpec
from mesh.behavior.backend import Backend, BackendSettings
from mesh.behavior.outcome import Cause
from mesh.behavior.routes import LimitRetry, Route
from mesh.proxy.metrics import Registry
from mesh.proxy.series import backend_labels, grpc_code, parent_labels, route_labels, state_of
from mesh.proxy.telemetry import ControlSeries, DirectionTelemetry, OutboundTelemetry, ProcessTelemetry, RouteSeries
from mesh.proxy.wire.errors import ANSWERS, Refused

PLAIN = Route("default")
RETRYING = Route("checkout", retry=LimitRetry(RetrySpec(statuses=((500, 599),))))
LABELS = {**parent_labels("pay", "shop", 80), **route_labels("checkout", "shop", "HTTPRoute")}
PROFILE = {"direction": "outbound", "dst": "pay.shop.svc.cluster.local:80", "rt_route": "checkout"}


class Scraped:
    """The registry as Prometheus sees it."""

    def __init__(self, registry: Registry) -> None:
        self.families = list(text_string_to_metric_families(registry.render().decode()))

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels, of which there must be one."""
        found = [
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, (name, labels)
        return sum(found)

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(s.labels) for family in self.families for s in family.samples if s.name == name]

    def bounds(self, name: str) -> list[str]:
        return [labels["le"] for labels in self.labels(f"{name}_bucket")]


def outbound() -> tuple[Registry, OutboundTelemetry]:
    registry = Registry()
    return registry, OutboundTelemetry(registry, identity_enabled=True)


def route(telemetry: OutboundTelemetry, *, grpc: bool = False, profile: bool = False) -> RouteSeries:
    return telemetry.route(LABELS, PROFILE if profile else None, grpc=grpc)


def test_an_endpoints_response_is_counted_by_verdict_status_and_grpc_status() -> None:
    registry, telemetry = outbound()
    series = telemetry.endpoint({"direction": "outbound", "tls": "true", "target_addr": "10.0.0.1:80"})
    series.requests.value += 3
    series.observe(200, False, 0.004)
    series.head(200, 0.030)
    series.ended(200, True, grpc_status=14)
    series.broken()
    found = Scraped(registry)
    assert found.value("request_total") == 3
    assert found.value("response_total", classification="success", status_code="200") == 1
    assert found.value("response_total", classification="failure", grpc_status="14") == 1
    assert found.value("response_total", classification="failure", error="i/o") == 1
    assert found.value("response_latency_ms_bucket", le="4") == 1
    assert found.value("response_latency_ms_bucket", le="30") == 2


def test_a_connection_without_identity_says_why() -> None:
    registry, telemetry = outbound()
    telemetry.tcp_to(None).opened.value += 1
    telemetry.endpoint({"direction": "outbound", "tls": "no_identity"}).requests.value += 1
    DirectionTelemetry(registry, "inbound", True).tcp("src", "no_identity").opened.value += 1
    DirectionTelemetry(registry, "inbound", True).tcp("src", "true").opened.value += 1
    found = Scraped(registry)
    reason = "not_provided_by_service_discovery"
    assert found.value("tcp_open_total", direction="outbound", no_tls_reason=reason) == 1
    assert found.value("request_total", tls="no_identity", no_tls_reason=reason) == 1
    assert found.value("tcp_open_total", direction="inbound", no_tls_reason="no_tls_from_remote") == 1
    assert {"direction": "inbound", "peer": "src", "tls": "true"} in found.labels("tcp_open_total")


def test_connections_close_with_their_errno_and_the_open_ones_are_known() -> None:
    registry, telemetry = outbound()
    series = telemetry.tcp("dst", "true")
    series.opened.value += 4
    series.ended()
    series.ended(ConnectionResetError(errno.ECONNRESET, "reset"))
    series.ended(ValueError("no errno"))
    found = Scraped(registry)
    assert found.value("tcp_close_total", errno="ECONNRESET") == 1
    assert found.value("tcp_close_total") == 3
    assert telemetry.open_connections() == [(series.labels, 1.0)]


def test_a_routes_answer_is_counted_with_status_error_and_duration() -> None:
    registry, telemetry = outbound()
    series = route(telemetry)
    series.answered(PLAIN, 200, None, 1, 0, False, seconds=0.2)
    series.answered(PLAIN, 504, Cause.FAILFAST, 0, 0, False, seconds=3.0)
    series.answered(PLAIN, 502, Refused.RESPONSE_INVALID, 1, 0, False, seconds=0.01)
    found = Scraped(registry)
    name = "outbound_http_route_request_statuses_total"
    assert found.value(name, http_status="200", parent_name="pay", route_name="checkout", parent_port="80") == 1
    assert found.value(name, http_status="504", error="FAIL_FAST") == 1
    assert found.value(name, http_status="502", error="UNKNOWN") == 1
    assert found.bounds("outbound_http_route_request_duration_seconds") == ["0.05", "0.5", "1", "10", "+Inf"]
    assert found.value("outbound_http_route_request_duration_seconds_count") == 3


def test_a_grpc_routes_answers_go_to_its_own_families_by_code() -> None:
    registry, telemetry = outbound()
    series = route(telemetry, grpc=True)
    series.answered(PLAIN, 200, None, 1, 0, False, seconds=0.1, grpc_status=0, failed=False)
    series.answered(PLAIN, 200, None, 1, 0, False, seconds=0.1, grpc_status=14, failed=True)
    found = Scraped(registry)
    assert found.value("outbound_grpc_route_request_statuses_total", grpc_status="OK") == 1
    assert found.value("outbound_grpc_route_request_statuses_total", grpc_status="UNAVAILABLE") == 1
    assert not found.labels("outbound_http_route_request_statuses_total")
    assert (grpc_code(16), grpc_code(99), grpc_code(None)) == ("UNAUTHENTICATED", "UNKNOWN", "UNKNOWN")


def test_retries_their_successes_their_limit_and_their_overflow_are_told_apart() -> None:
    registry, telemetry = outbound()
    series = route(telemetry)
    series.answered(RETRYING, 200, None, 1, 0, False)
    zeros = Scraped(registry)
    assert zeros.value("outbound_http_route_retry_requests_total") == 0  # seen before the first retry
    series.answered(RETRYING, 200, None, 3, 2, False)
    series.answered(RETRYING, 503, None, 2, 1, True)
    series.answered(RETRYING, 504, Cause.FAILFAST, 2, 1, False, overflow=True)
    found = Scraped(registry)
    prefix = "outbound_http_route_retry"
    assert found.value(f"{prefix}_requests_total") == 4
    assert found.value(f"{prefix}_successes_total") == 1
    assert found.value(f"{prefix}_limit_exceeded_total") == 1
    assert found.value(f"{prefix}_overflow_total") == 1


def test_a_profiles_route_counts_logical_and_actual_requests() -> None:
    registry, telemetry = outbound()
    series = route(telemetry, profile=True)
    backend = series.backend(backend_labels("pay", "shop", 80))
    for status in (503, 200):
        backend.sent()
        backend.ended(status, status >= 500, 0.02)
    series.answered(PLAIN, 200, None, 2, 1, True, seconds=0.05)
    found = Scraped(registry)
    assert found.value("route_request_total", rt_route="checkout") == 1
    assert found.value("route_response_total", classification="success", status_code="200") == 1
    assert found.value("route_response_latency_ms_bucket", le="50") == 1
    assert found.value("route_actual_request_total") == 2
    assert found.value("route_actual_response_total", classification="failure", status_code="503") == 1
    assert found.value("route_actual_response_total", classification="success", status_code="200") == 1
    assert found.value("route_retryable_total") == 1
    assert found.value("route_retry_skipped_total", skipped="no_budget") == 1
    assert not found.labels("outbound_http_route_retry_requests_total")


def test_a_backends_tries_are_counted_beside_its_route() -> None:
    registry, telemetry = outbound()
    series = route(telemetry)
    canary = backend_labels("pay-canary", "shop", 80)
    backend = series.backend(canary)
    assert series.backend(dict(canary)) is backend
    backend.sent()
    backend.ended(200, False, 0.03)
    backend.sent()
    backend.ended(0, True, 0.3, error="IO")
    found = Scraped(registry)
    prefix = "outbound_http_route_backend"
    assert found.value(f"{prefix}_requests_total", backend_name="pay-canary", route_name="checkout") == 2
    assert found.value(f"{prefix}_response_statuses_total", http_status="200") == 1
    assert found.value(f"{prefix}_response_statuses_total", error="IO") == 1
    assert found.bounds(f"{prefix}_response_duration_seconds") == [
        "0.025",
        "0.05",
        "0.1",
        "0.25",
        "0.5",
        "1",
        "10",
        "+Inf",
    ]
    assert found.value(f"{prefix}_response_duration_seconds_bucket", le="0.05") == 1


class _Driver:
    """Connects nothing."""

    def connect(self, endpoint: object) -> None: ...
    def send(self, ticket: object, endpoint: object, connection: object) -> None: ...
    def refuse(self, ticket: object, cause: Cause) -> None: ...
    def close(self, connection: object) -> None: ...


def test_a_balancer_shows_its_endpoints_its_queue_and_what_discovery_did_until_it_is_closed() -> None:
    registry, telemetry = outbound()
    backend: Backend[object, object] = Backend(BackendSettings(), _Driver(), Random(1), 0.0)
    labels = {**parent_labels("pay", "shop", 80), **backend_labels("pay", "shop", 80)}
    series = telemetry.balancer(labels, lambda: state_of(backend, 0.0))
    backend.dispatch(0.0, object())
    series.queued()
    series.left(0.004)
    before = Scraped(registry)
    assert before.value("outbound_http_balancer_queue_length", parent_name="pay") == 1
    backend.update(0.0, [Endpoint(address="10.0.0.1:80", pod="pay-0", namespace="shop")])
    series.reset()
    series.updated(added=2, removed=1)
    found = Scraped(registry)
    prefix = "outbound_http_balancer"
    assert found.value(f"{prefix}_endpoints") == 1
    assert {labels["endpoint_state"] for labels in found.labels(f"{prefix}_endpoints")} == {"ready", "pending"}
    assert found.value(f"{prefix}_queue_requests_total") == 1
    assert found.bounds(f"{prefix}_queue_latency_seconds") == ["0.0005", "0.005", "0.05", "0.5", "1", "3", "+Inf"]
    assert [found.value(f"{prefix}_p2c_updates_total", op=op) for op in ("Add", "Remove", "Reset")] == [2, 1, 1]
    assert found.value(f"{prefix}_queue_gate_open_total") == found.value(f"{prefix}_queue_gate_shut_total") == 0
    series.close()
    assert not Scraped(registry).labels(f"{prefix}_endpoints")


def test_a_refusal_counts_its_error_and_a_malformed_message_its_shape() -> None:
    registry, telemetry = outbound()
    telemetry.refused(Cause.FAILFAST)
    telemetry.refused(Refused.OBS_FOLD)
    for cause, answer in ANSWERS.items():
        if not answer.label:
            telemetry.refused(cause)  # counted elsewhere: denials, limits
    found = Scraped(registry)
    assert found.value("outbound_http_errors_total", error="failfast") == 1
    assert found.value("outbound_http_refused_total", cause="obs-fold") == 1
    assert all(labels for labels in found.labels("outbound_http_errors_total"))


def test_failed_connections_are_counted_and_witnessed() -> None:
    seen: list[tuple[str, ...]] = []

    class Witness:
        def connection_failed(self, *what: str) -> None:
            seen.append(what)

    registry, telemetry = outbound()
    telemetry.witness = Witness()
    telemetry.handshake_failed("certificate_expired", "10.0.0.1:4143")
    telemetry.connect_failed(Cause.CONNECT)
    found = Scraped(registry)
    assert found.value("tls_handshake_failures_total", direction="outbound", reason="certificate_expired") == 1
    assert found.value("outbound_tcp_errors_total", error="i/o") == 1
    assert seen == [
        ("outbound", "tls handshake", "certificate_expired", "10.0.0.1:4143"),
        ("outbound", "connect", "i/o", ""),
    ]


def test_the_control_plane_and_the_process_are_measured() -> None:
    registry = Registry()
    ProcessTelemetry(registry, "9.9")
    control = ControlSeries(registry, "10.0.0.1:8086")
    control.requests.value += 2
    control.answered("200", False, 0.002)
    control.answered("timeout", True)
    found = Scraped(registry)
    assert found.value("control_request_total", addr="10.0.0.1:8086") == 2
    assert found.value("control_response_total", classification="failure", error="timeout") == 1
    assert found.value("control_response_latency_ms_bucket", le="2") == 1
    assert found.value("proxy_build_info", version="9.9") == 1
    assert found.value("process_resident_memory_bytes") > 1_000_000
    assert found.value("process_open_fds") < found.value("process_max_fds")
    assert found.value("process_threads") >= 1
