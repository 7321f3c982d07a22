"""`gameday mesh images`: builds the container images, and loads them into a kind cluster."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from mesh.commands.errors import CommandFailed
from mesh.deploy.images.build import IMAGES, BuildFailed, BuildOptions, build, load, size_bytes
from mesh.deploy.images.build import images as named


def images(
    *names: str,
    base_image: str | None = None,
    build_arg: tuple[str, ...] = (),
    network: str | None = None,
    load_into: Annotated[str | None, Parameter(name="--load")] = None,
) -> int:
    """Build the images of mesh and agent with docker, from a checkout of the repository.

    Parameters
    ----------
    names
        mesh, agent; both without it.
    base_image
        What to build on, in the place of python:3.11-slim-bookworm: Debian with Python >= 3.11 and its venv.
    build_arg
        NAME=value for docker, such as HTTP_PROXY=…. May be repeated.
    network
        Network of the build, such as host; docker's default without it.
    load_into
        kind cluster to load the images into.
    """
    try:
        wanted = named(names or IMAGES)
        for image in wanted:
            build(image, BuildOptions(base_image, build_arg, network))
            print(f"{image.tag}: {size_bytes(image) / 1e6:.0f} MB unpacked", file=sys.stderr)
        if load_into is not None:
            load([image.tag for image in wanted], load_into)
    except BuildFailed as error:
        raise CommandFailed(str(error)) from None
    return 0
