"""The images of a run: built where they are missing or older than the checkout, and put on the cluster's nodes."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gameday.errors import WorldFailed
from gameday.worlds.kind import cluster
from gameday.worlds.kind.names import AGENT_IMAGE, MESH_IMAGE
from mesh.deploy.images.build import BuildFailed, BuildOptions, build, build_context, images

SOURCES = {
    "mesh": ("mesh", "requirements.lock"),
    "agent": ("mesh", "sim", "chaos", "scenarios", "loadtests", "reports", "gameday", "requirements.lock"),
}
"""What each image is made of, below the checkout."""


def prepare(tell: Callable[[str], None]) -> None:
    """Builds what is missing or stale. Without a checkout, images that are there are taken as they are.

    Raises:
        WorldFailed: an image is missing and cannot be built.
    """
    try:
        root: Path | None = build_context()
    except BuildFailed:
        root = None
    for image in images(SOURCES):
        there = cluster.has_image(image.tag)
        if there and (root is None or _made_at(image.tag) >= _newest(root, SOURCES[image.name])):
            continue
        began = time.monotonic()
        try:
            build(image, BuildOptions(network="host"), quiet=True)
        except BuildFailed as error:
            raise WorldFailed(str(error)) from None
        tell(f"image {image.tag} built in {time.monotonic() - began:.0f} s")


def put_on_nodes(name: str, more: Sequence[str], tell: Callable[[str], None]) -> None:
    """Ours, and those of `more` that docker has (the node pulls the others). Raises WorldFailed."""
    began = time.monotonic()
    wanted = [MESH_IMAGE, AGENT_IMAGE, *(tag for tag in more if cluster.has_image(tag))]
    copied = cluster.load_images(name, wanted)
    if copied:
        tell(f"{', '.join(copied)} copied to the cluster in {time.monotonic() - began:.0f} s")


def _made_at(tag: str) -> float:
    """Unix seconds."""
    text = cluster.run(["docker", "image", "inspect", "--format", "{{.Created}}", tag]).strip()
    return datetime.datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def _newest(root: Path, parts: tuple[str, ...]) -> float:
    """When the newest source below `parts` was written, Unix seconds."""
    newest = 0.0
    for part in parts:
        path = root / part
        files = path.rglob("*") if path.is_dir() else [path]
        for file in files:
            if file.is_file() and file.suffix != ".pyc":
                newest = max(newest, file.stat().st_mtime)
    return newest
