"""Every mistake is named by file, line and field, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scenarios.load import InvalidScenario, load_scenario

Write = Callable[..., Path]

MISTAKES = [
    # one change, the one line that must come of it
    ({"app: payment\n": "app: paymet\n"},
     'scenario.yaml:31: faults[0].target.app: no app "paymet" in topology shop; did you mean "payment"?'),
    ({"replicas: 1\n": "replicas: 3\n"},
     "scenario.yaml:32: faults[0].target.replicas: 3 of payment are to be hit, but it has 2"),
    ({"kind: app-degrade": "kind: app-degrad"},
     'scenario.yaml:27: faults[0].kind: no kind of fault "app-degrad"; did you mean "app-degrade"?'),
    ({"duration: 20s": "duration: -20s"},
     'scenario.yaml:29: faults[0].duration: "-20s" is negative; a duration counts forward'),
    ({"      duration: 20s\n": ""}, "scenario.yaml:26: faults[0].duration: is missing"),
    ({"duration: 20s": "duration: 0s"}, "scenario.yaml:29: faults[0].duration: must be longer than zero"),
    ({"duration: 20s": "duration: 20"},
     'scenario.yaml:29: faults[0].duration: "20" is not a duration; did you mean "20s"?'),
    ({"duration: 20s": "duration: [20s]"},
     "scenario.yaml:29: faults[0].duration: a duration such as 30s expected, not a list"),
    ({"duration: 20s": "duration: 31s"},
     "scenario.yaml:29: faults[0].duration: ends 31s into the inject phase, which lasts 30s"),
    ({"errorRate: 50%": "errorRate: 50"},
     'scenario.yaml:33: faults[0].parameters.errorRate: "50" is not between 0% and 100%; did you mean "50%"?'),
    ({"route: POST /charge}": "route: POST /charges}"},
     'scenario.yaml:33: faults[0].parameters.route: no route "POST /charges" in service payment;'
     ' did you mean "POST /charge"?'),
    ({"parameters: {latency: 300ms, errorRate: 50%,": "parameters: {latncy: 300ms, errorRate: 50%,"},
     'scenario.yaml:33: faults[0].parameters.latncy: no such field; did you mean "latency"?'),
    ({"    rate: 60/s": "    rate: 60/x"},
     'scenario.yaml:16: load.rate: a rate such as 60/s expected, not text ("60/x")'),
    ({"    rate: 60/s\n": ""}, "scenario.yaml:16: load.rate: is missing"),
    ({"rate: 60/s": "rate: 0"},
     'scenario.yaml:16: load.rate: "0" is out of range; a rate is more than 0 and at most 5000/s'),
    ({"mix: {checkout: 90%": "mix: {checkut: 90%"},
     'scenario.yaml:17: load.mix.checkut: no journey "checkut" in topology shop; did you mean "checkout"?'),
    ({"idle: 10%": "idle: 20%"}, "scenario.yaml:17: load.mix: the shares sum to 110%, not 100%"),
    ({"maxInFlight: 100": "maxInFlight: many"},
     'scenario.yaml:18: load.maxInFlight: a whole number expected, not text ("many")'),
    ({"inject: 30s": "inject: 30s\n    injekt: 30s"},
     'scenario.yaml:24: phases.injekt: no such field; did you mean "inject"?'),
    ({"baseline: 20s": "baseline: 9h"}, "scenario.yaml:21: phases: add up to 32445s; 14400s at most"),
    ({"  phases:": "  phases: 5s\n  phase:"}, "scenario.yaml:20: phases: a mapping expected, not text (\"5s\")"),
    ({"objective: 99%": "objective: 99"},
     'scenario.yaml:37: slos[0].objective: "99" is not between 0% and 100%; did you mean "99%"?'),
    ({"objective: 99%": "objective: 100%"},
     'scenario.yaml:37: slos[0].objective: "100%" is no objective; it lies between 0% and 100%, both excluded'),
    ({"      route: POST front /checkout\n": "      route: POST front /chekout\n"},
     'scenario.yaml:36: slos[0].route: no route "POST /chekout" in service front; did you mean "POST /checkout"?'),
    ({"      route: POST front /checkout\n": "      route: POST frnt /checkout\n"},
     'scenario.yaml:36: slos[0].route: no service "frnt" in topology shop; did you mean "front"?'),
    ({"      route: POST front /checkout\n": "      route: GET front /old\n"},
     "scenario.yaml:36: slos[0].route: no journey of the load's mix uses GET front /old;"
     " there is POST front /checkout"),
    ({"name: fast": "name: checkout"}, 'scenario.yaml:38: slos[1].name: "checkout" names two objectives'),
    ({"latency: 500ms": "latency: 6s"},
     "scenario.yaml:38: slos[1].latency: 6s is beyond load.timeout (5s), so it can never be missed"),
    ({"during inject": "during injection"},
     'scenario.yaml:40: expectations[0]: no phase "injection"; did you mean "inject"?'),
    ({"attempts_per_request of": "attempts of"},
     'scenario.yaml:40: expectations[0]: no quantity "attempts"; there is attempts_per_request, budget_spent,'
     " handshake_failures, p50, p95, p99, recovery_seconds, success_rate"),
    ({"request of payment during": "request of paymnt during"},
     'scenario.yaml:40: expectations[0]: no service "paymnt"; did you mean "payment"?'),
    ({"<= 200ms": "<= 200"},
     'scenario.yaml:42: expectations[1].expect: "200" is not a duration; did you mean "200s"?'),
    ({"{slo: checkout, burn": "{slo: chekout, burn"},
     'scenario.yaml:44: abort[0].slo: no SLO "chekout"; did you mean "checkout"?'),
    ({"meshResources: [mesh.yaml]": "meshResources: [msh.yaml]"},
     'scenario.yaml:9: meshResources[0]: no such file: "msh.yaml"; did you mean "mesh.yaml"?'),
    ({"app: ./app.yaml": "app: retial"}, 'scenario.yaml:8: app: no app "retial"; did you mean "retail"?'),
    ({"app: ./app.yaml": "app: ./nowhere.yaml"}, 'scenario.yaml:8: app: no such file: "./nowhere.yaml"'),
    ({"app: ./app.yaml": "app: 5"}, 'scenario.yaml:8: app: text expected, not a number ("5"); put it in quotes'),
    ({"    payment:\n      retry": "    paymnt:\n      retry"},
     'scenario.yaml:11: serviceAnnotations.paymnt: no service "paymnt" in topology shop; did you mean "payment"?'),
    ({"retry.linkerd.io/limit": "retry.linkerd.io/limt"},
     'scenario.yaml:13: serviceAnnotations.payment.retry.linkerd.io/limt: no annotation "retry.linkerd.io/limt";'
     ' did you mean "retry.linkerd.io/limit"?'),
    ({"latency: 150ms": "latency: 150"},
     'scenario.yaml:52: faults[0].parameters.latency: "150" is not a duration; did you mean "150s"?'),
    ({"kind: Scenario": "kind: Scenery"}, 'scenario.yaml:2: kind: "Scenery" is not Scenario'),
    ({"  title: Payment is slow\n": ""}, "scenario.yaml:4: metadata.title: is missing"),
    ({"  app: ./app.yaml\n": "  app: ./app.yaml\n  app: ./app.yaml\n"},
     'scenario.yaml:9: "app" is written twice; first on line 8'),
    ({"apiVersion: gameday.dev/v1\nkind: Scenario": "apiVersion: gameday.dev/v1\nkind: [Scenario"},
     "scenario.yaml:3: not YAML: while parsing a flow sequence did not find expected ',' or ']'"),
    # the application file
    ({"replicas: 2\n      routes": "replicas: 0\n      routes"},
     "app.yaml:9: services.front.replicas: 0 is out of range; 1 or more expected"),
    ({"calls: [POST payment /charge]": "calls: [POST payment /chrge]"},
     'app.yaml:11: services.front.routes.POST /checkout.calls[0]: no route "POST /chrge" in service payment;'
     ' did you mean "POST /charge"?'),
    ({"{time: 20ms, sigma: 0.5}": "{time: 20ms, calls: [GET front /old]}"},
     "app.yaml:18: services.payment.routes.POST /charge.calls[0]: the calls go in a circle:"
     " front POST /checkout → payment POST /charge → front"),
    ({"share: 25%": "share: 35%"}, "app.yaml:20: journeys: the shares sum to 110%, not 100%"),
    ({"        GET /old: {time: 2ms}": "        GET /old: {}"},
     "app.yaml:12: services.front.routes.GET /old.time: is missing"),
    ({"workers: 4": "workers: 4\n      work: cpu\n      cancels: true"},
     "app.yaml:18: services.payment.cancels: is for work that waits; who burns CPU reads no sockets (work: cpu)"),
    ({"workers: 4": "workrs: 4"}, 'app.yaml:16: services.payment.workrs: no such field; did you mean "workers"?'),
    # the manifests
    ({"name: front.web": "name: frnt.web"},
     'mesh.yaml: metadata.name: no service "frnt.web.svc.cluster.local" in the app;'
     ' did you mean "front.web.svc.cluster.local"?'),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[message[:60] for _, message in MISTAKES])
def test_a_mistake_is_one_line_with_its_place_and_a_suggestion(
    write: Write, change: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidScenario) as error:
        load_scenario(write(change))
    assert message in str(error.value).splitlines()


def test_all_mistakes_are_named_at_once_in_order_of_line(write: Write) -> None:
    path = write({"rate: 60/s": "rate: fast", "objective: 99%": "objective: high", "kind: app-degrade": "kind: x"})
    with pytest.raises(InvalidScenario) as error:
        load_scenario(path)
    assert [problem.line for problem in error.value.problems] == [16, 27, 37]


@pytest.mark.parametrize("phase", ["inject: abc", "inject: 0s", "baseline: 30"])
def test_what_follows_from_a_length_that_nobody_wrote_is_not_said(write: Write, phase: str) -> None:
    name = phase.partition(":")[0]
    with pytest.raises(InvalidScenario) as error:
        load_scenario(write({f"{name}: {'30s' if name == 'inject' else '20s'}": phase}))
    (problem,) = error.value.problems
    assert problem.field == f"phases.{name}"


def test_leaves_that_outlive_the_fault_are_refused(write: Write) -> None:
    path = write(
        {
            "kind: app-degrade": "kind: cert-expiry",
            "      target:\n        app: payment\n        replicas: 1\n": "",
            "      parameters: {latency: 300ms, errorRate: 50%, route: POST /charge}\n": "",
            "          parameters: {latency: 150ms}\n": "",
        }
    )
    with pytest.raises(InvalidScenario, match="no certificate expires in 20s: leaves live 20s"):
        load_scenario(path)


def test_a_longer_cycle_is_named_by_its_calls(write: Write) -> None:
    extra = """    payment:
      namespace: pay
      routes:
        POST /charge: {time: 1ms, calls: [GET bank /ok]}
    bank:
      namespace: bank
      routes:
        GET /ok: {time: 1ms, calls: [POST payment /charge]}
  journeys:"""
    old = write().parent.joinpath("app.yaml").read_text()
    block = old[old.index("    payment:") : old.index("  journeys:") + len("  journeys:")]
    with pytest.raises(InvalidScenario) as error:
        load_scenario(write({block: extra}))
    assert "payment POST /charge → bank GET /ok → payment" in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("load.rat=5", '--set load.rat=5: load.rat: no such field; did you mean "rate"?'),
        ("load.rate=x", '--set load.rate=x: load.rate: a rate such as 60/s expected, not text ("x")'),
        ("load.rate", "--set load.rate: write it as field=value, for example load.rate=80/s"),
        ("faults[3].at=1s", "--set faults[3].at=1s: faults: has 1 entries; there is no [3]"),
        ("faults.payment-slo.at=1s",
         '--set faults.payment-slo.at=1s: faults: has no entry "payment-slo"; did you mean "payment-slow"?'),
        ("load.rate.x=1", "--set load.rate.x=1: load.rate.x: load.rate has no parts to set"),
        ("load=[", '--set load=[: "[" is not a YAML value'),
    ],
)  # fmt: skip
def test_a_wrong_override_names_itself(write: Write, override: str, message: str) -> None:
    with pytest.raises(InvalidScenario) as error:
        load_scenario(write(), overrides=[override])
    assert any(line.startswith(message) for line in str(error.value).splitlines())


def test_a_wrong_variant_and_a_wrong_name_come_with_suggestions(write: Write) -> None:
    with pytest.raises(InvalidScenario, match=r'scenario.yaml:46: variants: no variant "mid" .*did you mean "mild"'):
        load_scenario(write(), variant="mid")
    with pytest.raises(InvalidScenario, match=r'"retry-strom": no such scenario.*did you mean "retry-storm"'):
        load_scenario("retry-strom")


def test_a_folder_without_a_scenario_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InvalidScenario, match=r"scenario.yaml: no such file"):
        load_scenario(tmp_path)
    (tmp_path / "scenario.yaml").mkdir()
    with pytest.raises(InvalidScenario, match="is a directory"):
        load_scenario(tmp_path)
