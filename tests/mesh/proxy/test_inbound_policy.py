"""The decision about inbound requests and connections, and what it counts."""

from __future__ import annotations

import pytest

from mesh.api.messages import AuthorizationSpec, InboundPolicy, InboundRoute, NetworkSpec, RateLimitSpec
from mesh.behavior.authz import default_inbound_policy
from mesh.proxy.inbound.policy import PortPolicy
from mesh.proxy.metrics import Registry
from mesh.proxy.session import Session
from mesh.proxy.wire.errors import Refused
from mesh.proxy.wire.message import RequestHead

CART = "cart.shop.serviceaccount.identity.linkerd.cluster.local"
ANYONE = AuthorizationSpec(kind="authorizationpolicy", name="anyone", client="unauthenticated")
CARTS = AuthorizationSpec(kind="authorizationpolicy", name="carts", identities=(CART,))
INSIDE = AuthorizationSpec(
    kind="serverauthorization", name="inside", networks=(NetworkSpec(cidr="10.0.0.0/8"),), client="unauthenticated"
)


def session(identity: str | None = None, peer: str = "10.0.0.7:5000") -> Session:
    return Session(peer, "10.0.0.1:8080", identity=identity, tls=identity is not None)


def head(path: str = "/", method: str = "GET") -> RequestHead:
    made = RequestHead()
    made.method, made.path, made.authority = method, path.encode(), b"web"
    return made


def policy(*authorizations: AuthorizationSpec, version: int = 1, **fields) -> InboundPolicy:
    server = {"server_group": "policy.linkerd.io", "server_kind": "server", "server_name": "web"}
    return InboundPolicy(version=version, published_at=0.0, authorizations=authorizations, **{**server, **fields})


class Port:
    """A port's policy and its metrics."""

    def __init__(self, default_policy: str = "deny", *messages: InboundPolicy, **options) -> None:
        self.registry = Registry()
        self.policy = PortPolicy(default_policy, self.registry, **options)
        for message in messages:
            self.policy.apply(message)

    def ask(self, client: Session, path: str = "/", method: str = "GET", now: float = 0.0) -> Refused | None:
        return self.policy.check(client, head(path, method), now)

    def connect(self, client: Session) -> Refused | None:
        return self.policy.check(client, None, 0.0)

    def counted(self, name: str, **labels: str) -> float:
        """Sum of the series that have these labels."""
        total = 0.0
        for line in self.registry.render().decode().splitlines():
            if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total


@pytest.mark.parametrize(
    ("default", "plain", "meshed", "stranger"),
    [
        ("all-unauthenticated", None, None, None),
        ("all-authenticated", Refused.FORBIDDEN, None, Refused.FORBIDDEN),
        ("cluster-unauthenticated", None, None, Refused.FORBIDDEN),
        ("cluster-authenticated", Refused.FORBIDDEN, None, Refused.FORBIDDEN),
        ("deny", Refused.FORBIDDEN, Refused.FORBIDDEN, Refused.FORBIDDEN),
        ("audit", None, None, None),
    ],
)
def test_before_the_first_message_the_default_of_the_environment_holds(default: str, plain, meshed, stranger) -> None:
    port = Port(default)
    assert port.ask(session()) is plain
    assert port.ask(session(CART)) is meshed
    assert port.ask(session(peer="8.8.8.8:1")) is stranger
    assert port.connect(session()) is plain


def test_a_request_is_counted_with_server_route_authorization_and_client() -> None:
    port = Port("deny", policy(CARTS, INSIDE))
    assert port.ask(session(CART)) is None
    assert port.ask(session()) is None
    assert port.ask(session(peer="8.8.8.8:1")) is Refused.FORBIDDEN
    common = {"srv_group": "policy.linkerd.io", "srv_kind": "server", "srv_name": "web", "srv_port": "8080"}
    common |= {"route_kind": "default", "route_name": "default", "target_addr": "10.0.0.1:8080"}
    allow = "inbound_http_authz_allow_total"
    names = {"authz_group": "policy.linkerd.io", "authz_kind": "authorizationpolicy", "authz_name": "carts"}
    assert port.counted(allow, tls="true", client_id=CART, **names, **common) == 1
    assert port.counted(allow, tls="no_identity", authz_kind="serverauthorization", authz_name="inside", **common) == 1
    assert port.counted("inbound_http_authz_deny_total", tls="no_identity", **common) == 1
    assert port.counted(allow) == 2


