"""Trace contexts in and out, spans, and their export to a collector over a real socket."""

from __future__ import annotations

import asyncio
import base64
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from observed import PARENT, TRACE, Anchored, Side, asked

from mesh.behavior.outcome import Cause
from mesh.proxy import trace
from mesh.proxy.metrics import Registry
from mesh.proxy.trace import Exporter, Tracer, find_context, forward, trace_id_of

W3C = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
B3 = [
    (b"x-b3-traceid", TRACE.encode()),
    (b"x-b3-spanid", PARENT.encode()),
    (b"x-b3-parentspanid", b"00000000000000aa"),
    (b"x-b3-sampled", b"1"),
]
BINARY = b"\0\0" + bytes.fromhex(TRACE) + b"\1" + bytes.fromhex(PARENT) + b"\2\1"
GRPC = (b"grpc-trace-bin", base64.b64encode(BINARY))
NEW = "00f067aa0ba902b7"


class Kept:
    """An exporter that keeps."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []

    def add(self, span: dict[str, Any]) -> None:
        self.spans.append(span)


def tracer() -> tuple[Side, list[dict[str, Any]]]:
    kept = Kept()
    return Side("outbound", (Tracer(kept, Random(7)),)), kept.spans  # type: ignore[arg-type]


@pytest.mark.parametrize("headers", [[W3C], [GRPC], B3], ids=["w3c", "grpc", "b3"])
def test_each_form_is_read_and_handed_on_with_the_new_parent(headers: list[tuple[bytes, bytes]]) -> None:
    context = find_context(headers)
    assert context is not None
    assert (context.trace_id, context.parent_id, context.sampled) == (TRACE, PARENT, True)
    onwards = list(headers)
    forward(onwards, context, NEW)
    again = find_context(onwards)
    assert again is not None
    assert (again.trace_id, again.parent_id, again.sampled) == (TRACE, NEW, True)
    assert [name for name, _ in onwards] == [name for name, _ in headers]


def test_b3_names_the_old_parent_as_the_spans_parent() -> None:
    headers = list(B3)
    context = find_context(headers)
    assert context is not None
    forward(headers, context, NEW)
    assert dict(headers)[b"x-b3-parentspanid"] == PARENT.encode()


def test_w3c_comes_before_grpc_and_grpc_before_b3() -> None:
    other = (b"traceparent", f"00-{'1' * 32}-{PARENT}-01".encode())
    context = find_context([*B3, GRPC, other])
    assert context is not None
    assert context.trace_id == "1" * 32
    context = find_context([*B3, GRPC, (b"traceparent", b"broken")])
    assert context is not None
    assert context.form == b"grpc-trace-bin"


@pytest.mark.parametrize(
    "value",
    [
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-extra",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        "",
    ],
)
def test_a_traceparent_that_the_specification_forbids_is_none(value: str) -> None:
    assert find_context([(b"traceparent", value.encode())]) is None


def test_a_later_version_of_traceparent_is_read_as_far_as_it_is_known() -> None:
    context = find_context([(b"traceparent", f"cc-{TRACE}-{PARENT}-01-what-comes".encode())])
    assert context is not None
    assert context.sampled


def test_a_repeated_context_header_says_nothing() -> None:
    assert find_context([W3C, W3C]) is None


@given(st.binary(max_size=60))
def test_no_binary_context_breaks_the_reader(data: bytes) -> None:
    context = find_context([(b"grpc-trace-bin", base64.b64encode(data).rstrip(b"="))])
    if context is not None:
        assert len(context.trace_id) == 32
        assert len(context.parent_id) == 16
    find_context([(b"grpc-trace-bin", data), (b"traceparent", data), (b"x-b3-traceid", data), (b"x-b3-spanid", data)])


def test_without_an_incoming_context_there_is_no_span_and_no_header() -> None:
    side, spans = tracer()
    request = asked(headers=[(b"accept", b"*/*")])
    side.serve(request)
    assert spans == []
    assert request.head.headers == [(b"accept", b"*/*")]
    assert request.extra == []


def test_what_is_not_sampled_is_passed_on_untouched() -> None:
    side, spans = tracer()
    unsampled = [(b"traceparent", f"00-{TRACE}-{PARENT}-00".encode()), (b"tracestate", b"a=b")]
    request = asked(headers=unsampled)
    side.serve(request)
    assert spans == []
    assert request.head.headers == unsampled


def test_a_sampled_request_becomes_a_span_that_is_the_parent_of_what_follows() -> None:
    side, spans = tracer()
    request = asked("/orders?id=1", "POST", [W3C, (b"tracestate", b"a=b")], status=503, cause=Cause.FAILFAST)
    side.serve(request)
    (span,) = spans
    onwards = find_context(request.head.headers)
    assert onwards is not None
    assert (span["traceId"], span["parentSpanId"], span["spanId"]) == (TRACE, PARENT, onwards.parent_id)
    assert (span["name"], span["kind"], span["status"]) == ("/orders", trace.CLIENT, {"code": 2})
    assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
    attributes = {a["key"]: next(iter(a["value"].values())) for a in span["attributes"]}
    assert attributes["http.request.method"] == "POST"
    assert attributes["url.path"] == "/orders"
    assert attributes["url.query"] == "id=1"
    assert attributes["http.response.status_code"] == "503"
    assert (attributes["server.address"], attributes["server.port"]) == ("pay.shop.svc.cluster.local", "80")
    assert attributes["error.type"] == "failfast"
    assert dict(request.head.headers)[b"tracestate"] == b"a=b"


def test_an_inbound_span_is_a_servers_and_each_request_has_its_own() -> None:
    side, spans = tracer()
    side.direction = "inbound"
    side.serve(asked(headers=[W3C]))
    side.serve(asked(headers=[W3C]))
    assert [span["kind"] for span in spans] == [trace.SERVER, trace.SERVER]
    assert spans[0]["spanId"] != spans[1]["spanId"]
    assert spans[0]["status"] == {}


def test_the_id_for_logs_is_the_traces_or_what_linkerd_accepts_instead() -> None:
    assert trace_id_of([W3C]) == TRACE
    assert trace_id_of([(b"x-request-id", b"r-1"), (b"x-amzn-trace-id", b"a-1")]) == "r-1"
    assert trace_id_of([(b"x-amzn-trace-id", b"a-1")]) == "a-1"
    assert trace_id_of([(b"accept", b"*/*")]) == ""


# ---- export


class Collector:
    """An OTLP collector that answers with the statuses it is given, then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.batches: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.arrived = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length"))
        body = json.loads(await reader.readexactly(length))
        status = self.statuses.pop(0) if self.statuses else 200
        self.heads.append(head)
        if status == 200:
            self.batches.append(body)
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        self.arrived.set()

    @property
    def spans(self) -> list[dict[str, Any]]:
        return [span for batch in self.batches for span in batch["resourceSpans"][0]["scopeSpans"][0]["spans"]]


