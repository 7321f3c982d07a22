from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from reports.rules import latency_bound, prometheus_duration, rule_groups, rules_text
from scenarios.load import load_scenario
from scenarios.model import SloSpec
from scenarios.slo import MONTH_RULES


def test_every_objective_has_its_records_and_the_four_alerts() -> None:
    scenario = load_scenario("retry-storm")
    groups = {group["name"]: group["rules"] for group in rule_groups(scenario)["groups"]}
    assert list(groups) == [f"gameday-{slo.name}" for slo in scenario.slos]
    windows = {window for rule in MONTH_RULES for window in (rule.short, rule.long)}
    for rules in groups.values():
        records = [rule["record"] for rule in rules if "record" in rule]
        alerts = [rule for rule in rules if "alert" in rule]
        assert len(records) == 2 * len(windows)
        assert [alert["labels"]["rule"] for alert in alerts] == [rule.name for rule in MONTH_RULES]
        for alert in alerts:
            used = {word.split("{")[0] for word in alert["expr"].split() if word.startswith("gameday:")}
            assert used <= set(records), "an alert reads what is recorded"
    assert yaml.safe_load(rules_text(scenario)) == rule_groups(scenario)


def test_the_page_for_checkout_says_what_the_workbook_says() -> None:
    scenario = load_scenario("retry-storm")
    alert = next(rule for rule in rule_groups(scenario)["groups"][1]["rules"] if "alert" in rule)
    assert alert["expr"] == (
        'gameday:slo_errors:ratio1h{slo="checkout-success"} > 14.4 * 0.05'
        ' and gameday:slo_errors:ratio5m{slo="checkout-success"} > 14.4 * 0.05'
    )


def test_a_latency_is_judged_by_the_bound_below_it() -> None:
    assert latency_bound(SloSpec("a", "shop", "GET", "/", 0.9, 1.5)) == 1.0
    assert latency_bound(SloSpec("a", "shop", "GET", "/", 0.9, 0.25)) == 0.05
    assert latency_bound(SloSpec("a", "shop", "GET", "/", 0.9, 0.01)) is None
    assert latency_bound(SloSpec("a", "shop", "GET", "/", 0.9)) is None


def test_an_objective_over_everything_matches_every_service() -> None:
    scenario = load_scenario("retry-storm")
    from dataclasses import replace

    everything = replace(scenario, slos=(SloSpec("all", None, None, None, 0.99, 1.0),))
    text = rules_text(everything)
    assert "parent_name" not in text
    assert 'le="1"' in text


@given(st.integers(1, 400_000))
def test_durations_are_what_prometheus_reads(seconds: int) -> None:
    text = prometheus_duration(float(seconds))
    assert int(text[:-1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[text[-1]] == seconds
