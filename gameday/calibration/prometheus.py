"""A Prometheus, asked for the raw samples of a window: `GET /api/v1/query` with range selectors.

Raw samples and not `increase()`: Prometheus extrapolates to the window's edges, and resets and gaps would be hidden.
One question for each metric, so that a missing one is known by name. The same answers, saved one JSON document a
metric or as a list of them, are what `read_dump` reads.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gameday.calibration.linkerd import FAMILIES, LATENCY
from gameday.calibration.telemetry import Telemetry
from gameday.errors import BadInput
from scenarios.model import Application

TIMEOUT_SECONDS = 20.0
FEWEST_SAMPLES = 4
"""Of a series in the window: from fewer neither load over time nor a restart can be seen."""
NEEDED = f"{LATENCY}_count"


def read_prometheus(url: str, app: Application, window_seconds: float, at: float | None) -> Telemetry:
    """What Prometheus knows of the application's proxies in the window that ends `at` (None: now).

    Raises:
        BadInput: unreachable, no Prometheus, no such metric, an empty answer, or too few samples for the window.
    """
    base = url.rstrip("/")
    try:
        parts = urllib.parse.urlsplit(base)
    except ValueError:  # of an IPv6 address that is none
        parts = urllib.parse.urlsplit("")
    if parts.scheme not in ("http", "https"):
        raise BadInput(f"--prometheus {url}: an address such as http://127.0.0.1:9090 is expected")
    spaces = "|".join(sorted({service.namespace for service in app.services}))
    telemetry = Telemetry()
    for metric in FAMILIES:
        result = _ask(base, f'{metric}{{namespace=~"{spaces}"}}[{max(1, round(window_seconds))}s]', at)
        _add(telemetry, result, f"--prometheus {url}")
    if not telemetry.by_name:
        _raise_empty(base, url, spaces, at, window_seconds)
    _check_samples(telemetry, f"--window {window_seconds:.0f}s")
    return telemetry


def read_dump(path: Path) -> Telemetry:
    """Saved answers of a Prometheus: one, a list of them, or one on each line; `query` with a range, or `query_range`.

    Raises:
        BadInput: not readable, no JSON, no answer of a Prometheus, or nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    telemetry = Telemetry()
    for document in _documents(path, text):
        _add(telemetry, _result(document, str(path)), str(path))
    if not telemetry.by_name:
        raise BadInput(f"{path}: no series in it; was the query's window empty, or its metric misspelt?")
    _check_samples(telemetry, str(path))
    return telemetry


def _documents(path: Path, text: str) -> list[Any]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            raise BadInput(f"{path}: not JSON; the answers of /api/v1/query are expected") from None
    return whole if isinstance(whole, list) else [whole]


def _ask(base: str, query: str, at: float | None) -> list[Any]:
    parameters = {"query": query} | ({"time": f"{at:.3f}"} if at is not None else {})
    where = f"--prometheus {base}"
    try:
        with urllib.request.urlopen(
            f"{base}/api/v1/query?{urllib.parse.urlencode(parameters)}", timeout=TIMEOUT_SECONDS
        ) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        said = _error_text(error.read())
        raise BadInput(f"{where}: answered {error.code}{': ' + said if said else ''}; is it a Prometheus?") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise BadInput(f"{where}: not reachable: {reason}; is the port forwarded?") from None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise BadInput(f"{where}: its answer is not JSON; is it a Prometheus?") from None
    return _result(document, where)


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])[:200]
    except (ValueError, KeyError, TypeError):
        return ""


def _result(document: Any, where: str) -> list[Any]:
    """The series of one answer."""
    if not isinstance(document, dict) or "status" not in document:
        raise BadInput(f"{where}: not an answer of a Prometheus (no `status`)")
    if document["status"] != "success":
        raise BadInput(f"{where}: Prometheus says: {str(document.get('error', 'no reason'))[:200]}")
    data = document.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("result"), list):
        raise BadInput(f"{where}: not an answer of a Prometheus (no `data.result`)")
    if data.get("resultType") not in ("matrix", None):
        raise BadInput(
            f"{where}: samples over time are needed, not a {data.get('resultType')}: query with a range, such as"
            f" {LATENCY}_bucket[5m]"
        )
    found: list[Any] = data["result"]
    return found


def _add(telemetry: Telemetry, result: Iterable[Any], where: str) -> None:
    for series in result:
        try:
            labels = {str(k): str(v) for k, v in series["metric"].items()}
            samples = [(float(at), float(value)) for at, value in series.get("values", ())]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BadInput(f"{where}: a series without labels or values; not an answer of a Prometheus") from None
        name = labels.pop("__name__", "")
        if not name:
            raise BadInput(f"{where}: a series without a name: query the metric itself, not rate() or sum() of it")
        telemetry.add(name, labels, samples)


def _raise_empty(base: str, url: str, spaces: str, at: float | None, window_seconds: float) -> None:
    """Which of three empty answers it is."""
    where = f"--prometheus {url}"
    if not _ask(base, f"{NEEDED}[{max(1, round(window_seconds))}s]", at):
        raise BadInput(
            f"{where}: no {NEEDED} in the window: it does not scrape Linkerd's proxies, or --window is too short"
        )
    raise BadInput(
        f"{where}: Linkerd's proxies are there, but none in namespace {spaces.replace('|', ', ')}: see --app"
    )


def _check_samples(telemetry: Telemetry, where: str) -> None:
    most = max((len(s.samples) for known in telemetry.by_name.values() for s in known), default=0)
    if most >= FEWEST_SAMPLES:
        return
    interval, bounds = telemetry.interval, telemetry.window
    every = f", scraped every {interval:.0f} s" if interval else ""
    needed = f"{(FEWEST_SAMPLES + 1) * interval:.0f}s is" if interval else "at least four scrapes is"
    spanned = f" in {bounds[1] - bounds[0]:.0f} s" if bounds else ""
    raise BadInput(f"{where}: at most {most} samples of a series{spanned}{every}; a window of {needed} needed")
