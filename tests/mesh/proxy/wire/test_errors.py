"""The one table of answers, in both of its forms."""

from __future__ import annotations

import h11
import pytest

from mesh.behavior.outcome import STATUS_OF, Cause
from mesh.proxy.wire.errors import (
    ANSWERS,
    REASONS,
    Answer,
    AnyCause,
    Refused,
    answer_bytes,
    answer_head,
    grpc_answer_head,
)

LINKERD = {
    # cause: status, gRPC code, `error` of *_http_errors_total (mesh.md sections 2 and 4)
    Cause.CONNECT: (502, 14, "i/o"),
    Cause.FAILFAST: (504, 14, "failfast"),
    Cause.LOADSHED: (503, 14, "loadshed"),
    Cause.RESPONSE_TIMEOUT: (504, 4, "response timeout"),
    Refused.NO_ROUTE: (404, 5, ""),
    Refused.FORBIDDEN: (403, 7, ""),
    Refused.RATE_LIMITED: (429, 8, ""),
    Refused.IDENTITY_REQUIRED: (502, 14, "identity required"),
    Refused.LOOP: (508, 10, "gateway loop"),
    Refused.GATEWAY_DOMAIN_INVALID: (404, 5, "gateway domain invalid"),
    Refused.TLS_DETECT_TIMEOUT: (408, 4, "tls detection timeout"),
    Refused.UNEXPECTED: (500, 13, "unexpected"),
}


def test_every_cause_has_one_answer_and_shared_causes_have_the_twins_status() -> None:
    assert set(ANSWERS) == set(Cause) | set(Refused)
    for cause, status in STATUS_OF.items():
        assert ANSWERS[cause].status == status
    assert {answer.status for answer in ANSWERS.values()} <= set(REASONS)


@pytest.mark.parametrize(("cause", "seen"), LINKERD.items(), ids=lambda value: getattr(value, "name", None))
def test_what_linkerd_answers_we_answer(cause: AnyCause, seen: tuple[int, int, str]) -> None:
    answer = ANSWERS[cause]
    assert (answer.status, answer.grpc_code, answer.label) == seen


def test_malformed_requests_are_told_apart_by_a_label_and_end_the_connection() -> None:
    malformed = {cause: answer for cause, answer in ANSWERS.items() if answer.refused}
    assert len({answer.refused for answer in malformed.values()}) == len(malformed) > 30
    assert all(answer.close and answer.label == "bad request" for answer in malformed.values())
    statuses = {cause: answer.status for cause, answer in malformed.items() if answer.status != 400}
    assert statuses == {
        Refused.EXPECTATION: 417,
        Refused.URI_TOO_LONG: 414,
        Refused.HEAD_TOO_LARGE: 431,
        Refused.TOO_MANY_HEADERS: 431,
        Refused.HEAD_TIMEOUT: 408,
        Refused.BODY_TIMEOUT: 408,
        Refused.UNSUPPORTED: 501,
        Refused.UPGRADE_UNSUPPORTED: 501,
    }


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=lambda answer: answer.text)
def test_answers_are_responses_that_a_client_can_read(answer: Answer) -> None:
    oracle = h11.Connection(h11.CLIENT)
    oracle.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    oracle.send(h11.EndOfMessage())
    oracle.receive_data(answer_bytes(answer, informational=True, close=False))
    event = oracle.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == answer.status
    headers = dict(event.headers)
    assert headers[b"l5d-proxy-error"] == answer.text.encode()
    assert (b"connection" in headers, b"l5d-proxy-connection" in headers) == (answer.close, answer.close)
    assert isinstance(oracle.next_event(), h11.EndOfMessage)


def test_answers_keep_the_proxys_own_headers_from_strangers() -> None:
    answer = ANSWERS[Refused.LOOP]
    assert b"l5d" not in answer_bytes(answer, informational=False, close=False)
    assert answer_head(answer, informational=False).headers == []
    grpc = grpc_answer_head(answer, informational=False)
    assert grpc.headers == [(b"content-type", b"application/grpc"), (b"grpc-status", b"10")]


def test_a_grpc_answer_says_all_in_one_head_that_ends_the_stream() -> None:
    head = grpc_answer_head(Answer(504, 4, "", "timed out after 5 %, \u00e4"), informational=True)
    assert (head.status, head.bodyless, head.content_length) == (200, True, None)
    assert head.headers[:3] == [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"4"),
        (b"grpc-message", b"timed out after 5 %25, %C3%A4"),
    ]
