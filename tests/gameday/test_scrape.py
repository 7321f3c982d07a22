from gameday.scrape import parse_exposition

TEXT = """# HELP request_total Requests.
# TYPE request_total counter
request_total{direction="inbound",tls="true"} 12
response_latency_ms_bucket{direction="inbound",le="10"} 3
outbound_http_route_request_duration_seconds_bucket{le="0.05"} 9
process_resident_memory_bytes 3.1e7
garbled line
"""


def test_samples_keep_their_labels_as_written() -> None:
    samples = {(name, labels): value for name, labels, value in parse_exposition(TEXT)}
    assert samples["request_total", 'direction="inbound",tls="true"'] == 12
    assert samples["process_resident_memory_bytes", ""] == 3.1e7


def test_only_buckets_that_somebody_reads_are_kept() -> None:
    names = {name for name, _, _ in parse_exposition(TEXT)}
    assert "response_latency_ms_bucket" in names
    assert "outbound_http_route_request_duration_seconds_bucket" not in names


def test_a_garbled_line_costs_only_itself() -> None:
    assert len(list(parse_exposition(TEXT))) == 3


def test_a_label_value_with_a_space_is_not_cut() -> None:
    assert list(parse_exposition('app_requests_total{route="POST /charge"} 4\n')) == [
        ("app_requests_total", 'route="POST /charge"', 4.0)
    ]
