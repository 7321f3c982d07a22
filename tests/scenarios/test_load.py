"""What a valid scenario becomes: shorthand, variants, overrides, OpenSLO, and the scenarios that ship."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gameday.judge import EXPLAIN_BUDGET_SECONDS, twin_budget
from gameday.run import FORECAST_SECONDS, PREPARATION_SECONDS
from scenarios import catalogue
from scenarios.load import InvalidScenario, load_application, load_scenario
from scenarios.model import Expectation

Write = Callable[..., Path]


def test_units_become_seconds_shares_and_rates(write: Write) -> None:
    scenario = load_scenario(write())
    assert scenario.identity.clock_skew == 0.5
    assert scenario.load.rate == 60.0
    assert scenario.load.mix == {"checkout": 0.9, "idle": 0.1}
    fault = scenario.faults[0]
    assert fault.targets == {"service": "payment", "replicas": 1}
    assert fault.parameters == {"errorRate": 0.5, "latencySeconds": 0.3, "route": "POST /charge"}
    assert fault.ttl == 30.0
    assert [slo.objective for slo in scenario.slos] == [0.99, 0.95]
    assert scenario.slos[1].threshold == 0.5
    assert scenario.slos[0].route == "POST front /checkout"
    assert scenario.service_annotations == {"payment": {"retry.linkerd.io/http": "5xx", "retry.linkerd.io/limit": "3"}}


def test_an_expectation_is_its_own_text_unless_it_has_one(write: Write) -> None:
    first, second = load_scenario(write()).expectations
    line = "attempts_per_request of payment during inject > 1.5"
    assert first == Expectation(line, "attempts_per_request", "payment", "inject", ">", 1.5)
    assert second == Expectation("Nobody waits long", "p95", "checkout", "recover", "<=", 0.2)


def test_replicas_of_a_target_are_all_unless_said_otherwise(write: Write) -> None:
    scenario = load_scenario(write({"        replicas: 1\n": ""}))
    assert scenario.faults[0].targets["replicas"] == 2


def test_the_mix_is_the_applications_own_unless_given(write: Write) -> None:
    scenario = load_scenario(write({"    mix: {checkout: 90%, idle: 10%}\n": ""}))
    assert scenario.load.mix == {"checkout": 0.75, "idle": 0.25}


def test_a_variant_changes_what_it_names_and_nothing_else(write: Write) -> None:
    path = write()
    base, mild = load_scenario(path), load_scenario(path, variant="mild")
    assert base.variants == mild.variants == {"mild": "Half as slow"}
    assert (base.variant, mild.variant) == (None, "mild")
    assert mild.service_annotations == {}
    assert mild.faults[0].parameters == {**base.faults[0].parameters, "latencySeconds": 0.15}
    assert mild.faults[0].duration == base.faults[0].duration
    assert mild.slos == base.slos


def test_overrides_come_last_and_reach_into_lists_by_name_and_index(write: Write) -> None:
    scenario = load_scenario(
        write(),
        variant="mild",
        overrides=[
            "load.rate=120/min",
            "faults.payment-slow.parameters.latency=1s",
            "slos[1].latency=100ms",
            "serviceAnnotations={front: {timeout.linkerd.io/request: 1s}}",
        ],
    )
    assert scenario.load.rate == 2.0
    assert scenario.faults[0].parameters["latencySeconds"] == 1.0
    assert scenario.slos[1].threshold == 0.1
    assert scenario.service_annotations == {"front": {"timeout.linkerd.io/request": "1s"}}


OPENSLO = """\
apiVersion: openslo/v1
kind: SLI
metadata: {name: checkout-latency}
spec:
  thresholdMetric:
    metricSource: {type: gameday, spec: {route: POST front /checkout}}
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: quick, displayName: Checkout is quick}
spec:
  service: front
  indicatorRef: checkout-latency
  timeWindow: [{duration: 28d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives:
    - {op: lte, value: 0.25, target: 0.9}
    - {op: lte, value: 1, targetPercent: 99}
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: works}
spec:
  indicator:
    metadata: {name: checkout-ok}
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: gameday, spec: {route: POST front /checkout}}}
        total: {metricSource: {type: gameday, spec: {route: POST front /checkout}}}
  budgetingMethod: Occurrences
  objectives: [{target: 0.995}]
