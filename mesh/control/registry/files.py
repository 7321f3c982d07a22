"""The registry as a folder of manifests, watched by polling.

`poll` looks at every file's identity (inode, size, mtime) and reads those that changed. Writers replace files by
rename, so a file is seen whole or not at all. A file that cannot be used keeps what it last said, is logged once, and
counts in `registry_file_errors_total` and `registry_bad_files`; a file that is gone takes its resources with it.

Rejected: inotify (Linux only, and the watch that is lost without a sign is a known way to serve stale
endpoints; linkerd2 #15109 is one); a poll of sixty files costs half a millisecond.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mesh.api.resources import AnyResource, ExternalWorkload
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.registry.manifests import SUFFIXES, InvalidManifest, read_manifest

POLL_SECONDS = 0.2
MAX_FILES = 10_000
_Signature = tuple[int, int, int]


class RegistryUnreadable(Exception):
    """The folder itself cannot be listed."""


@dataclass(slots=True)
class _File:
    signature: _Signature
    resources: list[AnyResource] = field(default_factory=list)
    bad: bool = False


class RegistryFiles:
    """What the folder says, as of the last `poll`."""

    def __init__(
        self, directory: Path, log: Log, metrics: Metrics, read: Callable[[Path], bytes] | None = None
    ) -> None:
        self._directory = directory
        self._log = log
        self._metrics = metrics
        self._read_bytes = read if read is not None else Path.read_bytes
        self._files: dict[Path, _File] = {}
        self._lost = False
        metrics.counter("registry_file_errors_total", "Manifests that could not be used and kept their last good state")
        metrics.gauge("registry_bad_files", "Manifests that cannot be used now", lambda: float(self._bad()))
        metrics.gauge("registry_files", "Manifests in the registry", lambda: float(len(self._files)))

    def load(self) -> None:
        """The first poll. Raises RegistryUnreadable where the folder cannot be listed."""
        self._update(self._scan())

    def poll(self) -> bool:
        """Takes in what changed since the last call; whether the resources did."""
        try:
            found = self._scan()
        except RegistryUnreadable as error:
            if not self._lost:
                self._log.error("registry folder is gone; keeping its last state", reason=error)
                self._metrics.add("registry_file_errors_total")
            self._lost = True
            return False
        self._lost = False
        return self._update(found)

    async def wait(self) -> None:
        """Until the next poll is due."""
        await asyncio.sleep(POLL_SECONDS)

    def resources(self) -> list[AnyResource | ExternalWorkload]:
        """All resources; where two files define the same one, the later file name wins."""
        merged: dict[tuple[type, str, str], AnyResource] = {}
        for path in sorted(self._files):
            for resource in self._files[path].resources:
                merged[type(resource), resource.metadata.namespace, resource.metadata.name] = resource
        return list(merged.values())

    def _bad(self) -> int:
        return sum(file.bad for file in self._files.values())

    def _update(self, found: dict[Path, _Signature]) -> bool:
        changed = False
        for path in [path for path in self._files if path not in found]:
            del self._files[path]
            changed = True
        for path, signature in found.items():
            known = self._files.get(path)
            if known is None or known.signature != signature:
                changed |= self._load(path, signature, known)
        return changed

    def _load(self, path: Path, signature: _Signature, known: _File | None) -> bool:
        file = known if known is not None else _File(signature)
        try:
            resources = read_manifest(self._read_bytes(path).decode(), path)
        except FileNotFoundError:
            return False  # gone since the scan; the next poll sees it
        except (InvalidManifest, OSError, UnicodeDecodeError) as error:
            reason = error.problems[0] if isinstance(error, InvalidManifest) else f"{path}: {error}"
            self._log.error("manifest refused; keeping its last good state", reason=reason)
            self._metrics.add("registry_file_errors_total")
            file.bad, file.signature = True, signature
            self._files[path] = file
            return False
        changed = known is None or resources != file.resources
        self._files[path] = _File(signature, resources)
        return changed

    def _scan(self) -> dict[Path, _Signature]:
        found: dict[Path, _Signature] = {}
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or not entry.name.endswith(SUFFIXES):
                        continue
                    try:
                        status = entry.stat()
                    except FileNotFoundError:
                        continue  # replaced or removed between listing and stat
                    found[Path(entry.path)] = (status.st_ino, status.st_size, status.st_mtime_ns)
                    if len(found) > MAX_FILES:
                        raise RegistryUnreadable(f"{self._directory} holds more than {MAX_FILES} manifests")
        except OSError as error:
            raise RegistryUnreadable(f"{self._directory}: {error.strerror or error}") from None
        return found