def test_requests_of_one_connection_are_each_counted() -> None:
    port, client = Port("deny", policy(ANYONE)), session()
    for _ in range(3):
        assert port.ask(client) is None
    assert port.counted("inbound_http_authz_allow_total") == 3


def test_audit_lets_through_and_its_requests_bear_its_name() -> None:
    audit = default_inbound_policy("audit").authorizations[0]
    port = Port("deny", policy(CARTS, audit))
    assert port.ask(session(CART)) is None
    assert port.ask(session()) is None
    allow = "inbound_http_authz_allow_total"
    assert port.counted(allow, authz_kind="default", authz_name="audit") == 1
    assert port.counted(allow, authz_name="carts") == 1
    assert port.counted("inbound_http_authz_deny_total") == 0


def test_audited_and_denied_requests_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "proxy")
    Port("audit").ask(session(CART))
    Port("deny").ask(session())
    audited, denied = caplog.messages
    assert "audit" in audited
    assert CART in audited
    assert "denied" in denied
    assert "10.0.0.7" in denied


def test_a_name_beyond_the_verified_identity_does_not_help() -> None:
    port = Port("deny", policy(CARTS))
    for name in (CART + ".evil", "evil" + CART, CART.replace("cart.", "cart-"), "*"):
        assert port.ask(session(name)) is Refused.FORBIDDEN
    assert port.ask(Session("10.0.0.7:1", identity=CART, tls=False)) is Refused.FORBIDDEN


# ---- routes


PROBE = InboundRoute(
    name="probe",
    method="GET",
    path_exact="/healthz",
    authorizations=(AuthorizationSpec(kind="default", group="", name="probe", client="unauthenticated"),),
)


def test_a_probe_passes_where_everything_else_is_denied() -> None:
    port, kubelet = Port("deny", policy(routes=(PROBE, InboundRoute(name="default")))), session()
    assert port.ask(kubelet, "/healthz") is None
    assert port.ask(kubelet, "/healthz?verbose") is None
    assert port.ask(kubelet, "/") is Refused.FORBIDDEN
    assert port.ask(kubelet, "/healthz", "POST") is Refused.FORBIDDEN
    assert port.ask(kubelet, "/healthz/../admin") is Refused.FORBIDDEN
    assert port.counted("inbound_http_authz_allow_total", route_name="probe", authz_name="probe") == 2
    assert port.counted("inbound_http_authz_deny_total", route_name="default") == 3


def test_a_route_has_its_own_authorizations_and_the_servers() -> None:
    admin = InboundRoute(name="admin", kind="httproute", group="g", path_prefix="/admin", authorizations=(CARTS,))
    rest = InboundRoute(name="rest", kind="httproute", group="g", path_prefix="/")
    port, cart, insider = Port("deny", policy(INSIDE, routes=(admin, rest))), session(CART, "8.8.8.8:1"), session()
    assert port.ask(cart, "/admin/x") is None
    assert port.ask(cart, "/other") is Refused.FORBIDDEN
    assert port.ask(insider, "/admin") is None
    assert port.ask(insider, "/other") is None
    assert (
        port.counted("inbound_http_authz_deny_total", route_group="g", route_kind="httproute", route_name="rest") == 1
    )


def test_a_request_of_no_route_is_not_found_and_counted() -> None:
    only = InboundRoute(name="r", kind="httproute", path_exact="/known", authorizations=(ANYONE,))
    port, client = Port("deny", policy(ANYONE, routes=(only,))), session()
    assert port.ask(client, "/known") is None
    assert port.ask(client, "/unknown") is Refused.NO_ROUTE
    assert port.ask(client, "/unknown") is Refused.NO_ROUTE
    assert port.counted("inbound_http_route_not_found_total", srv_name="web") == 2
    assert port.counted("inbound_http_authz_deny_total") == 0


# ---- changes


def test_a_change_holds_for_the_next_request_of_an_open_connection() -> None:
    port, client = Port("deny", policy(ANYONE)), session()
    assert port.ask(client) is None
    port.policy.apply(policy(CARTS, version=2))
    assert port.ask(client) is Refused.FORBIDDEN
    port.policy.apply(policy(ANYONE, version=3))
    assert port.ask(client) is None


def test_the_same_policy_told_again_is_no_change() -> None:
    port = Port("deny", policy(ANYONE))
    told: list[int] = []
    port.policy.on_change(lambda: told.append(port.policy.generation))
    port.policy.apply(policy(ANYONE, version=9))
    assert told == []
    port.policy.apply(policy(CARTS, version=10))
    assert told == [2]


