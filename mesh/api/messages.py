"""What the control plane and the proxy say to each other, one JSON object a line.

A watch answers with a stream of these messages. The first of a kind is a full snapshot; for endpoints, changes follow;
profiles and policies are small and are always sent whole. Every message carries `version`, which grows by one with each
change that its server saw in its registry, and `published_at`, the wall-clock second of that change, so that a
proxy can measure how long configuration takes to reach it (M8 in the guide).

The twin builds its proxies from the same objects: a policy is read once, in `mesh.control`, and never typed again.
"""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", rename="camel", omit_defaults=True):
    """Base of everything a watch sends."""

    version: int
    published_at: float
    """Unix seconds at which the server saw the change."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One pod behind a service."""

    address: str
    """`ip:port` that a client proxy dials: the inbound proxy where the pod is meshed, else the app."""
    pod: str
    namespace: str
    identity: str | None = None
    """TLS name of the pod; None where it is not meshed, and then the connection is plaintext."""
    weight: int = 10_000


class Endpoints(Message, frozen=True, kw_only=True, tag="endpoints"):
    """All endpoints of an authority. An empty list is an answer: the service exists and has no ready pod."""

    endpoints: tuple[Endpoint, ...] = ()


class EndpointsChange(Message, frozen=True, kw_only=True, tag="endpoints-change"):
    """What came and went since the message before it."""

    add: tuple[Endpoint, ...] = ()
    remove: tuple[str, ...] = ()
    """Addresses."""


class NotFound(Message, frozen=True, kw_only=True, tag="not-found"):
    """The registry knows no such service: the proxy forwards to the original destination where there is one."""

    authority: str = ""


class RetryBudgetSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A ServiceProfile's `retryBudget`; Linkerd's defaults."""

    retry_ratio: float = 0.2
    min_retries_per_second: int = 10
    ttl_seconds: float = 10.0


class ResponseClass(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Statuses `min`..`max` (inclusive) count as failures or not, first match wins."""

    min: int
    max: int
    is_failure: bool


class ProfileRoute(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One route of a ServiceProfile. `methods` and `path_regexes` are alternatives; empty matches anything."""

    name: str
    methods: tuple[str, ...] = ()
    path_regexes: tuple[str, ...] = ()
    is_retryable: bool = False
    timeout_seconds: float | None = None
    response_classes: tuple[ResponseClass, ...] = ()


class Profile(Message, frozen=True, kw_only=True, tag="profile"):
    """The ServiceProfile of an authority, or its absence (`exists` false, no routes)."""

    authority: str
    exists: bool
    routes: tuple[ProfileRoute, ...] = ()
    retry_budget: RetryBudgetSpec | None = None
    """Set when a profile exists; retries of all its routes draw on it."""


class RetrySpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Annotation retries (`retry.linkerd.io/*`): a limit for each request and no budget."""

    statuses: tuple[tuple[int, int], ...]
    """Inclusive ranges that are retried."""
    limit: int = 1
    timeout_seconds: float | None = None
    """For each try; does not apply to the last one."""
    backoff_min_seconds: float = 0.025
    backoff_max_seconds: float = 0.250
    backoff_jitter: float = 1.0


class TimeoutSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`timeout.linkerd.io/*`, seconds; None means no limit."""

    request_seconds: float | None = None
    response_seconds: float | None = None
    idle_seconds: float | None = None


class FailureAccrualSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`balancer.linkerd.io/failure-accrual: consecutive`, with Linkerd's defaults."""

    max_failures: int = 7
    min_penalty_seconds: float = 1.0
    max_penalty_seconds: float = 60.0
    jitter_ratio: float = 0.5


class QueueSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The request queue in front of a balancer, as Linkerd's policy controller sends it."""

    capacity: int = 100
    failfast_seconds: float = 3.0


class HttpRouteSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A route of the outbound policy: an HTTPRoute's rule, or the service's own default route."""

    name: str
    methods: tuple[str, ...] = ()
    path_prefixes: tuple[str, ...] = ()
    path_exact: tuple[str, ...] = ()
    path_regexes: tuple[str, ...] = ()
    retry: RetrySpec | None = None
    timeouts: TimeoutSpec = TimeoutSpec()


class OutboundPolicy(Message, frozen=True, kw_only=True, tag="outbound-policy"):
    """How a client proxy treats an authority when no ServiceProfile exists (and its queue, either way)."""

    authority: str
    exists: bool
    routes: tuple[HttpRouteSpec, ...] = ()
    """Most specific first; the last one matches everything."""
    failure_accrual: FailureAccrualSpec | None = None
    queue: QueueSpec = QueueSpec()


class InboundPolicy(Message, frozen=True, kw_only=True, tag="inbound-policy"):
    """Who may call a workload's port."""

    default_policy: str = "all-unauthenticated"


WatchMessage = Endpoints | EndpointsChange | NotFound | Profile | OutboundPolicy | InboundPolicy


class CertifyRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Asks for a leaf. `csr` is PEM with exactly one DNS name, equal to `identity`."""

    identity: str
    token: str
    csr: str


class CertifyResponse(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A leaf and its chain in PEM, and the Unix second at which the leaf expires."""

    leaf: str
    intermediates: tuple[str, ...]
    valid_until: float


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[WatchMessage] = msgspec.json.Decoder(WatchMessage)


def encode_line(message: WatchMessage) -> bytes:
    """`message` as one line of JSON, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_line(line: bytes | memoryview) -> WatchMessage:
    """The message in `line`.

    Raises:
        msgspec.DecodeError: not JSON, or JSON of another shape.
    """
    return _decoder.decode(line)