"""


def test_openslo_documents_are_objectives_too(write: Write) -> None:
    path = write(
        {"    - {name: fast, route: POST front /checkout, objective: 0.95, latency: 500ms}": "    - file: o.yaml"}
    )
    (path.parent / "o.yaml").write_text(OPENSLO)
    slos = load_scenario(path).slos
    assert [(slo.name, slo.objective, slo.threshold) for slo in slos] == [
        ("checkout", 0.99, None),
        ("quick-1", 0.9, 0.25),
        ("quick-2", 0.99, 1.0),
        ("works", 0.995, None),
    ]
    assert {slo.route for slo in slos} == {"POST front /checkout"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("op: lte, value: 0.25", "op: gte, value: 0.25",
         'o.yaml:17: spec.objectives[0].op: no comparison for a latency "gte"; did you mean "lte"?'),
        ("target: 0.9}", "target: 90}",
         'o.yaml:17: spec.objectives[0].target: "90" is not between 0% and 100%; did you mean "90%"?'),
        ("targetPercent: 99}", "targetPercent: 100}", "o.yaml:18: spec.objectives[1].targetPercent"),
        ("indicatorRef: checkout-latency", "indicatorRef: checkout-latncy",
         'o.yaml:13: spec.indicatorRef: no SLI "checkout-latncy" in this file; did you mean "checkout-latency"?'),
        ("good: {metricSource: {type: gameday, spec: {route: POST front /checkout}}}", "good: {}",
         "o.yaml:29: spec.indicator.spec.ratioMetric.good.metricSource: is missing"),
        ("kind: SLI", "kind: AlertPolicy", 'o.yaml:2: kind: "AlertPolicy" is not read here; there is SLI, SLO'),
        ("apiVersion: openslo/v1", "apiVersion: openslo/v2", "o.yaml:1: apiVersion:"),
        (OPENSLO, "", 'scenario.yaml:38: slos[1].file: o.yaml holds no SLO'),
    ],
)  # fmt: skip
def test_a_mistake_in_an_openslo_document_is_named_there(write: Write, old: str, new: str, message: str) -> None:
    path = write(
        {"    - {name: fast, route: POST front /checkout, objective: 0.95, latency: 500ms}": "    - file: o.yaml"}
    )
    (path.parent / "o.yaml").write_text(OPENSLO.replace(old, new, 1))
    with pytest.raises(InvalidScenario) as error:
        load_scenario(path)
    assert any(line.startswith(message) for line in str(error.value).splitlines()), str(error.value)


# ---- what ships


@pytest.mark.parametrize("name", catalogue.names())
def test_a_shipped_scenario_loads_with_every_variant_and_stays_within_150_seconds(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.slos
    assert scenario.expectations
    assert scenario.abort
    assert scenario.actions
    assert scenario.guide
    for variant in (None, *scenario.variants):
        phases = load_scenario(name, variant=variant).phases
        twin = twin_budget(phases, FORECAST_SECONDS) + twin_budget(phases, EXPLAIN_BUDGET_SECONDS)
        start_and_report = 12.0  # the world's start and end, and the report
        whole = phases.warmup + phases.baseline + phases.inject + phases.recover
        assert whole + twin + PREPARATION_SECONDS + start_and_report <= 150.0


def test_the_first_three_scenarios_ship() -> None:
    assert {"cert-expiry", "control-plane-outage", "retry-storm"} <= set(catalogue.names())


def test_retail_has_the_guides_services_in_namespaces_of_their_own_two_replicas_each() -> None:
    app = load_application(catalogue.application_path("retail"))
    assert {service.name for service in app.services} == {
        "storefront", "catalog", "cart", "checkout", "payment", "inventory"
    }  # fmt: skip
    assert len({service.namespace for service in app.services}) == 6
    assert all(service.replicas >= 2 for service in app.services)
    assert any(service.work == "cpu" for service in app.services)


def test_retry_storm_passes_payments_capacity_with_three_retries_only() -> None:
    scenario = load_scenario("retry-storm")
    payment = scenario.app.service("payment")
    fault = scenario.faults[0].parameters
    offered = scenario.load.rate * scenario.load.mix["checkout"]
    seconds = payment.routes[0].service_time.median_seconds + float(fault["latencySeconds"])
    capacity = payment.replicas * payment.workers / seconds
    tries = [sum(float(fault["errorRate"]) ** n for n in range(limit + 1)) for limit in (0, 1, 3)]
    assert [offered * t < capacity for t in tries] == [True, True, False]


def test_a_scenario_is_found_by_name_file_and_folder(write: Write) -> None:
    path = write()
    assert load_scenario(path) == load_scenario(str(path)) == load_scenario(path.parent)
    assert load_scenario("cert-expiry").source == catalogue.path("cert-expiry").resolve()