def test_a_policy_that_cannot_be_used_leaves_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    port = Port("deny", policy(ANYONE))
    wrong = AuthorizationSpec(kind="k", name="n", networks=(NetworkSpec(cidr="ten"),), client="unauthenticated")
    port.policy.apply(policy(wrong, version=2))
    port.policy.apply(policy(routes=(InboundRoute(name="r", path_regex="("),), version=3))
    assert port.policy.generation == 1
    assert port.ask(session()) is None
    assert len(caplog.messages) == 2


# ---- opaque connections


def test_a_connection_is_counted_once_however_often_it_is_checked() -> None:
    port, client = Port("deny", policy(ANYONE, protocol="opaque")), session()
    assert port.connect(client) is None
    assert port.connect(client) is None
    port.policy.apply(policy(ANYONE, CARTS, version=2, protocol="opaque"))
    assert port.connect(client) is None
    assert port.counted("inbound_tcp_authz_allow_total", authz_name="anyone", srv_name="web") == 1


def test_a_refused_connection_is_denied_and_an_open_one_is_terminated() -> None:
    port, client = Port("deny", policy(ANYONE)), session()
    ended: list[Refused | None] = []
    assert port.connect(client) is None
    port.policy.on_change(lambda: ended.append(port.connect(client)))
    port.policy.apply(policy(CARTS, version=2))
    assert ended == [Refused.FORBIDDEN]
    assert port.connect(session()) is Refused.FORBIDDEN
    assert port.counted("inbound_tcp_authz_terminate_total", srv_name="web", tls="no_identity") == 1
    assert port.counted("inbound_tcp_authz_deny_total", srv_name="web") == 1


@pytest.mark.parametrize(
    ("protocol", "connection", "request_"),
    [
        ("detect", None, None),
        ("http1", Refused.FORBIDDEN, None),
        ("http2", Refused.FORBIDDEN, None),
        ("grpc", Refused.FORBIDDEN, None),
        ("opaque", None, Refused.NO_ROUTE),
        ("tls", None, Refused.NO_ROUTE),
    ],
)
def test_a_port_is_open_for_what_its_protocol_says(protocol: str, connection, request_) -> None:
    port = Port("deny", policy(ANYONE, protocol=protocol))
    assert port.policy.protocol == protocol
    assert port.connect(session()) is connection
    assert port.ask(session()) is request_


# ---- rate limits


LIMIT = RateLimitSpec(name="calm", total=3, identity=2)


def test_requests_over_the_limit_are_refused_and_counted_by_scope() -> None:
    port, client, other = Port("deny", policy(ANYONE, rate_limit=LIMIT)), session(CART), session()
    assert [port.ask(client) for _ in range(3)] == [None, None, Refused.RATE_LIMITED]
    assert port.ask(other) is Refused.RATE_LIMITED
    labels = {"ratelimit_kind": "HTTPLocalRateLimitPolicy", "ratelimit_name": "calm", "srv_name": "web"}
    assert port.counted("inbound_http_local_ratelimit_total", ratelimit_scope="identity", client_id=CART, **labels) == 1
    assert port.counted("inbound_http_local_ratelimit_total", ratelimit_scope="total", **labels) == 1
    assert port.ask(client, now=1.0) is None


def test_who_is_denied_spends_nothing_of_the_limit() -> None:
    port = Port("deny", policy(CARTS, rate_limit=LIMIT))
    for _ in range(5):
        assert port.ask(session()) is Refused.FORBIDDEN
    assert port.ask(session(CART)) is None


def test_a_change_elsewhere_in_the_policy_does_not_refill_the_buckets() -> None:
    port, client = Port("deny", policy(ANYONE, rate_limit=LIMIT)), session(CART)
    assert [port.ask(client) for _ in range(2)] == [None, None]
    port.policy.apply(policy(ANYONE, CARTS, version=2, rate_limit=LIMIT))
    assert port.ask(client) is Refused.RATE_LIMITED
    port.policy.apply(policy(ANYONE, version=3))
    assert port.ask(client) is None


# ---- other


def test_without_identity_the_tls_label_says_so() -> None:
    port = Port("all-unauthenticated", identity_enabled=False)
    port.ask(session())
    assert port.counted("inbound_http_authz_allow_total", tls="disabled", authz_name="all-unauthenticated") == 1


def test_cluster_networks_come_from_the_environment() -> None:
    port = Port("cluster-unauthenticated", cluster_networks=["8.8.8.0/24"])
    assert port.ask(session(peer="8.8.8.8:1")) is None
    assert port.ask(session()) is Refused.FORBIDDEN
