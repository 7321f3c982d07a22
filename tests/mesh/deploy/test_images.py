"""Images: what of the lock they install, and the commands that build them. The builds themselves: tests/e2e/kind."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mesh
from mesh.deploy.images.build import BuildFailed, BuildOptions, Image, build_command, images, load_command
from mesh.deploy.images.locked import NotLocked, canonical, locked, package_names

ROOT = Path(mesh.__file__).parent.parent
IMAGES = ROOT / "mesh/deploy/images"
MESH_NEEDS = ("uvloop", "httptools", "cryptography", "msgspec", "jh2", "pyyaml", "aiohttp", "jinja2", "lightkube")
LOCK = """\
a-one==1 \\
    --hash=sha256:aa
b==2 ; python_full_version < '3.12' \\
    --hash=sha256:bb
b==3 ; python_full_version >= '3.12' \\
    --hash=sha256:cc
ab==9 \\
    --hash=sha256:dd
"""


def test_the_selection_keeps_an_entry_whole_with_hashes_and_all_its_markers() -> None:
    assert locked(LOCK, ["A_One"]) == "a-one==1 \\\n    --hash=sha256:aa\n"
    assert locked(LOCK, ["b"]).count("b==") == 2
    assert "sha256:dd" not in locked(LOCK, ["b", "a.one"])


def test_a_package_that_is_not_locked_is_named() -> None:
    with pytest.raises(NotLocked, match="not in the lock: zebra"):
        locked(LOCK, ["b", "zebra"])


def _closure(names: list[str]) -> set[str]:
    """With dependencies of dependencies, as installed here."""
    found: set[str] = set()
    waiting = [(canonical(name), frozenset[str]()) for name in names]
    while waiting:
        name, extras = waiting.pop()
        found.add(name)
        for text in requires(name) or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                following = canonical(requirement.name), frozenset(requirement.extras)
                if following[0] not in found:
                    waiting.append(following)
    return found


def _listed(image: str) -> set[str]:
    return {canonical(name) for name in package_names((IMAGES / f"{image}.packages").read_text())}


def test_the_mesh_image_installs_what_the_mesh_imports_and_nothing_of_the_harness() -> None:
    assert _closure(list(MESH_NEEDS)) <= _listed("mesh")
    assert not _listed("mesh") & {"numpy", "locust", "simpy", "chaostoolkit", "gevent", "pytest"}


def test_the_agent_image_installs_all_dependencies_of_the_project() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    try:
        wanted = _closure([Requirement(text).name for text in declared])
    except PackageNotFoundError as error:
        pytest.skip(f"{error} is not installed here")
    assert wanted <= _listed("agent")


@pytest.mark.parametrize("image", ["mesh", "agent"])
def test_every_listed_package_is_locked_with_hashes(image: str) -> None:
    entries = locked((ROOT / "requirements.lock").read_text(), _listed(image))
    assert entries.count("==") >= len(_listed(image))
    assert "--hash=sha256:" in entries


def test_options_become_docker_arguments_and_nothing_is_added_unasked() -> None:
    plain = build_command(Image("mesh", "gameday/mesh:1"), BuildOptions(), Path("/src"))
    assert plain == [
        "docker",
        "build",
        "--file",
        "/src/mesh/deploy/images/mesh.Dockerfile",
        "--tag",
        "gameday/mesh:1",
        "/src",
    ]
    options = BuildOptions("debian:x", ("A=1", "B=2"), "host")
    full = build_command(Image("agent", "gameday/agent:1"), options, Path("/src"))
    assert full[6:-1] == [
        *("--network", "host", "--build-arg", "BASE_IMAGE=debian:x", "--build-arg", "A=1", "--build-arg", "B=2"),
    ]
    assert load_command(["a:1", "b:1"], "kit") == ["kind", "load", "docker-image", "--name", "kit", "a:1", "b:1"]


def test_an_unknown_image_is_refused_by_name() -> None:
    assert [image.tag for image in images(["mesh", "agent"], "7")] == ["gameday/mesh:7", "gameday/agent:7"]
    with pytest.raises(BuildFailed, match="no image 'proxy'; there are mesh and agent"):
        images(["proxy"])