def exported(registry: Registry, name: str) -> float:
    lines = registry.render().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def until(done: Any) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.005)


async def export(collector: Collector, monkeypatch: pytest.MonkeyPatch, spans: int, until_metric: str) -> Registry:
    monkeypatch.setattr(trace, "BATCH_SECONDS", 0.0)
    monkeypatch.setattr(trace, "BACKOFF_MIN_SECONDS", 0.001)
    registry = Registry()
    server = await asyncio.start_server(collector.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    exporter = Exporter("127.0.0.1", port, "linkerd-proxy", registry, Random(1), attributes={"pod": "pay-0"})
    task = asyncio.create_task(exporter.run())
    for index in range(spans):
        exporter.add({"spanId": str(index)})
    await until(lambda: exported(registry, until_metric) >= spans)
    task.cancel()
    server.close()
    return registry


def test_spans_reach_the_collector_as_otlp(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    asyncio.run(export(collector, monkeypatch, 600, "trace_spans_exported_total"))
    assert [span["spanId"] for span in collector.spans] == [str(index) for index in range(600)]
    assert len(collector.batches) == 2
    assert collector.heads[0].startswith("POST /v1/traces HTTP/1.1\r\n")
    attributes = collector.batches[0]["resourceSpans"][0]["resource"]["attributes"]
    assert {"key": "service.name", "value": {"stringValue": "linkerd-proxy"}} in attributes
    assert {"key": "pod", "value": {"stringValue": "pay-0"}} in attributes


def test_a_collector_that_fails_gets_the_batch_again(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector(503, 429)
    registry = asyncio.run(export(collector, monkeypatch, 3, "trace_spans_exported_total"))
    assert len(collector.spans) == 3
    assert exported(registry, "trace_export_failures_total") == 2


def test_a_batch_that_the_collector_refuses_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector(400)
    registry = asyncio.run(export(collector, monkeypatch, 3, 'trace_spans_dropped_total{reason="rejected"}'))
    assert collector.spans == []
    assert exported(registry, "trace_spans_exported_total") == 0


def test_spans_past_the_queues_bound_are_dropped_and_counted() -> None:
    async def fill() -> Registry:
        registry = Registry()
        exporter = Exporter("127.0.0.1", 1, "linkerd-proxy", registry, Random(1))
        for _ in range(trace.QUEUE_SPANS + 5):
            exporter.add({})
        return registry

    assert exported(asyncio.run(fill()), 'trace_spans_dropped_total{reason="queue_full"}') == 5


def test_a_collector_with_a_name_must_prove_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Anchored()
    monkeypatch.setattr(trace, "BATCH_SECONDS", 0.0)
    monkeypatch.setattr(trace, "BACKOFF_MIN_SECONDS", 0.001)

    async def run() -> tuple[float, float]:
        collector, registry = Collector(), Registry()
        context = mesh.contexts("collector.shop.local").server
        server = await asyncio.start_server(collector.serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        client = mesh.client("pay.shop.local")
        results = []
        for name, metric in (
            ("collector.shop.local", "trace_spans_exported_total"),
            ("someone.else.local", "trace_export_failures_total"),
        ):
            exporter = Exporter("127.0.0.1", port, "x", registry, Random(1), context=lambda: client, tls_name=name)
            exporter.add({"spanId": name})
            task = asyncio.create_task(exporter.run())
            await until(lambda metric=metric: exported(registry, metric) >= 1)
            task.cancel()
            results.append(float(len(collector.spans)))
        server.close()
        return results[0], results[1]

    assert asyncio.run(run()) == (1.0, 1.0)
