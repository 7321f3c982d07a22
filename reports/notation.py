"""How figures are written: one unit, few digits, a thin space before the unit, an em dash where there is nothing."""

from __future__ import annotations

import math
from datetime import UTC, datetime

NOTHING = "—"
THIN = "\u202f"


def percent(value: float | None) -> str:
    """A share; more digits the closer it comes to 100 %, for that is where an objective lives."""
    return NOTHING if value is None else f"{value * 100.0:.{_percent_digits(value)}f}{THIN}%"


def _percent_digits(value: float) -> int:
    shown = round(value * 100.0, 6)
    gap = abs(100.0 - shown)
    if gap == 0 or shown == 0:
        return 0
    return 3 if gap < 0.095 else 2 if gap < 0.995 or abs(shown) < 0.995 else 1


def objective(value: float) -> str:
    """A promise, with the digits it was made with."""
    return f"{value * 100.0:.8g}{THIN}%"


def seconds(value: float | None) -> str:
    """A span of time, from milliseconds to days."""
    if value is None:
        return NOTHING
    size = abs(value)
    if size < 0.0095:
        return f"{value * 1e3:.1f}{THIN}ms"
    if size < 0.9995:
        return f"{value * 1e3:.0f}{THIN}ms"
    if size < 10:
        return f"{value:.2f}{THIN}s"
    if size < 120:
        return f"{value:.1f}{THIN}s"
    if size < 7_200:
        return f"{value / 60:.1f}{THIN}min"
    return f"{value / 3600:.1f}{THIN}h" if size < 172_800 else f"{value / 86_400:.1f}{THIN}d"


def moment(value: float | None) -> str:
    """A moment on the drill's clock."""
    return NOTHING if value is None else f"{value:+.1f}{THIN}s".replace("-", "−")


def times(value: float | None) -> str:
    """A multiple: `17×`."""
    if value is None:
        return NOTHING
    if math.isinf(value):
        return "∞"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}×"


def count(value: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return NOTHING if value is None else f"{value:,.0f}".replace(",", THIN)


def rate(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}/s"


def size(value: float | None) -> str:
    return NOTHING if value is None else f"{value / 1e6:.1f}{THIN}MB"


def plain(value: float | None) -> str:
    """A number without a unit."""
    return NOTHING if value is None else f"{value:.4g}"


_BY_QUANTITY = {
    "success_rate": percent,
    "p50": seconds,
    "p95": seconds,
    "p99": seconds,
    "attempts_per_request": times,
    "budget_spent": times,
    "handshake_failures": count,
    "recovery_seconds": seconds,
    "time_to_recover": seconds,
    "peak_burn": times,
    "paged": percent,
    "metastable": percent,
    "M1": percent,
    "M2": seconds,
    "M3": count,
    "M4": percent,
    "M5": rate,
}
_BY_UNIT = {"ratio": percent, "seconds": seconds, "count": count, "per second": rate, "bytes": size}
QUANTITY_NAMES = {
    "success_rate": "success rate",
    "p50": "p50 latency",
    "p95": "p95 latency",
    "p99": "p99 latency",
    "attempts_per_request": "attempts per request",
    "budget_spent": "budget spent",
    "handshake_failures": "handshake failures",
    "recovery_seconds": "recovery time",
    "time_to_recover": "time to recover",
    "peak_burn": "peak burn rate",
    "paged": "paged, probability",
    "metastable": "stays broken, probability",
    "M1": "M1 success between services",
    "M2": "M2 p95 where load enters",
    "M3": "M3 handshake failures",
    "M4": "M4 retry rate",
    "M5": "M5 requests a second",
}


def quantity(name: str, value: float | None) -> str:
    """A value of one of the predicted or expected quantities."""
    return _BY_QUANTITY.get(name, seconds if name.startswith("time_to_") else plain)(value)


def stated(name: str, value: float) -> str:
    """A value of a quantity that a person wrote down."""
    return objective(value) if name == "success_rate" else quantity(name, value)


def comparison(op: str) -> str:
    return {"<=": "≤", ">=": "≥", "==": "="}.get(op, op)


def quantity_name(name: str) -> str:
    if name.startswith("time_to_page "):
        return f"time to page, {name.partition(' ')[2]}"
    return QUANTITY_NAMES.get(name, name.replace("_", " "))


def by_unit(unit: str, value: float | None) -> str:
    return _BY_UNIT.get(unit, plain)(value)


def span(name: str, low: float, high: float) -> str:
    """An interval of a quantity, the unit once: `79.2–86.0 %`."""
    if name == "success_rate":
        digits = max(_percent_digits(low), _percent_digits(high))
        return f"{low * 100:.{digits}f}–{high * 100:.{digits}f}{THIN}%"
    first, last = quantity(name, low), quantity(name, high)
    number, _, unit = first.partition(THIN)
    if low == 0 and THIN in last:
        return f"0–{last}"
    if unit and last.endswith(THIN + unit):
        return f"{number}–{last}"
    if first.endswith("×") and last.endswith("×"):
        return f"{first[:-1]}–{last}"
    return f"{first} – {last}"


def share(value: float | None) -> str:
    """A share of a whole that may be negative, to the percent."""
    return NOTHING if value is None else f"{value * 100:.0f}{THIN}%".replace("-", "−").replace("−0\u202f", "0\u202f")


def share_span(low: float, high: float) -> str:
    """An interval of such shares."""
    return f"{share(low).removesuffix(THIN + '%')} to {share(high)}"


def utc(at: float | None) -> str:
    """A Unix time for people."""
    return NOTHING if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: float | None) -> str | None:
    """A Unix time for machines (RFC 3339, milliseconds)."""
    if at is None:
        return None
    return datetime.fromtimestamp(round(at, 3), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def listing(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""
