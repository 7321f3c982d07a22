"""The issuer in a Secret: watched, and read again every half minute whatever the watch says.

Linkerd's identity once went on with the old issuer until it expired, because one file-system event was lost (linkerd2
#15109). Here a watch, the informer's re-list, and this timer would all have to fail.
"""

from __future__ import annotations

import asyncio
import base64
import binascii

import msgspec

from mesh.control.issuer import Content
from mesh.control.log import Log
from mesh.control.pki import InvalidCredentials
from mesh.kube.api import Api, ApiFailed, Missing
from mesh.kube.informer import Informer, Timing
from mesh.kube.kinds import SECRET
from mesh.kube.permissions import ISSUER
from mesh.kube.store import Unreadable

REREAD_SECONDS = 30.0


class _Secret(msgspec.Struct):
    data: dict[str, str] | None = None


class IssuerSecret:
    """The latest content of the Secret that is known."""

    def __init__(self, api: Api, namespace: str, log: Log, name: str = ISSUER, timing: Timing | None = None) -> None:
        self._api = api
        self._path = SECRET.path(namespace, name)
        self._key = (namespace, name)
        self._log = log
        self.informer = Informer(
            api, SECRET, _read, log, namespace=namespace, fields=f"metadata.name={name}", timing=timing
        )

    def content(self) -> Content:
        """`tls.crt` and `tls.key`. Raises InvalidCredentials."""
        data = self.informer.store.get(*self._key)
        place = f"Secret {'/'.join(self._key)}"
        if data is None:
            raise InvalidCredentials(f"{place}: not there")
        for name in ("tls.crt", "tls.key"):
            if not data.get(name):
                raise InvalidCredentials(f"{place}: has no {name}")
        return data["tls.crt"], data["tls.key"]

    async def reread(self, every: float = REREAD_SECONDS) -> None:
        """Reads the Secret again and again, until cancelled."""
        while True:
            await asyncio.sleep(every)
            before = self.informer.store.get(*self._key)
            try:
                raw = await self._api.request("GET", self._path)
            except Missing:
                continue  # its content stays: a Secret that is replaced is gone for a moment
            except ApiFailed as error:
                self._log.debug("issuer not re-read", reason=error)
                continue
            if self.informer.store.get(*self._key) is not before:
                continue  # the watch was quicker, and may know better than this answer
            if self.informer.store.put(raw)[1] is not None:
                self._log.warn("a change of the issuer was missed by the watch", secret="/".join(self._key))


def _read(raw: bytes) -> dict[str, bytes]:
    data = msgspec.json.decode(raw, type=_Secret).data or {}
    try:
        return {name: base64.b64decode(text, validate=True) for name, text in data.items()}
    except (binascii.Error, ValueError) as error:
        raise Unreadable(f"data is not base64: {error}") from None
