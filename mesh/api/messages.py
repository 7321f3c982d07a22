"""What the control plane and the proxy say to each other, one JSON object a line.

A watch answers with a stream of these messages. The first of a kind is a full snapshot; for endpoints, changes follow;
profiles and policies are small and are always sent whole. Every message carries `version`, which grows by one with each
change that its server saw in its registry, and `published_at`, the wall-clock second of that change, so that a
proxy can measure how long configuration takes to reach it (M8 in the guide).

All messages are one file: it is the whole vocabulary of a protocol, and both ends read it from top to bottom.

The twin builds its proxies from the same objects: a policy is read once, in `mesh.control`, and never typed again.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", rename="camel", omit_defaults=True):
    """Base of everything a watch sends."""

    version: int
    published_at: float
    """Unix seconds at which the server saw the change."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One pod behind a service."""

    address: str
    """`ip:port` that a client proxy dials: the app's, or its inbound proxy's own where nothing redirects to it."""
    pod: str
    namespace: str
    identity: str | None = None
    """TLS name of the pod; None where it is not meshed, and then the connection is plaintext."""
    weight: int = 10_000
    opaque: bool = False
    """The pod's port is opaque: between proxies its bytes go in a transport header's connection, not in HTTP/2."""
    port: int = 0
    """The app's port behind an inbound proxy (transport header's `port`); 0 where `address` is the app itself."""


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
    also_paths: tuple[str, ...] = ()
    """Expressions that the path must match as well, each of them."""
    not_paths: tuple[str, ...] = ()
    """Expressions none of which the path may match."""
    is_retryable: bool = False
    timeout_seconds: float | None = None
    response_classes: tuple[ResponseClass, ...] = ()


