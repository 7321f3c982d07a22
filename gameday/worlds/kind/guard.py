"""Which namespaces a run may touch: those it makes, and those it was given by name.

What exists already and carries another run's label belongs to that run; what carries none belongs to somebody. A run
starts only if everything it needs is free or given, so that nobody's namespace is ever half used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gameday.worlds.kind.names import RUN_LABEL, RUN_NAMESPACE


def forbidden(
    needed: Iterable[str], existing: Mapping[str, Mapping[str, str]], run: str, allowed: Iterable[str]
) -> str | None:
    """Why the run must not start, one line; None where it may.

    `existing`: labels by namespace; `allowed`: what --allow-namespace named.
    """
    given = set(allowed)
    taken = [name for name in needed if name in existing and existing[name].get(RUN_LABEL) != run]
    others = sorted({existing[name][RUN_LABEL] for name in taken if RUN_LABEL in existing[name]})
    if others:
        return (
            f"run {others[0]} is in this cluster; wait for it, or clean up with `gameday recover {others[0]}`"
            f" (its namespaces: {', '.join(sorted(name for name in taken if RUN_LABEL in existing[name]))})"
        )
    refused = sorted(name for name in taken if name not in given)
    if not refused:
        return None
    if RUN_NAMESPACE in refused:
        return f"namespace {RUN_NAMESPACE} exists in this cluster and is not of a run; a run needs that name for itself"
    flags = " ".join(f"--allow-namespace {name}" for name in refused)
    return (
        f"the cluster has {', '.join(refused)} already, and this run would use namespaces of these names;"
        f" if it may, say so: {flags}"
    )
