"""`gameday mesh check`: facts, judgement, print, exit code; again until all is well where the user waits for it."""

from __future__ import annotations

import sys
import time
from typing import Annotated

from cyclopts import Parameter

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.values import VERSION
from mesh.commands.check.checks import DATA_PLANE, DEFAULT, PRE
from mesh.commands.check.facts import Facts
from mesh.commands.check.judge import failed, judge
from mesh.commands.check.present import Form, as_json, as_text
from mesh.commands.cluster import DEFAULTS, ClusterOptions, connected
from mesh.commands.errors import CommandFailed

AGAIN_SECONDS = 2.0


def check(
    *,
    pre: bool = False,
    proxy: bool = False,
    wait: str = "0s",
    output: Annotated[Form, Parameter(name=("--output", "-o"))] = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Check that the mesh is healthy; where it is not, say why and what to do.

    Exit codes: 0 healthy (warnings included), 1 a check failed, 2 bad input.

    Parameters
    ----------
    pre
        Before an install: may it be installed here?
    proxy
        The proxies as well: all of them, or those of the namespace given with -n.
    wait
        Look again until no check fails, for at most this long.
    output
        table, short (only what is wrong) or json.
    """
    if pre and proxy:
        raise CommandFailed("--pre and --proxy exclude each other: before an install there are no proxies")
    deadline = time.monotonic() + _seconds(wait)
    categories = PRE if pre else DATA_PLANE if proxy else DEFAULT
    while True:
        results = judge(_facts(cluster, pre=pre, proxies=proxy), categories)
        left = deadline - time.monotonic()
        if not failed(results) or left <= 0:
            break
        time.sleep(min(AGAIN_SECONDS, left))
    sys.stdout.write(as_json(results) if output == "json" else as_text(results, short=output == "short"))
    return 1 if failed(results) else 0


def _facts(options: ClusterOptions, *, pre: bool, proxies: bool) -> Facts:
    from mesh.commands.check.gather import Scope, gather
    from mesh.kube.client import ClusterUnreachable, find_config

    try:
        find_config(options.context, options.kubeconfig)
    except ClusterUnreachable as error:
        raise CommandFailed(str(error)) from None
    scope = Scope(options.linkerd_namespace, options.viz_namespace, options.namespace, pre, proxies)
    try:
        with connected(options) as client:
            return gather(client, scope)
    except CommandFailed as error:
        return Facts(now=time.time(), client_version=VERSION, unreachable=str(error))


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except InvalidDuration as error:
        raise CommandFailed(f"--wait: {error}") from None
