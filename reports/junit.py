"""junit.xml: a test case for each expectation and SLO, the forecast's calibration as properties.

Red follows the exit code: an expectation that did not hold fails, a run that ended early is an error. An SLO that was
lost without an expectation about it is marked skipped with its figures: a drill is meant to lose SLOs, yet it shall not
look like a pass.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from reports.document import Document
from reports.notation import comparison, objective, percent, quantity, stated, times

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(document: Document) -> bytes:
    """The file's bytes."""
    run = document.run
    suites = Element("testsuites")
    suite = SubElement(suites, "testsuite", name=_clean(f"gameday.{run.scenario}"))
    if run.started is not None:
        suite.set("timestamp", run.started)
    properties = SubElement(suite, "properties")
    for name, value in _properties(document).items():
        SubElement(properties, "property", name=name, value=_clean(value))
    failures = errors = skipped = 0
    if document.verdict.outcome in ("aborted", "error"):
        errors += 1
        case = SubElement(suite, "testcase", classname=_clean(run.scenario), name="run")
        SubElement(case, "error", message=_clean("; ".join(document.verdict.reasons) or document.verdict.outcome))
    for part in document.expectations:
        case = SubElement(suite, "testcase", classname=_clean(f"{run.scenario}.expectation"), name=_clean(part.text))
        told = (
            f"{part.quantity} of {part.subject or 'all'} in {part.phase}: measured"
            f" {quantity(part.quantity, part.measured)}, expected {comparison(part.op)}"
            f" {stated(part.quantity, part.value)}"
        )
        if part.held is False:
            failures += 1
            SubElement(case, "failure", message=_clean(told))
        elif part.held is None:
            skipped += 1
            SubElement(case, "skipped", message="not judged: the run ended early")
        SubElement(case, "system-out").text = _clean(told)
    for slo in document.slos:
        case = SubElement(suite, "testcase", classname=_clean(f"{run.scenario}.slo"), name=_clean(slo.name))
        told = (
            f"{percent(slo.ratio)} good, objective {objective(slo.objective)}, budget spent {times(slo.budget_spent)}"
        )
        if not slo.held:
            skipped += 1
            SubElement(case, "skipped", message=_clean(("lost: " if slo.held is False else "no request: ") + told))
        SubElement(case, "system-out").text = told
    cases = suite.findall("testcase")
    for element in (suite, suites):
        element.set("tests", str(len(cases)))
        element.set("failures", str(failures))
        element.set("errors", str(errors))
        element.set("skipped", str(skipped))
    indent(suites)
    body: str = tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'.encode()


def _properties(document: Document) -> dict[str, str]:
    run, score, forecast = document.run, document.score, document.forecast
    found = {
        "run": run.id,
        "world": run.world,
        "seed": str(run.seed),
        "outcome": document.verdict.outcome,
    }
    if forecast is not None:
        found["forecast.sha256"] = forecast.sha256 or forecast.sha256_recomputed
        found["forecast.sealed_before_injection"] = str(forecast.sealed_before_injection).lower()
    if score is not None:
        found["forecast.inside"] = f"{score.inside}/{score.scored}"
        for name in ("coverage", "crps", "crps_naive", "skill"):
            value = getattr(score, name)
            if value is not None:
                found[f"forecast.{name}"] = f"{value:.6g}"
    return found


def _clean(text: str) -> str:
    """Characters that XML 1.0 does not have become �."""
    return _NOT_XML.sub("\ufffd", text)
