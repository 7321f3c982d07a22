"""The part of `requirements.lock` that an image installs: `python locked.py requirements.lock mesh.packages`.

Runs inside the image's build, so it is a file of its own with nothing but the standard library. pip with
`--require-hashes` takes a whole lock or none; with this the image has the lock's versions and hashes for the packages
that it names, and no others.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class NotLocked(ValueError):
    """A package is wanted that the lock does not have."""


def canonical(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def package_names(text: str) -> list[str]:
    """The names in a `.packages` file: one a line, `#` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def locked(lock: str, names: Iterable[str]) -> str:
    """The entries of `lock` (pip's format, with hashes) for `names`, in the lock's order. An entry is a line that does
    not begin with space and those after it that do; a package may have several, with different markers.

    Raises:
        NotLocked: the lock lacks one of them.
    """
    wanted = {canonical(name) for name in names}
    found: set[str] = set()
    kept: list[str] = []
    keep = False
    for line in lock.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            match = NAME.match(line)
            name = canonical(match.group()) if match is not None else ""
            keep = name in wanted
            found.add(name)
        if keep:
            kept.append(line)
    missing = sorted(wanted - found)
    if missing:
        raise NotLocked(f"not in the lock: {', '.join(missing)}; run `make lock`, or mend the list of packages")
    return "\n".join(kept) + "\n"


def main() -> int:
    lock, packages = (Path(argument).read_text("utf-8") for argument in sys.argv[1:3])
    try:
        sys.stdout.write(locked(lock, package_names(packages)))
    except NotLocked as error:
        print(f"locked.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
