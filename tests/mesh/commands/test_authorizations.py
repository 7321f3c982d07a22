"""`authz`: policies joined with what proxies counted between two scrapes."""

from __future__ import annotations

from mesh.api.messages import AuthorizationSpec, InboundPolicy, InboundRoute
from mesh.commands.authorizations import Row, rows, scraped
from mesh.viz.exposition import Exposition

CLIENTS = AuthorizationSpec(kind="AuthorizationPolicy", name="clients")
PROBES = AuthorizationSpec(kind="default", name="probe", group="")
POLICY = InboundPolicy(
    version=1,
    published_at=0.0,
    server_kind="Server",
    server_name="web-http",
    authorizations=(CLIENTS,),
    routes=(InboundRoute(name="probe", authorizations=(PROBES,)), InboundRoute(name="books", kind="HTTPRoute")),
)
SERVER = 'srv_group="policy.linkerd.io",srv_kind="Server",srv_name="web-http",srv_port="4143"'
TARGET = 'target_addr="10.1.1.1:8080",tls="true",client_id="c"'


def scrape(allowed: float, denied: float, good: float, bad: float, fast: float, *, target: str = TARGET) -> Exposition:
    route = 'route_group="",route_kind="HTTPRoute",route_name="books"'
    authz = 'authz_group="policy.linkerd.io",authz_kind="AuthorizationPolicy",authz_name="clients"'
    inbound = f'direction="inbound",{target}'
    return scraped(
        f"inbound_http_authz_allow_total{{{SERVER},{route},{authz},{target}}} {allowed}\n"
        f"inbound_http_authz_deny_total{{{SERVER},{route},{target}}} {denied}\n"
        f'response_total{{{inbound},classification="success",status_code="200"}} {good}\n'
        f'response_total{{{inbound},classification="failure",status_code="500"}} {bad}\n'
        f'response_latency_ms_bucket{{{inbound},status_code="200",le="1"}} {fast}\n'
        f'response_latency_ms_bucket{{{inbound},status_code="200",le="10"}} {good + bad}\n'
        f'response_latency_ms_bucket{{{inbound},status_code="200",le="+Inf"}} {good + bad}\n'
    )


def test_without_a_window_the_policies_alone_are_listed() -> None:
    assert rows([POLICY, POLICY], [], 0.0) == [
        Row("books", "web-http", "authorizationpolicy/clients"),
        Row("probe", "web-http", "authorizationpolicy/clients"),
        Row("probe", "web-http", "default/probe"),
    ]


def test_rates_are_gains_over_the_window() -> None:
    found = rows([POLICY], [(scrape(100, 4, 90, 10, 50), scrape(150, 9, 130, 20, 75))], 5.0)
    by_key = {(row.route, row.authorization): row for row in found}
    let_in = by_key["books", "authorizationpolicy/clients"]
    assert (let_in.rps, let_in.success) == (10.0, 0.8)
    assert let_in.latency_p50_ms == 1.0
    refused = by_key["books", None]
    assert refused.unauthorized == 1.0
    assert (refused.rps, refused.success) == (0.0, None)
    assert by_key["probe", "default/probe"].rps == 0.0


def test_a_proxy_that_restarted_counts_from_zero() -> None:
    found = rows([POLICY], [(scrape(100, 0, 100, 0, 0), scrape(20, 0, 20, 0, 0))], 10.0)
    assert {row.rps for row in found} == {2.0, 0.0}


def test_several_pods_are_added_up() -> None:
    one = (scrape(0, 0, 0, 0, 0), scrape(10, 0, 10, 0, 10))
    other = (scrape(0, 0, 0, 0, 0), scrape(30, 0, 0, 30, 0))
    found = rows([POLICY, POLICY], [one, other], 10.0)
    (row,) = [row for row in found if row.rps]
    assert (row.rps, row.success) == (4.0, 0.25)


def test_a_proxy_of_one_port_may_be_dialled_at_another() -> None:
    def dialled(found: Exposition) -> Exposition:
        values = {
            (name, text.replace("8080", "4143") if "authz" in name else text): value
            for (name, text), value in found.values.items()
        }
        return Exposition(values=values, histograms=found.histograms)

    before, after = dialled(scrape(0, 0, 0, 0, 0)), dialled(scrape(10, 0, 9, 1, 10))
    (row,) = [row for row in rows([POLICY], [(before, after)], 5.0) if row.rps]
    assert row.success == 0.9


def test_success_is_left_open_where_two_authorizations_share_a_port() -> None:
    before, after = scrape(0, 0, 0, 0, 0), scrape(10, 0, 10, 0, 10)
    other = {
        (name, text.replace('authz_name="clients"', 'authz_name="admins"')): value
        for (name, text), value in after.values.items()
        if name == "inbound_http_authz_allow_total"
    }
    after.values.update(other)
    found = rows([POLICY], [(before, after)], 5.0)
    assert [(row.authorization, row.rps, row.success) for row in found if row.rps] == [
        ("authorizationpolicy/admins", 2.0, None),
        ("authorizationpolicy/clients", 2.0, None),
    ]


def test_the_default_policy_is_a_server_of_its_own() -> None:
    open_to_all = InboundPolicy(
        version=1,
        published_at=0.0,
        server_name="all-unauthenticated",
        authorizations=(AuthorizationSpec(kind="default", name="all-unauthenticated", group=""),),
    )
    assert rows([open_to_all], [], 0.0) == [
        Row("default", "default:all-unauthenticated", "default/all-unauthenticated")
    ]


def test_an_authorization_that_let_nothing_in_meanwhile_does_not_share_the_port() -> None:
    before, after = scrape(0, 0, 0, 0, 0), scrape(10, 0, 10, 0, 10)
    idle = {
        (name, text.replace('authz_name="clients"', 'authz_name="admins"')): 7.0
        for (name, text) in after.values
        if name == "inbound_http_authz_allow_total"
    }
    before.values.update(idle)
    after.values.update(idle)
    found = rows([POLICY], [(before, after)], 5.0)
    assert [(row.authorization, row.success) for row in found if row.rps] == [("authorizationpolicy/clients", 1.0)]
    assert "authorizationpolicy/admins" not in {row.authorization for row in found}
