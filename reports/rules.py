"""Prometheus rules from a scenario's objectives: good and bad requests recorded, and alerts on how fast a budget burns.

    gameday:slo_requests:rate5m{slo="checkout-success"}       requests a second
    gameday:slo_errors:ratio5m{slo="checkout-success"}        share that was bad
    alert GamedayBudgetBurn {slo=…, severity=page|ticket}     SRE Workbook, chapter 5: two windows, one factor

What a client saw is not in Prometheus; what its proxy saw is. So an objective's requests are those of all client
proxies to its service (`outbound_http_route_request_statuses_total`), failed ones included, and with a latency those
that were answered within the largest histogram bound that is not above it. Two things differ from the report, and each
rule says so in its annotation: Prometheus does not know an app's routes apart (unless an HTTPRoute does), and requests
that never reached a proxy are not counted. Rates extrapolate to their windows' edges; the report's counts do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from scenarios.model import Scenario, SloSpec
from scenarios.slo import MONTH_RULES, BurnRule

STATUSES = "outbound_http_route_request_statuses_total"
DURATIONS = "outbound_http_route_request_duration_seconds"
BOUNDS = (0.05, 0.5, 1.0, 10.0)
"""Of `outbound_http_route_request_duration_seconds`, as Linkerd has them."""


def rule_groups(scenario: Scenario, rules: Sequence[BurnRule] = MONTH_RULES) -> dict[str, Any]:
    """A Prometheus rule file as a mapping. `rules`: when to alert; the SRE Workbook's for 30 days by default."""
    windows = sorted({max(1, round(window)) for rule in rules for window in (rule.short, rule.long)})
    groups = []
    for slo in scenario.slos:
        records = [entry for window in windows for entry in _records(slo, window)]
        alerts = [_alert(slo, rule) for rule in rules]
        groups.append({"name": f"gameday-{slo.name}", "rules": [*records, *alerts]})
    return {"groups": groups}


def rules_text(scenario: Scenario, rules: Sequence[BurnRule] = MONTH_RULES) -> str:
    """The rule file as YAML."""
    text: str = yaml.safe_dump(rule_groups(scenario, rules), sort_keys=False, width=120)
    return text


def _records(slo: SloSpec, window: float) -> Iterable[dict[str, Any]]:
    every = prometheus_duration(window)
    matcher = _matcher(slo)
    all_requests = f"sum(rate({STATUSES}{{{matcher}}}[{every}]))"
    yield {"record": f"gameday:slo_requests:rate{every}", "expr": all_requests, "labels": {"slo": slo.name}}
    # Without a status there was no answer; `or vector(0)`: nothing bad yet is zero and not unknown.
    failed = ",".join(part for part in (matcher, 'http_status=~"5..|"') if part)
    bad = f"(sum(rate({STATUSES}{{{failed}}}[{every}])) or vector(0))"
    bound = latency_bound(slo)
    if bound is not None:
        fast = ",".join(part for part in (matcher, f'le="{bound:g}"') if part)
        bad = f"clamp_min({all_requests} - (sum(rate({DURATIONS}_bucket{{{fast}}}[{every}])) or vector(0)), 0)"
    yield {
        "record": f"gameday:slo_errors:ratio{every}",
        "expr": f"{bad} / ({all_requests} > 0)",
        "labels": {"slo": slo.name},
    }


def _alert(slo: SloSpec, rule: BurnRule) -> dict[str, Any]:
    def burns(window: float) -> str:
        series = f'gameday:slo_errors:ratio{prometheus_duration(window)}{{slo="{slo.name}"}}'
        return f"{series} > {rule.factor:g} * {1.0 - slo.objective:.6g}"

    bound = latency_bound(slo)
    seen = "all requests to the service, as client proxies counted them"
    if bound is not None:
        seen += f"; fast means within {bound:g} s, the nearest bound below {slo.threshold:g} s"
    return {
        "alert": "GamedayBudgetBurn",
        "expr": f"{burns(rule.long)} and {burns(rule.short)}",
        "labels": {"slo": slo.name, "severity": rule.severity, "rule": rule.name},
        "annotations": {
            "summary": f"{slo.name} burns its error budget at {rule.factor:g} times the rate that lasts the period",
            "seen": seen,
        },
    }


def latency_bound(slo: SloSpec) -> float | None:
    """The histogram bound that stands for the objective's latency; None: it has none, or one below all bounds."""
    if slo.threshold is None:
        return None
    return max((bound for bound in BOUNDS if bound <= slo.threshold), default=None)


def prometheus_duration(seconds: float) -> str:
    """`5m`, `1h`, `90s`: the largest unit that needs no fraction; a compressed window is rounded to a second."""
    whole = max(1, round(seconds))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def _matcher(slo: SloSpec) -> str:
    return f'parent_name="{slo.service}"' if slo.service is not None else ""
