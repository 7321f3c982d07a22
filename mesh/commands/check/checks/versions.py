"""Do the command line and the parts of the control plane have one version?"""

from __future__ import annotations

from mesh.commands.check.facts import Facts
from mesh.commands.check.judge import SKIP, Category, Check, Verdict, error, listed, warning


def installed_version(facts: Facts) -> str:
    """What the install values say; empty where they do not."""
    return facts.values.image.version if facts.values is not None else ""


def version_known(facts: Facts) -> Verdict:
    if facts.values is None:
        return SKIP
    if not installed_version(facts):
        return error("ConfigMap linkerd-config has no image.version", "restore it: `gameday mesh upgrade`")
    return None


def pods_agree(facts: Facts) -> Verdict:
    wanted = installed_version(facts)
    if not wanted or not facts.pods:
        return SKIP
    lines = [
        f"{pod.name}: runs {pod.image_version}, installed is {wanted}"
        for pod in facts.pods
        if pod.image_version not in ("", wanted)
    ]
    if lines:
        return warning(listed(lines), "wait for the rollout, or see why it does not get on: `kubectl rollout status`")
    return None


def client_agrees(facts: Facts) -> Verdict:
    version = installed_version(facts)
    if not version:
        return SKIP
    if version != facts.client_version:
        text = f"control plane is {version}, this command line is {facts.client_version}"
        return warning(text, "upgrade the older of the two: `gameday mesh upgrade | kubectl apply -f -`")
    return None


CATEGORY = Category(
    "control-plane-version",
    (
        Check("can retrieve the control plane version", version_known, needs=("values",)),
        Check("control plane is up-to-date", pods_agree, needs=("pods",)),
        Check("control plane and cli versions match", client_agrees, needs=("values",)),
    ),
)
