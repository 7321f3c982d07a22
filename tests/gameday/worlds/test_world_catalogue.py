"""Which options go with which world."""

from __future__ import annotations

from pathlib import Path

import pytest

from gameday.errors import BadInput
from gameday.worlds.base import WorldOptions
from gameday.worlds.catalogue import make_world
from scenarios.load import load_scenario


@pytest.mark.parametrize(
    "options",
    [
        WorldOptions(cluster="drill"),
        WorldOptions(keep_cluster=True),
        WorldOptions(context="staging"),
        WorldOptions(load_workers=2),
        WorldOptions(allowed_namespaces=("shop",)),
        WorldOptions(prometheus="prom/prometheus"),
    ],
)
def test_what_is_for_kubernetes_is_refused_by_the_embedded_world(options: WorldOptions, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--world kind; add it, or leave them out"):
        make_world(load_scenario("retry-storm"), tmp_path, options)
    assert list(tmp_path.iterdir()) == []
