"""What an install with given values consists of: asked of the code that installs."""

from __future__ import annotations

from mesh.api.values import Values
from mesh.commands.check.reader import Json


def expected_objects(values: Values) -> list[Json]:
    return []
