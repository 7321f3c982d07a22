"""A slice of each fuzzer that is small enough for every run; `make fuzz` runs a million inputs."""

from __future__ import annotations

import fuzz_detect
import fuzz_http1


def test_http_1_readers_agree_with_h11_and_llhttp_however_the_bytes_are_cut() -> None:
    findings = fuzz_http1.run(6_000, seed=4)
    assert findings.faults == []
    assert findings.messages > 3_000  # else the generator has become too wild to say anything
    assert set(findings.explained) <= set(fuzz_http1.EXPLAINED)


def test_detection_agrees_with_openssl_and_httparse() -> None:
    findings = fuzz_detect.run(4_000, seed=4)
    assert findings.faults == []
    assert {"a name", "no name", "need more", "http1", "http2", "opaque"} <= set(findings.said)
