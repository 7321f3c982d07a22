"""report.md: what a CI job prints as its summary. The verdict, then tables; no chart, no HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reports.document import CounterfactualPart, Document
from reports.explanation import price_words
from reports.notation import (
    NOTHING,
    by_unit,
    comparison,
    count,
    moment,
    objective,
    percent,
    quantity,
    quantity_name,
    seconds,
    share,
    share_span,
    span,
    stated,
    times,
)
from reports.reading import expected, interval, subject_name, told, value

_BADGES = {
    "passed": "✅ Passed",
    "failed": "❌ Failed",
    "aborted": "⏹️ Aborted",
    "error": "⚠️ Error",
}
_MARKS = {True: "✓", False: "✗", None: NOTHING}


def to_markdown(document: Document) -> str:
    """The whole file."""
    return "\n\n".join(block for block in _blocks(document) if block) + "\n"


def _blocks(document: Document) -> Iterable[str]:
    run, verdict = document.run, document.verdict
    yield f"# {_BADGES[verdict.outcome]}: {_text(run.title)}"
    variant = f" (variant {_code(run.variant)})" if run.variant else ""
    yield f"{_code(run.scenario)}{variant}, world {_code(run.world)}, seed {run.seed}, run {_code(run.id)}"
    yield _bullets(verdict.tldr)
    if verdict.reasons:
        yield "**Why**\n\n" + _bullets(verdict.reasons)
    if verdict.missing:
        yield "**Missing from this report**\n\n" + _bullets(verdict.missing)
    if document.expectations:
        yield "## Expectations\n\n" + _table(
            ("", "expectation", "measured", "expected"),
            [
                (
                    _MARKS[part.held],
                    part.text,
                    quantity(part.quantity, part.measured),
                    f"{comparison(part.op)} {stated(part.quantity, part.value)} ({part.phase})",
                )
                for part in document.expectations
            ],
        )
    if document.slos:
        yield "## SLOs, inject and recover\n\n" + _table(
            ("", "SLO", "objective", "good", "lost", "budget spent", "of 30 days", "peak burn"),
            [
                (
                    _MARKS[slo.held],
                    slo.name,
                    objective(slo.objective),
                    percent(slo.ratio),
                    f"{count(slo.total - slo.good)} of {count(slo.total)}",
                    times(slo.budget_spent),
                    percent(slo.budget_spent_month),
                    times(slo.peak_burn),
                )
                for slo in document.slos
            ],
        )
    if document.forecast is not None:
        yield _forecast(document)
    if document.surprises:
        yield "### Why surprised\n\n" + _bullets(document.surprises)
    if document.counterfactuals:
        yield "## What would have saved the SLOs\n\n" + _counterfactuals(document)
    if document.causes:
        yield "## Why it burned\n\n" + _causes(document)
    if document.metrics:
        yield "## The mesh, M1–M10\n\n" + _table(
            ("", "", "metric", "measured", "baseline", "target", ""),
            [
                (
                    _MARKS[metric.held],
                    metric.id,
                    metric.name,
                    by_unit(metric.unit, metric.measured),
                    by_unit(metric.unit, metric.baseline),
                    metric.target_text,
                    metric.detail,
                )
                for metric in document.metrics
            ],
        )
    yield _timeline(document)
    if document.actions:
        yield "## What to do next\n\n" + _bullets([f"{action.text} ({action.why})" for action in document.actions])
    yield (
        "<details><summary>Limits, and how to run this again</summary>\n\n"
        + _bullets(document.limits)
        + "\n\n"
        + (f"```sh\n{document.reproduce.run}\n{document.reproduce.report}\n```\n\n</details>")
    )


def _forecast(document: Document) -> str:
    forecast = document.forecast
    assert forecast is not None
    lead = ""
    if forecast.sealed_at is not None and forecast.first_injection_at is not None:
        lead = f", {seconds(forecast.first_injection_at - forecast.sealed_at)} before the first injection"
    sealed = f"Sealed{lead}: SHA-256 {_code(forecast.sha256 or forecast.sha256_recomputed)}"
    if forecast.intact is False:
        sealed += " **(the stored forecast does not match it)**"
    slos = [slo.name for slo in document.slos]
    found = told(document.predictions, slos)
    rows = [
        (
            _MARKS[row.inside],
            subject_name(row),
            quantity_name(row.quantity),
            row.window,
            expected(row),
            interval(row),
            value(row, row.measured),
            value(row, row.naive),
        )
        for _, members in found.first
        for row in members
    ]
    head = ("", "of", "quantity", "window", "expected", "90 % interval", "measured", "nothing changes")
    table = _table(head, rows)
    if found.rest_count:
        table += f"\n\n{found.rest_count} further predictions are in report.html and report.json."
    return f"## Forecast and measurement\n\n{sealed}.\n\n{table}"


def _counterfactuals(document: Document) -> str:
    rows = [
        (
            _MARKS[True if change.holds else None] if index == 0 else "",
            change.change if index == 0 else "",
            slo.slo,
            f"{times(slo.budget_spent_median)} ({span('budget_spent', slo.budget_spent_low, slo.budget_spent_high)})",
            percent(slo.probability_held),
            _price(change) if index == 0 else "",
            _evidence(change) if index == 0 else "",
        )
        for change in document.counterfactuals
        for index, slo in enumerate(change.predicted)
    ]
    head = ("", "change", "SLO", "budget spent", "holds with probability", "price when healthy", "evidence")
    found = document.search.verdict + "\n\n" if document.search is not None else ""
    return found + _table(head, rows)


def _price(change: CounterfactualPart) -> str:
    if change.price is None:
        return NOTHING
    return ", ".join(price_words(change.price)) or "none that the twin can tell"


def _evidence(change: CounterfactualPart) -> str:
    if change.verified is not None:
        return f"verified: {change.verified}"
    if change.verification is not None:
        return f"model output; run {change.verification.run} tried it and is {change.verification.state}"
    if change.unverifiable is not None:
        return f"model output; cannot be tried: {change.unverifiable}"
    return "model output"


def _causes(document: Document) -> str:
    rows = [
        (
            cause.mechanism,
            share(cause.share),
            share_span(cause.low, cause.high),
            share(cause.shapley),
        )
        for cause in document.causes
    ]
    said = (
        f"Share of the burn of {_code(document.causes[0].slo)} that goes when the mechanism alone is switched off in"
        " the twin. Negative: it protects. Shares need not sum to 100 %."
    )
    return f"{said}\n\n{_table(('mechanism', 'share of burn', '90 %', 'Shapley'), rows)}"


def _timeline(document: Document) -> str:
    rows = [(moment(entry.second), entry.source, entry.kind, entry.text) for entry in document.timeline]
    if not rows:
        return ""
    return "<details><summary>Timeline</summary>\n\n" + _table(("", "source", "kind", "what"), rows) + "\n\n</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_text(line)}" for line in lines)


def _text(text: str) -> str:
    """Text that cannot leave its cell or become HTML."""
    flat = " ".join(text.split())
    for character, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        flat = flat.replace(character, safe)
    return flat


def _code(text: str) -> str:
    return "`" + _text(text).replace("`", "ˋ") + "`"
