"""Answers over a fleet that is made up scrape by scrape: aggregation over pods, and what is not known."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.viz.edges import edges, topology
from mesh.viz.exposition import read
from mesh.viz.fleet import Fleet
from mesh.viz.flows import COUNTERS, GAUGES, HISTOGRAMS
from mesh.viz.inbound import stat_inbound
from mesh.viz.outbound import routes, stat_outbound
from mesh.viz.pods import Pod
from mesh.viz.queries import basis
from mesh.viz.resources import Resource, parse_resource
from mesh.viz.stat import StatRow, stat
from mesh.viz.top import Top

BOOT = 0.0


def pod(name: str, workload: str = "", namespace: str = "shop", kind: str = "Deployment", **more: str) -> Pod:
    fields = {"admin": f"{name}:4191", "identity": f"{workload or name}.{namespace}.id", "ip": "", **more}
    return Pod(namespace=namespace, name=name, kind=kind if workload else "Pod", workload=workload, **fields)


@dataclass
class Maker:
    """Counters of one pod by series text, scraped whenever the test says."""

    fleet: Fleet
    key: tuple[str, str]
    started: float = BOOT
    values: dict[str, float] = field(default_factory=dict)

    def add(self, series: str, amount: float) -> None:
        self.values[series] = self.values.get(series, 0.0) + amount

    def inbound(self, amount: float, outcome: str = "success", **labels: str) -> None:
        self.add(_series("response_total", direction="inbound", classification=outcome, **labels), amount)

    def outbound(self, amount: float, outcome: str = "success", **labels: str) -> None:
        self.add(_series("response_total", direction="outbound", classification=outcome, **labels), amount)

    def scrape(self, now: float) -> None:
        if self.fleet.observing_since is None:
            self.fleet.observing_since = now
        text = f"process_start_time_seconds {self.started}\n"
        text += "".join(f"{series} {value}\n" for series, value in self.values.items())
        said = read(text, frozenset((*COUNTERS, *GAUGES)), HISTOGRAMS)
        assert not said.unreadable
        self.fleet.members[self.key].history.scraped(now, said, self.fleet.meanings)


def _series(name: str, **labels: str) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def fleet_of(*pods: Pod, now: float = 1000.0) -> tuple[Fleet, list[Maker]]:
    fleet = Fleet()
    fleet.update(pods, now)
    return fleet, [Maker(fleet, (one.namespace, one.name)) for one in pods]


def only(rows: list[StatRow], name: str) -> StatRow:
    (found,) = [row for row in rows if row.name == name]
    return found


@given(
    rates=st.lists(st.floats(0.1, 1000.0), min_size=1, max_size=4),
    interval=st.floats(1.0, 10.0),
    phases=st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
    window=st.floats(20.0, 300.0),
)
def test_the_rate_of_a_workload_is_the_sum_of_its_pods_whenever_they_were_scraped(
    rates: list[float], interval: float, phases: list[float], window: float
) -> None:
    fleet, makers = fleet_of(*(pod(f"web-{index}", "web") for index in range(len(rates))))
    end = 1000.0
    for maker, rate, phase in zip(makers, rates, phases, strict=False):
        before = now = 600.0 + phase * interval
        while now <= end:
            maker.inbound(rate * (now - before))
            maker.scrape(now)
            before, now = now, now + interval
    fleet.observing_since = 600.0
    (row,) = stat(fleet, Resource("Deployment"), end - window, end)
    assert row.rps == pytest.approx(sum(rates), rel=1e-6)
    assert (row.meshed, row.pods, row.seen) == (len(rates), len(rates), len(rates))


def test_a_pod_that_left_counts_for_the_time_that_it_was_there() -> None:
    stays, leaves = pod("web-0", "web"), pod("web-1", "web")
    fleet, makers = fleet_of(stays, leaves, now=900.0)
    for now in (900.0, 910.0, 920.0, 930.0):
        for maker in makers:
            maker.scrape(now)
            maker.inbound(100)  # ten a second each
    fleet.update([stays], 930.0)
    for now in (940.0, 950.0, 960.0):
        makers[0].scrape(now)
        makers[0].inbound(100)
    row = only(stat(fleet, Resource("Deployment"), 900.0, 960.0), "web")
    assert row.rps == pytest.approx(10 + 5)
    assert (row.meshed, row.pods, row.seen, row.unseen) == (1, 1, 2, ())


def test_a_pod_that_was_never_scraped_is_unseen_and_makes_no_zero() -> None:
    fleet, (seen, _) = fleet_of(pod("web-0", "web"), pod("pay-0", "pay"))
    seen.scrape(1000.0)
    seen.scrape(1005.0)
    rows = stat(fleet, Resource("Deployment"), 945.0, 1005.0)
    quiet, unknown = only(rows, "web"), only(rows, "pay")
    assert (quiet.rps, quiet.success, quiet.unseen) == (0.0, None, ())
    assert (unknown.rps, unknown.success, unknown.unseen, unknown.tcp_conn) == (None, None, ("pay-0",), None)


def test_pods_without_a_proxy_count_as_not_meshed() -> None:
    fleet, _ = fleet_of(pod("web-0", "web"), pod("web-1", "web", admin=""))
    row = only(stat(fleet, Resource("Deployment"), 0, 1000), "web")
    assert (row.meshed, row.pods) == (1, 2)


def test_to_and_from_are_the_senders_view() -> None:
    web, pay = pod("web-0", "web"), pod("pay-0", "pay", namespace="bank", ip="10.0.0.9")
    fleet, (sender, receiver) = fleet_of(web, pay)
    labels = {"dst_namespace": "bank", "dst_service": "pay", "target_addr": "10.0.0.9:4143", "tls": "true"}
    for now in (1000.0, 1010.0):
        sender.scrape(now)
        receiver.scrape(now)
        sender.outbound(30, dst_pod="pay-0", **labels)
        sender.outbound(10, "failure", dst_pod="pay-0", **labels)
        receiver.inbound(38)
    sender.scrape(1020.0)
    receiver.scrape(1020.0)
    everything = Resource("Deployment")
    for target in ("deploy/pay", "svc/pay", "ns/bank", "po/pay-0"):
        rows = stat(fleet, Resource("Deployment", namespace="shop"), 1000, 1020, to=parse_resource(target, "bank"))
        assert (only(rows, "web").requests, only(rows, "web").success) == (80, 0.75), target
    assert not only(stat(fleet, everything, 1000, 1020, to=parse_resource("svc/other", "bank")), "web").requests
    by = only(stat(fleet, everything, 1000, 1020, by=parse_resource("deploy/web", "shop")), "pay")
    assert (by.requests, by.failures) == (80, 20)
    assert only(stat(fleet, everything, 1000, 1020), "pay").requests == 76, "without from: what it saw itself"
    (service,) = stat(fleet, parse_resource("svc"), 1000, 1020)
    assert (service.namespace, service.name, service.requests) == ("bank", "pay", 80)


def test_an_endpoint_that_discovery_did_not_name_is_found_by_its_address() -> None:
    web, pay = pod("web-0", "web"), pod("pay-0", "pay", ip="10.0.0.9", admin="")
    fleet, (sender, _) = fleet_of(web, pay)
    sender.scrape(1000.0)
    sender.outbound(5, target_addr="10.0.0.9:80", tls="no_identity", no_tls_reason="not_provided_by_service_discovery")
    sender.scrape(1005.0)
    (edge,) = edges(fleet, Resource("Deployment"), 1000, 1005)
    assert (edge.src, edge.dst, edge.secured, edge.reason) == ("web", "pay", False, "the server is not meshed")


def test_tls_without_a_verified_name_is_not_called_secured() -> None:
    fleet, (sender,) = fleet_of(pod("web-0", "web"))
    sender.scrape(1000.0)
    sender.outbound(5, target_addr="10.0.0.9:80", tls="true")
    sender.scrape(1005.0)
    (edge,) = edges(fleet, Resource("Deployment"), 1000, 1005)
    assert not edge.secured


def test_opaque_connections_are_edges_to_their_service() -> None:
    fleet, (sender,) = fleet_of(pod("web-0", "web"))
    parent = {"parent_kind": "Service", "parent_namespace": "db", "parent_name": "pg", "parent_port": "5432"}
    dialled = _series("outbound_tcp_balancer_queue_requests_total", **parent)
    moved = _series("tcp_read_bytes_total", direction="outbound", peer="dst", tls="true")
    sender.scrape(1000.0)
    sender.add(dialled, 3)
    sender.add(moved, 1000)
    sender.scrape(1005.0)
    (edge,) = edges(fleet, Resource("Deployment"), 1000, 1005)
    assert (edge.dst_namespace, edge.dst, edge.protocol, edge.connections, edge.secured) == ("db", "pg", "tcp", 3, True)


ROUTE = {
    "parent_kind": "Service",
    "parent_namespace": "shop",
    "parent_name": "pay",
    "parent_port": "80",
    "route_kind": "HTTPRoute",
    "route_name": "checkout",
}


def test_retries_show_as_the_difference_of_effective_and_actual() -> None:
    fleet, (web,) = fleet_of(pod("web-0", "web"))
    web.scrape(1000.0)
    statuses, backend = (
        "outbound_http_route_request_statuses_total",
        "outbound_http_route_backend_response_statuses_total",
    )
    target = {"backend_kind": "Service", "backend_namespace": "shop", "backend_name": "pay-v2", "backend_port": "80"}
    web.add(_series(statuses, **ROUTE, http_status="200"), 95)
    web.add(_series(statuses, **ROUTE, http_status="503", error="FAIL_FAST"), 2)
    web.add(_series(statuses, **ROUTE, http_status="504", error="REQUEST_TIMEOUT"), 3)
    web.add(_series("outbound_http_route_retry_requests_total", **ROUTE), 20)
    web.add(_series(backend, **ROUTE, **target, http_status="200"), 95)
    web.add(_series(backend, **ROUTE, **target, http_status="500"), 25)
    web.scrape(1010.0)
    (row,) = stat_outbound(fleet, Resource("Deployment"), 1000, 1010)
    assert (row.service, row.route, row.type) == ("pay.shop:80", "checkout", "HTTPRoute")
    assert (row.success, row.rps, row.timeouts, row.retries, row.own) == (0.95, 10.0, 3, 20, 2)
    (part,) = row.backends
    assert (part.backend, part.rps) == ("pay-v2:80", 12.0)
    (route,) = routes(fleet, parse_resource("svc/pay", "shop"), 1000, 1010)
    assert (route.success, route.rps) == (0.95, 10.0)
    assert (route.actual_success, route.actual_rps) == (pytest.approx(95 / 120), 12.0)
    graph = topology(fleet, "shop", 1000, 1010)
    (link,) = graph.links
    assert (link.target, link.own, link.success) == ("shop/Service/pay", 2, 0.0), "nobody answered: the service itself"


def test_grpc_answers_fail_by_their_status() -> None:
    fleet, (web,) = fleet_of(pod("web-0", "web"))
    web.scrape(1000.0)
    for status, count in (("OK", 6), ("NOT_FOUND", 2), ("UNAVAILABLE", 2)):
        web.add(_series("outbound_grpc_route_request_statuses_total", **ROUTE, grpc_status=status), count)
    web.scrape(1010.0)
    (row,) = stat_outbound(fleet, Resource("Deployment"), 1000, 1010)
    assert row.success == 0.8


def test_profiles_routes_have_their_own_numbers() -> None:
    fleet, (web,) = fleet_of(pod("web-0", "web"))
    labels = {"direction": "outbound", "dst": "pay.shop.svc.cluster.local:80", "rt_route": "/pay"}
    web.scrape(1000.0)
    web.add(_series("route_response_total", **labels, classification="success"), 9)
    web.add(_series("route_response_total", **labels, classification="failure"), 1)
    web.add(_series("route_actual_response_total", **labels, classification="success"), 9)
    web.add(_series("route_actual_response_total", **labels, classification="failure"), 11)
    web.add(_series("outbound_http_route_request_statuses_total", **ROUTE, http_status="200"), 10)
    web.scrape(1010.0)
    (row,) = routes(fleet, Resource("Deployment", "web", "shop"), 1000, 1010, to=parse_resource("svc/pay", "shop"))
    assert (row.route, row.type, row.success, row.actual_success) == ("/pay", "ServiceProfile", 0.9, 0.45)
    assert (row.rps, row.actual_rps) == (1.0, 2.0)


def test_refusals_are_told_by_server_and_route() -> None:
    fleet, (pay,) = fleet_of(pod("pay-0", "pay"))
    server = {"srv_kind": "Server", "srv_name": "http", "srv_port": "80", "target_addr": "10.0.0.9:80"}
    pay.scrape(1000.0)
    pay.add(_series("inbound_http_authz_allow_total", **server, route_kind="HTTPRoute", route_name="a"), 30)
    pay.add(_series("inbound_http_authz_deny_total", **server, route_kind="HTTPRoute", route_name="a"), 10)
    pay.inbound(30, target_addr="10.0.0.9:80")
    pay.scrape(1010.0)
    (row,) = stat_inbound(fleet, Resource("Deployment"), 1000, 1010)
    assert (row.server, row.route, row.allowed, row.denied, row.rps, row.success) == ("http", "a", 30, 10, 3.0, 1.0)
    pay.add(_series("inbound_http_authz_allow_total", **server, route_kind="HTTPRoute", route_name="b"), 5)
    pay.inbound(5, target_addr="10.0.0.9:80")
    pay.scrape(1015.0)
    both = stat_inbound(fleet, Resource("Deployment"), 1000, 1015)
    assert [(row.route, row.success) for row in both] == [("a", None), ("b", None)], "one port, two routes: not known"


def test_the_basis_lists_who_was_missed_and_who_is_silent() -> None:
    fleet, (good, bad, stale) = fleet_of(pod("a"), pod("b"), pod("c"))
    for maker in (good, bad, stale):
        maker.scrape(950.0)
    fleet.members["shop", "b"].history.missed(990.0, "no answer in time")
    good.scrape(998.0)
    bad.scrape(998.0)
    found = basis(fleet, 940.0, 1000.0, 5.0)
    assert (found.proxies, found.observed_seconds, found.window_seconds) == (3, 50.0, 60.0)
    assert [(m.pod, m.missed, m.reason, m.last_ok_seconds) for m in found.missing] == [
        ("b", 1, "", 2.0),
        ("c", 0, "", 50.0),
    ]


def test_pods_are_forgotten_once_their_history_no_longer_matters() -> None:
    fleet, _ = fleet_of(pod("a"), pod("b"), now=0.0)
    fleet.update([pod("a")], 10.0)
    assert len(fleet.members) == 2
    fleet.update([pod("a")], 700.0)
    assert set(fleet.members) == {("shop", "a")}


def test_routes_that_share_a_port_on_one_pod_leave_success_open_for_all() -> None:
    fleet, makers = fleet_of(pod("pay-0", "pay"), pod("pay-1", "pay"))
    server = {"srv_kind": "Server", "srv_name": "http", "srv_port": "80", "target_addr": "10.0.0.9:80"}
    for maker, names in zip(makers, (("a",), ("a", "b")), strict=True):
        maker.scrape(1000.0)
        for name in names:
            maker.add(_series("inbound_http_authz_allow_total", **server, route_kind="HTTPRoute", route_name=name), 5)
            maker.inbound(5, target_addr="10.0.0.9:80")
        maker.scrape(1010.0)
    rows = stat_inbound(fleet, Resource("Deployment"), 1000, 1010)
    assert [(row.route, row.allowed, row.success) for row in rows] == [("a", 10, None), ("b", 5, None)]


def test_answers_that_name_their_server_and_route_are_told_apart() -> None:
    fleet, (pay,) = fleet_of(pod("pay-0", "pay"))
    server = {"srv_kind": "Server", "srv_name": "http", "srv_port": "80", "target_addr": "10.0.0.9:80"}
    pay.scrape(1000.0)
    for name, outcome in (("a", "success"), ("b", "failure")):
        route = {"route_kind": "HTTPRoute", "route_name": name}
        pay.add(_series("inbound_http_authz_allow_total", **server, **route), 5)
        pay.inbound(5, outcome, **server, **route)
    pay.scrape(1010.0)
    rows = stat_inbound(fleet, Resource("Deployment"), 1000, 1010)
    assert [(row.route, row.allowed, row.success) for row in rows] == [("a", 5, 1.0), ("b", 5, 0.0)]


def test_top_takes_the_sources_word_where_both_ends_are_tapped() -> None:
    web, pay = pod("web-0", "web"), pod("pay-0", "pay")

    def events(direction: str, teller: str, source: str, number: int) -> list[dict[str, object]]:
        common: dict[str, object] = {
            "proxyDirection": direction,
            "namespace": "shop",
            "pod": teller,
            "id": number,
            "source": {"namespace": "shop", "pod": source},
            "destination": {"namespace": "shop", "pod": "pay-0"},
        }
        ended = {"event": "responseEnd", "httpStatus": 200, "sinceRequestInitUs": 4000}
        return [
            {**common, "event": "requestInit", "method": "GET", "path": "/a?b=c"},
            {**common, **ended},
        ]

    top = Top([web, pay])
    for event in (
        *events("outbound", "web-0", "web-0", 0),
        *events("inbound", "pay-0", "web-0", 0),
        *events("inbound", "pay-0", "cron-0", 1),
    ):
        top.add(event)
    assert [(row.source, row.destination, row.path, row.count) for row in top.rows] == [
        ("cron-0", "pay-0", "/a", 1),
        ("web-0", "pay-0", "/a", 1),
    ]
