"""Policy in annotations: `retry.linkerd.io/*`, `timeout.linkerd.io/*`, `balancer.linkerd.io/failure-accrual*` and
`balancer.alpha.linkerd.io/*`.

Each group is read whole. One wrong value spoils its group, as in Linkerd's policy controller: `InvalidAnnotation` says
which, and the caller decides what goes without (the group of a Service, the whole of an HTTPRoute).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.messages import FailureAccrualSpec, LoadBiasSpec, RetrySpec, SuccessRateSpec, TimeoutSpec

RETRY_HTTP = "retry.linkerd.io/http"
RETRY_GRPC = "retry.linkerd.io/grpc"
RETRY_LIMIT = "retry.linkerd.io/limit"
RETRY_TIMEOUT = "retry.linkerd.io/timeout"
TIMEOUT_REQUEST = "timeout.linkerd.io/request"
TIMEOUT_RESPONSE = "timeout.linkerd.io/response"
TIMEOUT_IDLE = "timeout.linkerd.io/idle"
ACCRUAL = "balancer.linkerd.io/failure-accrual"
ACCRUAL_MAX_FAILURES = f"{ACCRUAL}-consecutive-max-failures"
ACCRUAL_MIN_PENALTY = f"{ACCRUAL}-consecutive-min-penalty"
ACCRUAL_MAX_PENALTY = f"{ACCRUAL}-consecutive-max-penalty"
ACCRUAL_JITTER = f"{ACCRUAL}-consecutive-jitter-ratio"
_ALPHA = "balancer.alpha.linkerd.io"
SUCCESS_THRESHOLD = f"{_ALPHA}/failure-accrual-success-rate-threshold"
SUCCESS_WINDOW = f"{_ALPHA}/failure-accrual-success-rate-window"
SUCCESS_MIN_REQUESTS = f"{_ALPHA}/failure-accrual-success-rate-min-requests"
HONOR_RETRY_AFTER = f"{_ALPHA}/failure-accrual-honor-retry-after"
PENALIZE_FAILURES = f"{_ALPHA}/penalize-failures"
BIAS_PENALTY = f"{_ALPHA}/load-biaser-penalty"
BIAS_MAX_RETRY_AFTER = f"{_ALPHA}/load-biaser-max-retry-after"

POLICY_PREFIXES = ("retry.linkerd.io/", "timeout.linkerd.io/", "balancer.linkerd.io/", f"{_ALPHA}/")
KNOWN = frozenset(
    {
        RETRY_HTTP,
        RETRY_GRPC,
        RETRY_LIMIT,
        RETRY_TIMEOUT,
        TIMEOUT_REQUEST,
        TIMEOUT_RESPONSE,
        TIMEOUT_IDLE,
        ACCRUAL,
        ACCRUAL_MAX_FAILURES,
        ACCRUAL_MIN_PENALTY,
        ACCRUAL_MAX_PENALTY,
        ACCRUAL_JITTER,
        SUCCESS_THRESHOLD,
        SUCCESS_WINDOW,
        SUCCESS_MIN_REQUESTS,
        HONOR_RETRY_AFTER,
        PENALIZE_FAILURES,
        BIAS_PENALTY,
        BIAS_MAX_RETRY_AFTER,
    }
)
ONLY_UNIFIED = frozenset({SUCCESS_THRESHOLD, SUCCESS_WINDOW, SUCCESS_MIN_REQUESTS})
_GRPC_CODES = {
    "cancelled": 1,
    "deadline-exceeded": 4,
    "resource-exhausted": 8,
    "internal": 13,
    "unavailable": 14,
}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""As Go's strconv.ParseBool."""
MIN_SUCCESS_WINDOW_SECONDS = 0.010
MAX_SUCCESS_MIN_REQUESTS = 1_000_000
_NAMED_STATUSES = {"5xx": (500, 599), "gateway-error": (502, 504)}
MAX_RETRY_LIMIT = 65_535


