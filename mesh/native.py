"""The hot modules as machine code: the same source, compiled by mypyc, where there is a C compiler.

    python -m mesh.native build     compiles in place (about a minute); `make native`
    python -m mesh.native clean     back to the interpreter

Decisions, wire machines and the life of a request are small typed classes without dynamic tricks, so they compile as
they are, and there is no second engine to keep equal: a module is its `.py` file, compiled or not. What it brings is
in docs/performance.md; nothing needs it.

An extension module is found before the source beside it, also when the source has changed since. So `build` notes the
hash of every source, the programs ask `check` at their start, and a build that does not fit is one clear line instead
of yesterday's behaviour.

Rejected: Cython (types in a syntax of its own), a hand-written C or Rust core (two truths), numba (arrays only).
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTE = ROOT / "mesh" / "native.json"
GROUP = "gameday"
"""Name of the extension module that holds all the code; those beside the sources only point into it."""

PATTERNS = (
    "mesh/behavior/*.py",
    "mesh/proxy/request.py",
    "mesh/proxy/driver.py",
    "mesh/proxy/deadlines.py",
    "mesh/proxy/session.py",
    "mesh/proxy/series.py",
    "mesh/proxy/metrics.py",
    "mesh/proxy/client/http[12].py",
    "mesh/proxy/server/http[12].py",
    "mesh/proxy/inbound/app.py",
    "mesh/proxy/inbound/policy.py",
    "mesh/proxy/inbound/service.py",
    "mesh/proxy/outbound/discovery.py",
    "mesh/proxy/outbound/entry.py",
    "mesh/proxy/outbound/service.py",
    "mesh/proxy/wire/errors.py",
    "mesh/proxy/wire/hpack.py",
    "mesh/proxy/wire/http1*.py",
    "mesh/proxy/wire/http2*.py",
    "mesh/proxy/wire/message.py",
    "mesh/proxy/wire/tls.py",
    "scenarios/throttle.py",
    "sim/model/agenda.py",
    "sim/model/app.py",
    "sim/model/control.py",
    "sim/model/draws.py",
    "sim/model/load.py",
    "sim/model/processor.py",
    "sim/model/proxy.py",
    "sim/model/record.py",
    "sim/model/route.py",
    "sim/model/system.py",
    "sim/model/wire.py",
)
INTERPRETED = {
    "__init__.py",
    "regexes.py",  # mypyc cannot compile it (an assertion of its own fails), and it runs once for each route
}


class StaleBuild(Exception):
    """Compiled modules that are not of their sources; the text is for the user."""


class BuildFailed(Exception):
    """There is no compiler, or it refused; the text is for the user."""


def sources() -> list[Path]:
    """What is compiled, relative to the root."""
    found = {path for pattern in PATTERNS for path in ROOT.glob(pattern) if path.name not in INTERPRETED}
    return sorted(path.relative_to(ROOT) for path in found)


def compiled() -> list[Path]:
    """The extension modules that are there now, relative to the root."""
    return sorted(set(_extensions()))


def check() -> bool:
    """Whether the hot modules are compiled.

    Raises:
        StaleBuild: some are, from sources that have changed since.
    """
    if not NOTE.is_file():
        if left := compiled():
            raise StaleBuild(_mend(f"{left[0]} is compiled and nothing says from what"))
        return False
    noted: dict[str, str] = json.loads(NOTE.read_bytes())
    for name, digest in noted.items():
        path = ROOT / name
        if not path.is_file() or _digest(path) != digest:
            raise StaleBuild(_mend(f"{name} has changed since it was compiled"))
    return True


def build() -> int:
    """Compiles all modules in place, unless they are; how many. If it fails, nothing is compiled.

    Raises:
        BuildFailed: mypyc or the C compiler is missing, or one of them refused.
    """
    names = [str(path) for path in sources()]
    digests = {name: _digest(ROOT / name) for name in names}
    if NOTE.is_file() and json.loads(NOTE.read_bytes()) == digests:
        return len(names)
    clean()
    import shutil  # the proxy imports this module at each start, and has no use for them
    import tempfile

    if shutil.which("cc") is None and shutil.which("gcc") is None and shutil.which("clang") is None:
        raise BuildFailed("no C compiler (cc, gcc or clang) on the PATH; everything works without, at a higher cost")
    with tempfile.TemporaryDirectory(prefix="gameday-native-") as folder:
        script = Path(folder) / "setup.py"
        script.write_text(_SETUP.format(names=names, group=GROUP, folder=folder))
        command = [sys.executable, str(script), "--quiet", "build_ext", "--inplace", "--build-temp", f"{folder}/temp"]
        done = subprocess.run(
            [*command, "--build-lib", f"{folder}/lib"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        clean()
        said = [line for line in (done.stdout + done.stderr).splitlines() if "warning" not in line]
        raise BuildFailed("\n".join(said[-12:]) or f"the compiler ended with {done.returncode}")
    NOTE.write_text(json.dumps(digests, indent=1) + "\n")
    return len(names)


def clean() -> None:
    """Removes every compiled module."""
    NOTE.unlink(missing_ok=True)
    for path in compiled():
        (ROOT / path).unlink()


def _extensions() -> Iterator[Path]:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    for path in (*sources(), Path(f"{GROUP}__mypyc.py")):
        extension = path.with_name(path.stem + suffix)
        if (ROOT / extension).is_file():
            yield extension


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _mend(what: str) -> str:
    return f"{what}; run `make native` to compile it anew, or `make native-clean` to do without"


# Line numbers stay in tracebacks; types are checked by `make check`, which is stricter.
_SETUP = """
from mypyc.build import mypycify
from setuptools import setup

modules = {names!r}
options = ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports", *modules]
setup(
    name="native",
    packages=[],
    ext_modules=mypycify(options, opt_level="3", debug_level="0", group_name={group!r}, target_dir={folder!r}),
)
"""


def main(arguments: list[str]) -> int:
    """The program. Exit code 2: it could not be done, and why."""
    if arguments == ["clean"]:
        clean()
        return 0
    if arguments != ["build"]:
        print("usage: python -m mesh.native build|clean", file=sys.stderr)
        return 2
    try:
        print(f"{build()} modules compiled")
    except BuildFailed as error:
        print(f"mesh.native: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
