"""What an install with given values consists of: asked of the code that installs."""

from __future__ import annotations

from mesh.api.values import Values
from mesh.commands.check.reader import Json
from mesh.deploy.objects import Credentials, crd_objects, install_objects

JUDGED_ELSEWHERE = ("Secret",)
"""The issuer is judged by what is in it."""


def expected_objects(values: Values) -> list[Json]:
    """Manifests, CRDs first. Their contents are as of this version of the command line; certificates are left out."""
    every = [*crd_objects(values), *install_objects(values, Credentials(""))]
    return [manifest for manifest in every if manifest["kind"] not in JUDGED_ELSEWHERE]
