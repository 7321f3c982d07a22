"""What the drill claims beforehand, in one line each.

    success_rate of browse-success during inject >= 99%
    attempts_per_request of payment during inject > 1.8
    handshake_failures during inject > 0

The unit of the value follows from the quantity: shares, durations or plain numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, cast

from scenarios.load.document import Mapping, Node, Scalar
from scenarios.load.fields import Fields, Reader
from scenarios.load.problems import Problems, quote, suggestion
from scenarios.model import AbortRule, Application, Expectation, SloSpec

PHASES = ("baseline", "inject", "recover", "all")
_LINE = re.compile(
    r"(?P<quantity>[\w-]+)(?:\s+of\s+(?P<subject>\S+))?(?:\s+during\s+(?P<phase>\S+))?"
    r"\s*(?P<op><=|>=|==|<|>)\s*(?P<value>\S+)"
)
_Subject = Literal["slo", "service", "nothing"]
_Unit = Callable[[Reader, Node, str], float]


def _share(reader: Reader, node: Node, field: str) -> float:
    return reader.share(node, field)


def _duration(reader: Reader, node: Node, field: str) -> float:
    return reader.duration(node, field, zero=True)


def _number(reader: Reader, node: Node, field: str) -> float:
    return reader.number(node, field, minimum=0.0)


def _ratio(reader: Reader, node: Node, field: str) -> float:
    """`budget_spent` may pass 100 %: `250%` or `2.5`."""
    text = node.text.strip() if isinstance(node, Scalar) else ""
    if not text.endswith("%"):
        return reader.number(node, field, minimum=0.0)
    return reader.number(Scalar(text[:-1].rstrip(), "number", node.mark), field, minimum=0.0) / 100


QUANTITIES: dict[str, tuple[_Subject, _Unit]] = {
    "success_rate": ("slo", _share),
    "p50": ("slo", _duration),
    "p95": ("slo", _duration),
    "p99": ("slo", _duration),
    "budget_spent": ("slo", _ratio),
    "recovery_seconds": ("slo", _duration),
    "attempts_per_request": ("service", _number),
    "handshake_failures": ("nothing", _number),
}


def read_expectation(
    node: Node, field: str, app: Application, slos: tuple[SloSpec, ...], problems: Problems
) -> Expectation | None:
    """A line, or `{text, expect}` where the line itself would not tell a reader why it matters."""
    reader = Reader(problems)
    title = ""
    if isinstance(node, Mapping):
        fields = Fields(node, field, problems)
        title = fields.text("text", "")
        line_node = fields.required("expect")
        fields.done()
        field = fields.name_of("expect")
        if line_node is None:
            return None
        node = line_node
    line = reader.text(node, field)
    if not line:
        return None
    match = _LINE.fullmatch(line)
    if match is None:
        problems.add(
            node.mark, field, f"{quote(line)} is not a claim; write it as success_rate of browse during inject >= 99%"
        )
        return None
    quantity, subject, phase, op, value = match.group("quantity", "subject", "phase", "op", "value")
    if quantity not in QUANTITIES:
        problems.add(node.mark, field, f"no quantity {quote(quantity)}{suggestion(quantity, QUANTITIES)}")
        return None
    wanted, read_value = QUANTITIES[quantity]
    _check_subject(wanted, quantity, subject, node, field, app, slos, problems)
    phase = phase or ("recover" if quantity == "recovery_seconds" else "all")
    if phase not in PHASES:
        problems.add(node.mark, field, f"no phase {quote(phase)}{suggestion(phase, PHASES)}")
    number = read_value(reader, Scalar(value, "text", node.mark), field)
    comparison = cast(Literal["<", "<=", ">", ">=", "=="], op)
    return Expectation(title or " ".join(line.split()), quantity, subject, phase, comparison, number)


def _check_subject(
    wanted: _Subject,
    quantity: str,
    subject: str | None,
    node: Node,
    field: str,
    app: Application,
    slos: tuple[SloSpec, ...],
    problems: Problems,
) -> None:
    if wanted == "nothing":
        if subject is not None:
            problems.add(node.mark, field, f"{quantity} is of the whole mesh; leave out {quote('of ' + subject)}")
        return
    names = [slo.name for slo in slos] if wanted == "slo" else [service.name for service in app.services]
    what = "SLO" if wanted == "slo" else "service"
    if subject is None:
        problems.add(node.mark, field, f"{quantity} of which {what}?{suggestion('', names).replace(';', '')}")
    elif subject not in names:
        problems.add(node.mark, field, f"no {what} {quote(subject)}{suggestion(subject, names)}")


def read_abort_rule(node: Node, field: str, slos: tuple[SloSpec, ...], problems: Problems) -> AbortRule:
    fields = Fields(node, field, problems)
    slo = fields.choice("slo", [slo.name for slo in slos], what="SLO")
    burn_rate = fields.number("burnRate", minimum=1.0)
    for_seconds = fields.duration("for", maximum=600.0)
    fields.done()
    return AbortRule(slo, burn_rate, for_seconds)
