"""Reading expositions: our own proxies', others', and broken ones; held against prometheus_client's parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mesh.proxy.metrics import Registry
from mesh.viz.exposition import Truncated, parse_labels, read

COUNTERS, HISTOGRAMS = frozenset({"response_total", "tcp_open_connections"}), frozenset({"response_latency_ms"})

label_values = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12).filter(bool)
label_sets = st.dictionaries(st.sampled_from(["dst", "tls", "status_code", "le_", "path"]), label_values, max_size=3)


@given(
    counters=st.lists(st.tuples(label_sets, st.integers(0, 2**50)), max_size=5),
    histograms=st.lists(st.tuples(label_sets, st.lists(st.floats(0, 70_000), max_size=20)), max_size=4),
)
def test_what_a_proxy_says_is_read_as_prometheus_reads_it(
    counters: list[tuple[dict[str, str], int]], histograms: list[tuple[dict[str, str], list[float]]]
) -> None:
    registry = Registry()
    total = registry.counters("response_total", "Responses.")
    other = registry.counters("not_wanted_total", "Others.")
    latency = registry.histograms("response_latency_ms", "Latency.", (1.0, 10.0, 100.0, 50_000.0))
    for labels, value in counters:
        total.counter(labels).value = value
        other.counter(labels).value = 1
    for labels, values in histograms:
        series = latency.histogram(labels)
        for number in values:
            series.observe(number)
    text = registry.render().decode()
    found = read(text, COUNTERS, HISTOGRAMS)
    ours = {(name, frozenset(parse_labels(labels).items())): value for (name, labels), value in found.values.items()}
    ours |= {
        (f"{name}_bucket", frozenset({**parse_labels(labels), "le": repr(bound)}.items())): count
        for (name, labels), buckets in found.histograms.items()
        for bound, count in zip((*buckets.bounds, float("inf")), buckets.counts, strict=True)
    }
    theirs = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in ("response_total", "response_latency_ms_bucket"):
                labels = dict(sample.labels)
                if "le" in labels:
                    labels["le"] = repr(float(labels["le"]))
                theirs[sample.name, frozenset(labels.items())] = sample.value
    assert ours == theirs
    assert found.unreadable == 0


def test_the_place_of_le_does_not_matter() -> None:
    lines = [
        f'response_latency_ms_bucket{{a="x",le="{bound}",tls="a,le=\\"7\\""}} {count}'
        for bound, count in (("1.0", 1), ("5.0", 3), ("+Inf", 4))
    ]
    found = read("\n".join(lines) + "\n", COUNTERS, HISTOGRAMS)
    (((name, labels), buckets),) = found.histograms.items()
    assert (name, parse_labels(labels)) == ("response_latency_ms", {"a": "x", "tls": 'a,le="7"'})
    assert (buckets.bounds, buckets.counts) == ((1.0, 5.0), [1, 3, 4])


def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    with pytest.raises(Truncated):
        read('response_total{a="b"} 1\nresponse_total{a="c"} 2', COUNTERS, HISTOGRAMS)


@pytest.mark.parametrize(
    ("text", "unreadable"),
    [
        ('response_total{a="b"} many\n', 1),
        ("response_total\n", 1),
        ('response_total{a="b" 1\n', 1),
        ('response_latency_ms_bucket{le="few"} 1\n', 1),
        ('response_latency_ms_bucket{a="b"} 1\n', 1),
        ('response_latency_ms_bucket{le="1"} 1\nresponse_latency_ms_bucket{le="2"} 1\n', 2),
        ("\n\n# a comment\nsomething_else{ 1\n", 0),
    ],
)
def test_lines_that_make_no_sense_are_counted(text: str, unreadable: int) -> None:
    found = read(text, COUNTERS, HISTOGRAMS)
    assert (found.values, found.histograms, found.unreadable) == ({}, {}, unreadable)


def test_a_histogram_of_very_many_buckets_is_not_kept() -> None:
    bounds = [*(str(bound) for bound in range(300)), "+Inf"]
    found = read("".join(f'response_latency_ms_bucket{{le="{bound}"}} 1\n' for bound in bounds), COUNTERS, HISTOGRAMS)
    assert (found.histograms, found.unreadable) == ({}, 301)


@given(st.text(max_size=200))
def test_no_text_makes_reading_fail(text: str) -> None:
    read(text.rstrip("\n") + "\n", COUNTERS, HISTOGRAMS)
    read("response_latency_ms_bucket{" + text.replace("\n", "") + "\n", COUNTERS, HISTOGRAMS)
