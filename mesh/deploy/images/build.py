"""Builds the images with `docker build`, and loads them into a kind cluster.

The commands are made by pure functions (`build_command`, `load_command`); `build` and `load` run them. Docker's own
builder is used as it is, classic or BuildKit: the Dockerfiles need neither. Rejected: building through Docker's API
(a dependency for one call, and the user's builder settings would not hold).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mesh
from mesh.api.values import VERSION

IMAGES = ("mesh", "agent")
REPOSITORY = "gameday"


class BuildFailed(Exception):
    """An image could not be built or loaded; the text says what, where and what to do."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image to build."""

    name: str
    """`mesh` or `agent`."""
    tag: str
    """With repository: gameday/mesh:0.1.0."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    base_image: str | None = None
    """None: the Dockerfile's own, python:3.11-slim-bookworm."""
    build_args: tuple[str, ...] = ()
    """`NAME=value` each, handed to docker: HTTP_PROXY, PIP_INDEX_URL and the like."""
    network: str | None = None
    """Network of the build; None: docker's default."""


def images(names: Iterable[str], version: str = VERSION) -> list[Image]:
    """The images of those names, tagged with `version`.

    Raises:
        BuildFailed: there is no image of one of the names.
    """
    found = []
    for name in names:
        if name not in IMAGES:
            raise BuildFailed(f"no image {name!r}; there are {' and '.join(IMAGES)}")
        found.append(Image(name, f"{REPOSITORY}/{name}:{version}"))
    return found


def build_command(image: Image, options: BuildOptions, context: Path) -> list[str]:
    """The `docker build` of one image."""
    command = ["docker", "build", "--file", str(context / "mesh/deploy/images" / f"{image.name}.Dockerfile")]
    command += ["--tag", image.tag]
    if options.network is not None:
        command += ["--network", options.network]
    if options.base_image is not None:
        command += ["--build-arg", f"BASE_IMAGE={options.base_image}"]
    for argument in options.build_args:
        command += ["--build-arg", argument]
    return [*command, str(context)]


def load_command(tags: Sequence[str], cluster: str) -> list[str]:
    """The `kind load` that puts images on all nodes of a cluster."""
    return ["kind", "load", "docker-image", "--name", cluster, *tags]


def build_context() -> Path:
    """The repository's root.

    Raises:
        BuildFailed: this is no checkout, so there is nothing to build from.
    """
    root = Path(mesh.__file__).resolve().parent.parent
    for needed in ("requirements.lock", "pyproject.toml", ".dockerignore"):
        if not (root / needed).is_file():
            raise BuildFailed(f"{root}: no {needed}; images are built from a checkout of the repository, run it there")
    return root


def build(image: Image, options: BuildOptions, *, quiet: bool = False) -> None:
    """Builds one image; docker's output goes to the terminal, or with `quiet` only into the error.

    Raises:
        BuildFailed: docker is missing, not running, or the build failed.
    """
    _run(build_command(image, options, build_context()), f"building {image.tag}", quiet)


def load(tags: Sequence[str], cluster: str, *, quiet: bool = False) -> None:
    """Copies images from docker into the kind cluster.

    Raises:
        BuildFailed: kind is missing, there is no such cluster, or the copy failed.
    """
    _run(load_command(tags, cluster), f"loading {', '.join(tags)} into kind cluster {cluster}", quiet)


def size_bytes(image: Image) -> int:
    """The image's size, unpacked. Raises BuildFailed: there is none of that tag."""
    command = ["docker", "image", "inspect", "--format", "{{.Size}}", image.tag]
    return int(_run(command, f"inspecting {image.tag}", quiet=True))


def _run(command: list[str], what: str, quiet: bool) -> str:
    if shutil.which(command[0]) is None:
        raise BuildFailed(f"{what}: no {command[0]} on this machine's PATH; install it and try again")
    captured = subprocess.PIPE if quiet else None
    done = subprocess.run(command, stdout=captured, stderr=subprocess.STDOUT if quiet else None, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stdout or "").strip().splitlines()
        reason = f": {lines[-1]}" if lines else f" (exit code {done.returncode}; its output is above)"
        raise BuildFailed(f"{what}: {command[0]} failed{reason}")
    return done.stdout or ""
