"""Is there a Kubernetes, and one that is new enough?"""

from __future__ import annotations

import re

from mesh.commands.check.facts import Facts
from mesh.commands.check.judge import SKIP, Category, Check, Verdict, error, listed, warning

MINIMUM = (1, 29)
"""Native sidecars (`restartPolicy: Always` of an init container) are on by default from here."""


def api_answers(facts: Facts) -> Verdict:
    if facts.unreachable:
        return error(facts.unreachable, "check that the cluster runs, and --context and --kubeconfig")
    return None


def new_enough(facts: Facts) -> Verdict:
    if facts.unreachable:
        return SKIP
    match = re.match(r"v?(\d+)\.(\d+)", facts.kubernetes_version)
    if match is None:
        return warning(f"cannot read the version {facts.kubernetes_version!r}", "see `kubectl version`")
    if (int(match.group(1)), int(match.group(2))) < MINIMUM:
        needed = ".".join(map(str, MINIMUM))
        text = f"Kubernetes is {facts.kubernetes_version}, must be {needed} or newer"
        return error(text, "upgrade the cluster")
    return None


def clocks_agree(facts: Facts) -> Verdict:
    """A leaf is valid from 20 s before it was issued: a clock further behind finds it not valid yet, one further ahead
    renews too late (linkerd2 #3980)."""
    if facts.unreachable:
        return SKIP
    lines = []
    allowed = facts.clock_skew_seconds
    if facts.api_ahead_seconds is not None and abs(facts.api_ahead_seconds) > allowed:
        lines.append(f"the API server's clock is {_direction(facts.api_ahead_seconds)} this machine's")
    lines += [
        f"node {node.name}: clock is {_direction(node.ahead_seconds)} the API server's"
        for node in facts.nodes
        if node.ahead_seconds is not None and abs(node.ahead_seconds) > allowed
    ]
    if lines:
        return error(listed(lines), f"run a time service (chrony, ntpd) there: certificates bear {allowed:.0f} s")
    return None


def _direction(ahead: float) -> str:
    return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"


CATEGORIES = (
    Category("kubernetes-api", (Check("can query the Kubernetes API", api_answers),)),
    Category(
        "kubernetes-version",
        (
            Check("is running the minimum Kubernetes API version", new_enough),
            Check("no clock skew detected", clocks_agree, needs=("nodes", "node_clocks")),
        ),
    ),
)
