"""The exposition, judged by prometheus_client."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mesh.proxy.metrics import LATENCY_BUCKETS_MS, Registry


def samples(registry: Registry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = registry.render().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


LABEL_NAMES = st.from_regex(r"[a-z][a-z_]{0,7}", fullmatch=True)  # names that begin with __ are Prometheus' own


@given(st.dictionaries(LABEL_NAMES, st.text(min_size=1, max_size=20), max_size=4))
def test_any_label_value_survives(labels: dict[str, str]) -> None:
    registry = Registry()
    registry.counters("x_total", "Help.").counter(labels).value += 3
    assert samples(registry)["x_total", frozenset(labels.items())] == 3.0


@given(st.lists(st.floats(0.0, 100_000.0), max_size=50))
def test_histograms_count_each_value_in_every_bucket_above_it(values: list[float]) -> None:
    registry = Registry()
    histogram = registry.histograms("h", "Help.", LATENCY_BUCKETS_MS).histogram({"a": "b"})
    for value in values:
        histogram.observe(value)
    found = samples(registry)
    for bound in LATENCY_BUCKETS_MS:
        key = ("h_bucket", frozenset({"a": "b", "le": f"{bound:g}"}.items()))
        assert found[key] == sum(value <= bound for value in values)
    assert found["h_bucket", frozenset({"a": "b", "le": "+Inf"}.items())] == len(values)
    assert found["h_count", frozenset({("a", "b")})] == len(values)


def test_the_same_labels_are_the_same_series() -> None:
    family = Registry().counters("x_total", "Help.")
    assert family.counter({"a": "1"}) is family.counter({"a": "1"})
    assert family.counter({"a": "1"}) is not family.counter({"a": "2"})


def test_computed_families_are_read_at_each_scrape() -> None:
    registry = Registry()
    values = iter([1.0, 2.5])
    registry.collect("g", "gauge", "Help.", lambda: [({"k": "v"}, next(values))])
    assert samples(registry) == {("g", frozenset({("k", "v")})): 1.0}
    assert samples(registry) == {("g", frozenset({("k", "v")})): 2.5}