class DstOverride(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A share of an authority's requests that goes to another one (`dstOverrides`, TrafficSplit)."""

    authority: str
    weight: int
    """In thousandths."""


class Profile(Message, frozen=True, kw_only=True, tag="profile"):
    """The ServiceProfile of an authority, or its absence (`exists` false, no routes)."""

    authority: str
    exists: bool
    routes: tuple[ProfileRoute, ...] = ()
    retry_budget: RetryBudgetSpec | None = None
    """Set when a profile exists; retries of all its routes draw on it."""
    dst_overrides: tuple[DstOverride, ...] = ()
    """Empty: the authority itself."""
    opaque: bool = False
    """The profile's `opaquePorts` name the authority's port."""


class RetrySpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Annotation retries (`retry.linkerd.io/*`): a limit for each request and no budget."""

    statuses: tuple[tuple[int, int], ...]
    """Inclusive ranges that are retried."""
    grpc_codes: tuple[int, ...] = ()
    """gRPC codes that are retried."""
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


class SuccessRateSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The second trip condition of `failure-accrual: unified`; a threshold of 0 switches it off."""

    threshold: float = 0.8
    window_seconds: float = 10.0
    """Decay of the moving average, as in linkerd2-proxy; not a sliding window."""
    min_requests: int = 5


class FailureAccrualSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`balancer.linkerd.io/failure-accrual: consecutive` or `unified`, with Linkerd's defaults."""

    max_failures: int = 7
    """0 (only in `unified`): failures in a row never trip it."""
    min_penalty_seconds: float = 1.0
    max_penalty_seconds: float = 60.0
    jitter_ratio: float = 0.5
    success_rate: SuccessRateSpec | None = None
    """Set in `unified`."""
    honor_retry_after: bool = False
    """Whether the first penalty is at least what a rate-limited answer asked for, up to the largest."""


class LoadBiasSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`balancer.alpha.linkerd.io/penalize-failures`: a rate-limited or failed answer counts as one this slow."""

    penalty_seconds: float = 5.0
    max_retry_after_seconds: float = 300.0


class QueueSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The request queue in front of a balancer, as Linkerd's policy controller sends it."""

    capacity: int = 100
    failfast_seconds: float = 3.0


class ValueMatch(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A header (name in lower case) or query parameter; `value` is exact, or an expression for the whole of it."""

    name: str
    value: str
    regex: bool = False


class HeaderChange(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A header modifier; names in lower case. Applied in the order set, add, remove."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class PathChange(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Replaces the whole path, or (`prefix` given) the matched prefix."""

    value: str
    prefix: str | None = None


class RedirectSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """RequestRedirect: what is None stays as it was in the request."""

    status: int = 302
    scheme: str | None = None
    hostname: str | None = None
    port: int | None = None
    path: PathChange | None = None


class RewriteSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """URLRewrite."""

    hostname: str | None = None
    path: PathChange | None = None


class MirrorSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """RequestMirror: a copy of a share of the requests, whose answers nobody sees."""

    authority: str
    percent: float = 100.0


class FailureSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A share of the requests that the proxy answers itself with `status` (Linkerd's HTTPFailureInjector)."""

    status: int
    percent: float = 100.0


class FiltersSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a route or one of its backends does to requests and responses."""

    request_headers: HeaderChange | None = None
    response_headers: HeaderChange | None = None
    redirect: RedirectSpec | None = None
    rewrite: RewriteSpec | None = None
    mirrors: tuple[MirrorSpec, ...] = ()
    failure: FailureSpec | None = None


class BackendSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One of a route's backends. Without authority it cannot be used (no such Service, wrong kind, no port): its share
    of the requests is answered 500, as the Gateway API says."""

    authority: str = ""
    weight: int = 1
    filters: FiltersSpec | None = None


class HttpRouteSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A route of the outbound policy: one match of an HTTPRoute's or GRPCRoute's rule for one of its hostnames, or the
    service's own default route. Conditions of one kind are alternatives, except headers and query parameters, which
    must all match."""

    name: str
    namespace: str = ""
    kind: str = "http"
    """`http` or `grpc` (a GRPCRoute: paths are `/service/method`)."""
    hostname: str = ""
    """Exact, or `*.suffix`; empty matches any."""
    methods: tuple[str, ...] = ()
    path_prefixes: tuple[str, ...] = ()
    path_exact: tuple[str, ...] = ()
    path_regexes: tuple[str, ...] = ()
    headers: tuple[ValueMatch, ...] = ()
    query_params: tuple[ValueMatch, ...] = ()
    filters: FiltersSpec | None = None
    backends: tuple[BackendSpec, ...] = ()
    """Empty: the authority itself."""
    retry: RetrySpec | None = None
    timeouts: TimeoutSpec = TimeoutSpec()


class OutboundPolicy(Message, frozen=True, kw_only=True, tag="outbound-policy"):
    """How a client proxy treats an authority when no ServiceProfile exists (and its queue, either way)."""

    authority: str
    exists: bool
    routes: tuple[HttpRouteSpec, ...] = ()
    """Most specific first; where no HTTPRoute or GRPCRoute names the authority, one default route that matches
    everything. A request that none matches is answered 404."""
    failure_accrual: FailureAccrualSpec | None = None
    load_bias: LoadBiasSpec | None = None
    queue: QueueSpec = QueueSpec()
    protocol: str = "detect"
    """`detect`, `http1`, `http2` or `opaque`: what the Service says of the port, so that nobody needs to detect it."""
    egress: str = ""
    """For an address outside the cluster that an EgressNetwork covers: `allow` or `deny`."""


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Addresses within `cidr` and outside of every `except`."""

    cidr: str
    except_: tuple[str, ...] = msgspec.field(name="except", default=())


ANY_NETWORK = (NetworkSpec(cidr="0.0.0.0/0"), NetworkSpec(cidr="::/0"))


class AuthorizationSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One way in: clients from one of `networks` who are what `client` says. `kind` and `name` say who granted it."""

    kind: str
    name: str
    group: str = "policy.linkerd.io"
    """Empty with kind `default`, as in Linkerd's labels."""
    networks: tuple[NetworkSpec, ...] = ANY_NETWORK
    client: Literal["unauthenticated", "mesh-tls", "identities"] = "identities"
    """Anyone; anyone over mesh TLS, with or without an identity; one of `identities`."""
    identities: tuple[str, ...] = ()
    """A full name, `*` for all names, or `*.` and a suffix of whole labels."""


class InboundRoute(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One match of one rule of an HTTPRoute whose parent is the Server; what is empty matches anything."""

    name: str
    kind: str = "default"
    group: str = ""
    hostname: str = ""
    """Exact, or `*.suffix`."""
    method: str = ""
    path_exact: str = ""
    path_prefix: str = ""
    path_regex: str = ""
    headers: tuple[ValueMatch, ...] = ()
    query_params: tuple[ValueMatch, ...] = ()
    authorizations: tuple[AuthorizationSpec, ...] = ()
    """The route's own; those of the whole port hold for it as well."""


class RateLimitOverride(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Clients of these identities share `requests_per_second`, and the limit per identity is not for them."""

    requests_per_second: int
    identities: tuple[str, ...]


class RateLimitSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An HTTPLocalRateLimitPolicy; None: no such limit."""

    name: str
    total: int | None = None
    identity: int | None = None
    overrides: tuple[RateLimitOverride, ...] = ()


class InboundPolicy(Message, frozen=True, kw_only=True, tag="inbound-policy"):
    """Who may call one port of a workload, and how it is spoken to. Nobody may whom nothing in here lets in."""

    server_kind: str = "default"
    server_name: str = "deny"
    """The Server that selects the port; where none does, the default policy's name."""
    server_group: str = ""
    protocol: Literal["detect", "http1", "http2", "grpc", "opaque", "tls"] = "detect"
    detect_timeout_seconds: float = 10.0
    authorizations: tuple[AuthorizationSpec, ...] = ()
    """For the whole port, in the order in which they are tried."""
    routes: tuple[InboundRoute, ...] = ()
    """Most specific first; empty: one route, `default`, that matches everything. A request of no route gets a 404."""
    rate_limit: RateLimitSpec | None = None

    @property
    def default_policy(self) -> str:
        """The default policy's name where it is in force, else an empty text."""
        return self.server_name if self.server_kind == "default" else ""


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
