"""Who may tap through viz: whoever can show the token that its Secret holds.

The proxies let only viz tap. So that not every pod of the cluster taps through viz, the port being open to all of them,
viz makes a token once and keeps it in the Secret `viz-tap` of its namespace. Who may read that Secret may tap: RBAC as
the cluster has it decides, without an API service of our own (Linkerd's way) whose certificate has to be rotated. The
command line reads the Secret and sends the token along.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
from pathlib import Path
from typing import Protocol

import msgspec

from mesh.control.log import Log
from mesh.kube.api import Api, ApiFailed, Conflict, Missing
from mesh.kube.kinds import SECRET
from mesh.viz.permissions import TAP_SECRET

HEADER = "l5d-viz-token"
KEY = "token"
REREAD_SECONDS = 10.0
"""Least time between two looks at the Secret, which somebody may have replaced."""


class Gate(Protocol):
    """Judges tokens."""

    async def admits(self, token: str) -> bool: ...


class OpenGate:
    """Everybody may (no token was asked for)."""

    async def admits(self, token: str) -> bool:
        return True


class FileGate:
    """The token in a file, read anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def admits(self, token: str) -> bool:
        try:
            wanted = self._path.read_text().strip()
        except OSError:
            return False
        return bool(wanted) and hmac.compare_digest(wanted.encode(), token.encode())


class SecretGate:
    """The token in the Secret, which is made where there is none."""

    def __init__(self, api: Api, namespace: str, log: Log) -> None:
        self._api = api
        self._namespace = namespace
        self._log = log
        self._token = ""
        self._read_at: float | None = None

    async def admits(self, token: str) -> bool:
        """False too while the Secret cannot be read: then nobody may."""
        if not self._matches(token):
            await self._refresh()
        return self._matches(token)

    async def prepare(self) -> None:
        """Makes the Secret early, so that the first client finds it."""
        await self._refresh()

    def _matches(self, token: str) -> bool:
        return bool(self._token) and hmac.compare_digest(self._token.encode(), token.encode())

    async def _refresh(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._read_at is not None and now - self._read_at < REREAD_SECONDS:
            return
        self._read_at = now
        try:
            self._token = await self._read()
        except (ApiFailed, ValueError, msgspec.DecodeError) as error:
            self._log.warn("no token for taps", secret=f"{self._namespace}/{TAP_SECRET}", reason=error)
            self._read_at = None if not self._token else self._read_at

    async def _read(self) -> str:
        path = SECRET.path(self._namespace, TAP_SECRET)
        try:
            return _token_in(await self._api.request("GET", path))
        except Missing:
            manifest = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": TAP_SECRET,
                    "namespace": self._namespace,
                    "labels": {"linkerd.io/extension": "viz", "app.kubernetes.io/part-of": "linkerd-viz"},
                },
                "type": "Opaque",
                "data": {KEY: base64.b64encode(secrets.token_urlsafe(32).encode()).decode()},
            }
            try:
                made = await self._api.request("POST", SECRET.path(self._namespace), body=manifest)
            except Conflict:  # another replica was faster
                made = await self._api.request("GET", path)
            return _token_in(made)


def _token_in(raw: bytes) -> str:
    data = (msgspec.json.decode(raw).get("data") or {}).get(KEY) or ""
    token = base64.b64decode(data).decode()
    if not token:
        raise ValueError(f"the Secret has no key {KEY!r}")
    return token