class InvalidAnnotation(ValueError):
    """The value of `name` cannot be used; the message says what it may be."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def parse_retry(annotations: Mapping[str, str], kind: str = "both") -> RetrySpec | None:
    """Annotation retries, or None where no annotation asks for any.

    `kind`: `http` (an HTTPRoute: statuses), `grpc` (a GRPCRoute: codes) or `both` (a Service's own route). A limit or
    timeout alone retries no answer, only what is always retryable (fail-fast, response timeout, refused stream). A
    limit of zero counts as not given, as in Linkerd.
    """
    limit = _whole_number(annotations, RETRY_LIMIT, MAX_RETRY_LIMIT)
    timeout = _duration(annotations, RETRY_TIMEOUT)
    statuses = _statuses(annotations[RETRY_HTTP]) if RETRY_HTTP in annotations and kind != "grpc" else None
    codes = _grpc_codes(annotations[RETRY_GRPC]) if RETRY_GRPC in annotations and kind != "http" else None
    if not limit and not timeout and statuses is None and codes is None:
        return None
    return RetrySpec(statuses=statuses or (), grpc_codes=codes or (), limit=limit or 1, timeout_seconds=timeout or None)


def parse_timeouts(annotations: Mapping[str, str]) -> TimeoutSpec:
    """Timeouts; zero means none."""
    return TimeoutSpec(
        request_seconds=_duration(annotations, TIMEOUT_REQUEST) or None,
        response_seconds=_duration(annotations, TIMEOUT_RESPONSE) or None,
        idle_seconds=_duration(annotations, TIMEOUT_IDLE) or None,
    )


def parse_failure_accrual(annotations: Mapping[str, str]) -> FailureAccrualSpec | None:
    """The breaker, or None where it is off (the default)."""
    mode = annotations.get(ACCRUAL)
    if mode is None:
        return None
    if mode not in ("consecutive", "unified"):
        known = ("consecutive", "unified")
        raise InvalidAnnotation(
            ACCRUAL, f"failure accrual mode {mode!r} is neither consecutive nor unified" + suggestion(mode, known)
        )
    defaults = FailureAccrualSpec()
    max_failures = _whole_number(annotations, ACCRUAL_MAX_FAILURES, 2**32 - 1)
    if max_failures == 0 and mode == "consecutive":
        raise InvalidAnnotation(ACCRUAL_MAX_FAILURES, "must be at least 1")
    min_penalty = _duration(annotations, ACCRUAL_MIN_PENALTY)
    max_penalty = _duration(annotations, ACCRUAL_MAX_PENALTY)
    spec = FailureAccrualSpec(
        max_failures=defaults.max_failures if max_failures is None else max_failures,
        min_penalty_seconds=defaults.min_penalty_seconds if min_penalty is None else min_penalty,
        max_penalty_seconds=defaults.max_penalty_seconds if max_penalty is None else max_penalty,
        jitter_ratio=_ratio(annotations, ACCRUAL_JITTER, defaults.jitter_ratio, 100.0),  # linkerd2-proxy's bound
        success_rate=_success_rate(annotations) if mode == "unified" else None,
        honor_retry_after=_boolean(annotations, HONOR_RETRY_AFTER),
    )
    if spec.min_penalty_seconds <= 0:
        raise InvalidAnnotation(ACCRUAL_MIN_PENALTY, "the smallest penalty must be longer than zero")
    if spec.min_penalty_seconds > spec.max_penalty_seconds:
        name = ACCRUAL_MIN_PENALTY if min_penalty is not None else ACCRUAL_MAX_PENALTY
        raise InvalidAnnotation(
            name,
            f"the least penalty ({spec.min_penalty_seconds:g} s) exceeds the largest ({spec.max_penalty_seconds:g} s)",
        )
    return spec


def parse_load_bias(annotations: Mapping[str, str]) -> LoadBiasSpec | None:
    """The penalty for failures and busy servers, or None where it is off (the default)."""
    if not _boolean(annotations, PENALIZE_FAILURES):
        return None
    defaults = LoadBiasSpec()
    penalty = _duration(annotations, BIAS_PENALTY)
    ceiling = _duration(annotations, BIAS_MAX_RETRY_AFTER)
    return LoadBiasSpec(
        penalty_seconds=defaults.penalty_seconds if penalty is None else penalty,
        max_retry_after_seconds=defaults.max_retry_after_seconds if ceiling is None else ceiling,
    )


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def _statuses(text: str) -> tuple[tuple[int, int], ...]:
    return tuple(_status_range(part.strip()) for part in text.split(","))


def _status_range(part: str) -> tuple[int, int]:
    if part in _NAMED_STATUSES:
        return _NAMED_STATUSES[part]
    low, dash, high = part.partition("-")
    bounds = (low, high if dash else low)
    if not all(b.isascii() and b.isdigit() and 100 <= int(b) <= 599 for b in bounds) or int(bounds[0]) > int(bounds[1]):
        raise InvalidAnnotation(
            RETRY_HTTP,
            f"{part!r} is not a status, a range such as 500-504, 5xx or gateway-error"
            + suggestion(part, _NAMED_STATUSES),
        )
    return int(bounds[0]), int(bounds[1])


def _duration(annotations: Mapping[str, str], name: str) -> float | None:
    text = annotations.get(name)
    if text is None:
        return None
    try:
        return parse_duration(text)
    except InvalidDuration as error:
        raise InvalidAnnotation(name, str(error)) from None


def _whole_number(annotations: Mapping[str, str], name: str, maximum: int) -> int | None:
    text = annotations.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= maximum):
        raise InvalidAnnotation(name, f"{text!r} is not a whole number from 0 to {maximum}")
    return int(text)


def _ratio(annotations: Mapping[str, str], name: str, default: float, maximum: float) -> float:
    text = annotations.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= maximum:  # also refuses nan
        raise InvalidAnnotation(name, f"{text!r} is not a ratio from 0.0 to {maximum}")
    return value


def _boolean(annotations: Mapping[str, str], name: str) -> bool:
    text = annotations.get(name, "false").strip()
    if text not in _TRUE | _FALSE:
        raise InvalidAnnotation(name, f"{text!r} is neither true nor false")
    return text in _TRUE


def _success_rate(annotations: Mapping[str, str]) -> SuccessRateSpec:
    defaults = SuccessRateSpec()
    window = _duration(annotations, SUCCESS_WINDOW)
    requests = _whole_number(annotations, SUCCESS_MIN_REQUESTS, MAX_SUCCESS_MIN_REQUESTS)
    if window is not None and window < MIN_SUCCESS_WINDOW_SECONDS:
        raise InvalidAnnotation(SUCCESS_WINDOW, "the window must be at least 10ms")
    return SuccessRateSpec(
        threshold=_ratio(annotations, SUCCESS_THRESHOLD, defaults.threshold, 1.0),
        window_seconds=defaults.window_seconds if window is None else window,
        min_requests=defaults.min_requests if requests is None else requests,
    )


def _grpc_codes(text: str) -> tuple[int, ...]:
    codes: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        if part not in _GRPC_CODES:
            known = ", ".join(_GRPC_CODES)
            raise InvalidAnnotation(RETRY_GRPC, f"{part!r} is not one of {known}" + suggestion(part, _GRPC_CODES))
        codes.append(_GRPC_CODES[part])
    return tuple(codes)
