"""The registry's bounds: series past the cap, series nobody uses, and how long rendering holds the loop."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from mesh.proxy.metrics import LATENCY_BUCKETS_MS, Registry


def exposed(registry: Registry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(b"".join(registry.pieces()).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def names(registry: Registry) -> list[str]:
    return [family.name for family in text_string_to_metric_families(registry.render().decode())]


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_label_sets_past_the_cap_share_one_series_and_are_counted() -> None:
    registry = Registry(capacity=3)
    family = registry.counters("x_total", "Help.")
    for index in range(10):
        family.counter({"path": str(index)}).value += 1
    found = exposed(registry)
    assert found[key("x_total", path="2")] == 1
    assert key("x_total", path="3") not in found
    assert found[key("x_total", other="true")] == 7
    assert found[key("proxy_metrics_folded_total", metric="x_total")] == 7


def test_the_cap_holds_for_histograms_and_computed_families_too() -> None:
    registry = Registry(capacity=2)
    latency = registry.histograms("h", "Help.", (1.0,))
    for index in range(5):
        latency.histogram({"a": str(index)}).observe(0.5)
    registry.collect("g", "gauge", "Help.", lambda: [({"a": str(index)}, 1.0) for index in range(5)])
    found = exposed(registry)
    assert found[key("h_count", other="true")] == 3
    assert sum(name == "g" for name, _ in found) == 2


def test_a_series_that_nobody_holds_is_forgotten_after_the_retention() -> None:
    clock = Clock()
    registry = Registry(retention=600.0, clock=clock)
    family = registry.counters("x_total", "Help.")
    family.counter({"gone": "yes"}).value += 1
    held = family.counter({"held": "yes"})
    held.value += 1
    for clock.now in (60.0, 120.0, 659.0):
        assert key("x_total", gone="yes") in exposed(registry)
    clock.now = 720.0
    found = exposed(registry)
    assert key("x_total", gone="yes") not in found
    assert found[key("x_total", held="yes")] == 1
    held.value += 1
    assert exposed(registry)[key("x_total", held="yes")] == 2


def test_a_series_in_use_is_kept_though_nobody_holds_it() -> None:
    clock = Clock()
    registry = Registry(retention=600.0, clock=clock)
    family = registry.counters("x_total", "Help.")
    latency = registry.histograms("h", "Help.", (1.0,))
    for minute in range(30):
        clock.now = minute * 60.0
        family.counter({"a": "b"}).value += 1
        latency.histogram({"a": "b"}).observe(0.0)
        found = exposed(registry)
    assert found[key("x_total", a="b")] == 30
    assert found[key("h_count", a="b")] == 30


def test_gauges_and_series_without_labels_stay_for_ever() -> None:
    clock = Clock()
    registry = Registry(retention=600.0, clock=clock)
    registry.gauges("build", "Help.").counter({"version": "1"}).value = 1
    registry.counters("resent_total", "Help.").counter()
    for clock.now in (100.0, 1000.0, 10_000.0):
        found = exposed(registry)
    assert found == {key("build", version="1"): 1.0, key("resent_total"): 0.0}


def test_two_readers_of_one_computed_family_share_its_header() -> None:
    registry = Registry()
    for side in ("inbound", "outbound"):
        registry.collect("open", "gauge", "Help.", lambda side=side: [({"side": side}, 1.0)])  # type: ignore[misc]
    assert names(registry) == ["open"]
    assert len(exposed(registry)) == 2


def test_ten_thousand_series_render_in_many_small_pieces_and_lose_nothing() -> None:
    registry = Registry()
    latency = registry.histograms("response_latency_ms", "Help.", LATENCY_BUCKETS_MS)
    held = [latency.histogram({"target_addr": str(index)}) for index in range(2_000)]
    count = registry.counters("request_total", "Help.")
    held_too = [count.counter({"target_addr": str(index)}) for index in range(8_000)]
    for series in held_too:
        series.value += 1
    pieces = list(registry.pieces(slice_seconds=0.0))
    # No time to spare: the clock is looked at after every eighth series, so that is what a piece holds.
    assert len(pieces) >= 10_000 / 8
    assert max(piece.count(b"_count{") for piece in pieces) <= 9
    whole = b"".join(pieces)
    assert whole == registry.render()
    assert whole.count(b"\nrequest_total{") == 8_000
    assert whole.count(b"\nresponse_latency_ms_count{") == 2_000
    assert len(held) == 2_000


def test_counting_between_two_pieces_does_not_disturb_the_exposition() -> None:
    registry = Registry()
    family = registry.counters("x_total", "Help.")
    for index in range(100):
        family.counter({"a": str(index)})
    pieces = registry.pieces(slice_seconds=0.0)
    text = next(pieces)
    family.drop('a="99"')
    family.counter({"a": "new"}).value += 1
    text += b"".join(pieces)
    assert len(next(iter(text_string_to_metric_families(text.decode()))).samples) == 100


def test_values_that_are_no_numbers_are_exposed_as_prometheus_writes_them() -> None:
    registry = Registry()
    values = registry.gauges("g", "Help.")
    for name in ("inf", "-inf", "nan"):
        values.counter({"a": name}).value = float(name)
    text = registry.render().decode()
    assert 'g{a="inf"} +Inf\n' in text
    assert 'g{a="-inf"} -Inf\n' in text
    assert 'g{a="nan"} NaN\n' in text
