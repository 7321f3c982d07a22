"""Reading a cluster for the checks: JSON in, and of each thing that could not be learned, why.

A check command must say something useful on the most broken cluster and for the least privileged user. So a refusal
(403), a timeout or a missing API ends what is being learned, and not the command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import httpx2
import msgspec

PAGE = "500"
MAX_LINE = 300
Json = dict[str, Any]
T = TypeVar("T")
Otherwise = TypeVar("Otherwise")


class Unlearned(Exception):
    """Something could not be learned; the text says why."""


class Refused(Exception):
    """The API server refuses a request; the text is its message."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Reader:
    """The API server, and what could not be learned from it."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http
        self.unknown: dict[str, str] = {}

    def learn(self, name: str, ask: Callable[[], T], otherwise: Otherwise) -> T | Otherwise:
        """What `ask` returns; `otherwise`, with the reason noted under the fact's name, where it cannot be had."""
        try:
            return ask()
        except Unlearned as error:
            self.unknown[name] = str(error)
            return otherwise

    def get(self, path: str, **params: str) -> Json | None:
        """The object at `path`; None: there is none. Raises Unlearned."""
        try:
            return self.request("GET", path, params)
        except Refused as error:
            if error.status == 404:
                return None
            raise Unlearned(str(error)) from None

    def list(self, path: str, **params: str) -> list[Json]:
        """All objects at `path`, page by page; none where the API has no such kind. Raises Unlearned."""
        items: list[Json] = []
        query = {"limit": PAGE, **params}
        while True:
            answer = self.get(path, **query) or {}
            items += answer.get("items") or []
            token = (answer.get("metadata") or {}).get("continue")
            if not token:
                return items
            query["continue"] = token

    def last_line(self, log: str, container: str) -> str:
        """What a container last wrote, in this life or the one before; empty where that may not be read."""
        for previous in ("false", "true"):
            params = {"container": container, "tailLines": "5", "previous": previous}
            try:
                response = self._http.get(log, params=params)
            except httpx2.HTTPError:
                return ""
            lines = response.text.splitlines() if response.status_code == 200 else []
            if said := [line.strip() for line in lines if line.strip()]:
                return "".join(c for c in said[-1][:MAX_LINE] if c.isprintable())  # nothing that moves the cursor
        return ""

    def request(self, method: str, path: str, params: Mapping[str, str] | None = None, body: object = None) -> Json:
        """The JSON answer.

        Raises:
            Refused: a status of 400 and above.
            Unlearned: no answer.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {"content-type": "application/json"} if content is not None else None
        try:
            response = self._http.request(method, path, params=params, content=content, headers=headers)
        except httpx2.HTTPError as error:
            raise Unlearned(f"{method} {path}: {error or type(error).__name__}") from None
        if response.status_code >= 400:
            raise Refused(response.status_code, _message(response))
        answer: Json = msgspec.json.decode(response.content)
        return answer

    def server_clock(self) -> float | None:
        """The API server's clock minus ours, in seconds, to about one; None: it does not tell."""
        before = time.time()
        try:
            response = self._http.get("/version")
        except httpx2.HTTPError:
            return None
        middle = (before + time.time()) / 2
        try:
            told = datetime.strptime(response.headers.get("date", ""), "%a, %d %b %Y %H:%M:%S GMT")
        except ValueError:
            return None
        return seconds(told.isoformat() + "Z") + 0.5 - middle  # the header is cut down to whole seconds


def seconds(text: str) -> float:
    """Unix seconds of a Kubernetes timestamp."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _message(response: httpx2.Response) -> str:
    try:
        status = msgspec.json.decode(response.content)
        text = status.get("message") if isinstance(status, dict) else None
    except msgspec.DecodeError:
        text = None
    return " ".join(str(text or f"HTTP {response.status_code}").split())
