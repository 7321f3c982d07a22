"""The viz extension, where it is installed."""

from __future__ import annotations

from mesh.commands.check.facts import Facts
from mesh.commands.check.judge import SKIP, Category, Check, Verdict, error, listed


def objects_exist(facts: Facts) -> Verdict:
    if facts.viz is None:
        return SKIP
    lines = [f"{ref} is missing" for ref in facts.viz.missing]
    return error(listed(lines), "install it again: `gameday mesh upgrade | kubectl apply -f -`") if lines else None


def pods_ready(facts: Facts) -> Verdict:
    if facts.viz is None:
        return SKIP
    lines = [
        f"{component.name}: {component.ready} of {component.wanted} ready"
        for component in facts.viz.components
        if component.ready < component.wanted or component.wanted == 0
    ]
    lines += [f"{pod.name}: {pod.trouble}" for pod in facts.viz.pods if not pod.ready and pod.trouble]
    return error(listed(lines), f"see `kubectl -n {facts.viz_namespace} describe pods`") if lines else None


def api_answers(facts: Facts) -> Verdict:
    if facts.viz is None or facts.viz.answer is None:
        return SKIP
    if facts.viz.answer:
        return error(facts.viz.answer, f"see `kubectl -n {facts.viz_namespace} logs deploy/viz`")
    return None


CATEGORY = Category(
    "linkerd-viz",
    (
        Check("viz objects exist", objects_exist, needs=("viz",)),
        Check("viz extension pods are running", pods_ready, needs=("viz",)),
        Check("viz extension self-check", api_answers, needs=("viz",)),
    ),
)
