"""Two whole proxies and more: identity, mutual TLS, expiry and healing, discovery, with nothing faked below HTTP."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest
from proxy_world import Client, Pod, Reply, World, authority_of, identity_of, run_in_world, until

from benchmarks.ports import free_port
from mesh.api.messages import Endpoint
from mesh.proxy.config import Address

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]


class Relay:
    """Sits in front of an inbound port and writes down every byte."""

    def __init__(self, target: Address) -> None:
        self.address = Address("127.0.0.1", free_port())
        self._target = target
        self.to_server = bytearray()
        self.to_client = bytearray()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.address.host, self.address.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._target.host, self._target.port)
        await asyncio.gather(
            self._pump(reader, up_writer, self.to_server), self._pump(up_reader, writer, self.to_client)
        )

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        while data := await reader.read(65536):
            record += data
            writer.write(data)
        writer.close()

    def stop(self) -> None:
        assert self._server is not None
        self._server.close()


def tls_records(data: bytes) -> list[int]:
    """Content types of the records that `data` consists of; fails if it is anything else."""
    types = []
    while data:
        assert data[0] in (20, 21, 22, 23), f"not a TLS record: {data[:20]!r}"
        assert data[1] == 3
        length = int.from_bytes(data[3:5], "big")
        types.append(data[0])
        data = data[5 + length :]
    return types


def test_only_tls_records_cross_between_proxies(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        relay = Relay(payment.config.inbound_listen)
        await relay.start()
        there = Endpoint(address=str(relay.address), pod="payment-0", namespace="shop", identity=identity_of("payment"))
        made.control.endpoints(payment.authority, [there])
        reply = await cart.send(payment, "/secret", "POST", b"card number")
        assert (reply.status, reply.body) == (200, b"hello")
        assert set(tls_records(bytes(relay.to_server))) <= {20, 22, 23}
        assert set(tls_records(bytes(relay.to_client))) <= {20, 22, 23}
        for text in (b"secret", b"card number", b"hello", b"HTTP", b"cart.shop"):
            assert text not in relay.to_server
            assert text not in relay.to_client or text == b"HTTP"
        relay.stop()

    run_in_world(tmp_path, scenario)


def test_the_server_proves_its_name_with_tls_1_3_and_asks_for_a_certificate(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        payment = await made.pod("payment")
        assert payment.proxy.identity is not None
        contexts = payment.proxy.identity.contexts
        assert contexts is not None
        context = contexts.control
        inbound = payment.config.inbound_listen
        _, writer = await asyncio.open_connection(
            inbound.host, inbound.port, ssl=context, server_hostname=payment.identity
        )
        session = writer.get_extra_info("ssl_object")
        assert session.version() == "TLSv1.3"
        assert session.getpeercert()["subjectAltName"] == (("DNS", payment.identity),)
        writer.transport.abort()

        nobody = ssl.create_default_context(cadata=made.control.anchor.certificate_pem)

        async def ask_without_a_certificate() -> bytes:
            reader, writer = await asyncio.open_connection(
                inbound.host, inbound.port, ssl=nobody, server_hostname=payment.identity
            )
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return await reader.readexactly(1)

        with pytest.raises((ssl.SSLError, OSError, EOFError)):
            await ask_without_a_certificate()
        await until(
            lambda: (
                payment.metric("tls_handshake_failures_total", direction="inbound", reason="certificate_required") == 1
            )
        )

    run_in_world(tmp_path, scenario)


def test_the_app_hears_who_called_and_nobody_can_pretend(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        await cart.send(payment, "/", **{"l5d-client-id": "root", "traceparent": "00-1-2-01"})
        assert payment.app is not None
        headers = payment.app.requests[0].headers
        assert headers["l5d-client-id"] == cart.identity
        assert headers["traceparent"] == "00-1-2-01"
        assert headers["host"] == payment.authority
        assert payment.metric("request_total", direction="inbound", client_id=cart.identity, tls="true") == 1
        assert cart.metric("request_total", direction="outbound", server_id=payment.identity, tls="true") == 1
        assert cart.metric("response_total", classification="success", authority=payment.authority) == 1

    run_in_world(tmp_path, scenario)


def test_connections_are_kept_alive_on_all_three_legs(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        client = await cart.client()
        for number in range(20):
            reply = await client.request("GET", f"http://{payment.authority}/{number}", payment.authority)
            assert reply.status == 200
        assert payment.app is not None
        assert payment.app.connections == 1
        assert cart.metric("tls_handshakes_total", direction="outbound") == 1
        assert cart.metric("tcp_open_total", direction="outbound", peer="src") == 1

    run_in_world(tmp_path, scenario)


def test_an_un_meshed_client_is_served_in_plaintext_and_told_nothing(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        payment = await made.pod("payment")
        reply = await direct(payment, "/x", **{"l5d-client-id": "root"})
        assert reply.status == 200
        assert payment.app is not None
        assert "l5d-client-id" not in payment.app.requests[0].headers
        assert payment.metric("request_total", direction="inbound", tls="no_identity") == 1
        await payment.app.stop()
        reply = await direct(payment, "/x")
        assert reply.status == 502
        assert "l5d-proxy-error" not in reply.headers

    run_in_world(tmp_path, scenario)


async def direct(pod: Pod, path: str, **headers: str) -> Reply:
    """A request straight to a pod's inbound port, without a proxy or TLS."""
    address = pod.config.inbound_listen
    client = Client(*await asyncio.open_connection(address.host, address.port))
    try:
        return await client.request("GET", path, pod.authority, headers)
    finally:
        client.close()


@pytest.mark.parametrize(
    ("policy", "meshed", "plain"),
    [("all-authenticated", 200, 403), ("deny", 403, 403), ("all-unauthenticated", 200, 200)],
)
def test_the_default_policy_decides_who_may_call(tmp_path: Path, policy: str, meshed: int, plain: int) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        assert payment.app is not None
        made.control.inbound("shop", "payment-0", payment.app.address.port, policy)
        await until(lambda: payment.proxy.inbound.policy.message.server_name == policy)
        assert (await cart.send(payment)).status == meshed
        assert (await direct(payment, "/")).status == plain

    run_in_world(tmp_path, scenario)


def test_after_expiry_new_handshakes_fail_and_are_counted_while_the_established_connection_serves(
    tmp_path: Path,
) -> None:
    async def scenario(made: World) -> None:
        payment = await made.pod("payment")
        made.control.lifetime, made.control.clock_skew = 2.0, 0.0
        cart = await made.pod("cart", min_refresh=0.2)
        made.control.issuing = False
        client = await cart.client()

        async def ask() -> Reply:
            return await client.request("GET", f"http://{payment.authority}/", payment.authority)

        assert (await ask()).status == 200
        expires = cart.metric("control_identity_cert_expiration_timestamp_seconds")
        while time.time() < expires + 1.2:
            assert (await ask()).status == 200, "an open connection outlives its certificate"
            await asyncio.sleep(0.1)

        # Two at once share what is open, although no new handshake would succeed.
        both = await asyncio.gather(ask(), cart.send(payment))
        assert [reply.status for reply in both] == [200, 200]

        # With the old connection gone nothing is left: 504 once, 503 from then on, told apart from a slow server.
        entry = cart.proxy.discovery.cache.get(payment.authority)
        assert entry is not None
        for state in entry.destination.backend.endpoints.values():
            assert state.shared is not None
            state.shared.abort()
        started = time.monotonic()
        first = await cart.send(payment)
        assert (first.status, first.headers["l5d-proxy-error"]) == (504, "service in fail-fast")
        assert 2.5 < time.monotonic() - started < 5.0
        assert (await cart.send(payment)).status == 503
        assert payment.metric("tls_handshake_failures_total", reason="certificate_expired", direction="inbound") >= 1
        assert cart.metric("tls_handshake_failures_total", reason="certificate_expired", direction="outbound") >= 1

        # Identity is back: the mesh heals by itself.
        made.control.issuing, made.control.lifetime, made.control.clock_skew = True, 3600.0, 20.0
        healed = time.monotonic()
        while (await cart.send(payment)).status != 200:
            assert time.monotonic() - healed < 5.0
            await asyncio.sleep(0.05)

    run_in_world(tmp_path, scenario)


def test_an_expired_server_is_refused_by_its_clients(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart = await made.pod("cart")
        made.control.lifetime, made.control.clock_skew = 1.0, 0.0
        payment = await made.pod("payment", min_refresh=60.0)
        made.control.issuing = False
        await asyncio.sleep(
            max(0.0, payment.metric("control_identity_cert_expiration_timestamp_seconds") - time.time() + 1.1)
        )
        assert (await cart.send(payment)).status == 504
        assert cart.metric("tls_handshake_failures_total", reason="certificate_expired", direction="outbound") >= 1

    run_in_world(tmp_path, scenario)


def test_a_pod_that_is_not_who_discovery_says_is_refused(tmp_path: Path) -> None:
    """Its proxy takes another's name for the app's own TLS, so the handshake meets an app that speaks none."""

    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        wrong = Endpoint(
            address=str(payment.config.inbound_listen), pod="x", namespace="shop", identity=identity_of("inventory")
        )
        authority = authority_of("inventory")
        made.serve(authority, [])
        made.control.endpoints(authority, [wrong])
        assert (await cart.send(authority)).status == 504
        assert cart.metric("tls_handshake_failures_total", direction="outbound") >= 1
        assert payment.app is not None
        assert payment.app.requests == []

    run_in_world(tmp_path, scenario)


def test_a_server_that_proves_another_name_is_refused(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, payment = await made.pod("cart"), await made.pod("payment")
        assert payment.proxy.identity is not None
        assert payment.proxy.identity.contexts is not None
        address = Address("127.0.0.1", free_port())
        impostor = await asyncio.start_server(
            lambda reader, writer: None, address.host, address.port, ssl=payment.proxy.identity.contexts.server
        )
        authority = authority_of("inventory")
        made.serve(authority, [])
        there = Endpoint(address=str(address), pod="x", namespace="shop", identity=identity_of("inventory"))
        made.control.endpoints(authority, [there])
        assert (await cart.send(authority)).status == 504
        assert cart.metric("tls_handshake_failures_total", reason="identity_mismatch", direction="outbound") >= 1
        impostor.close()

    run_in_world(tmp_path, scenario)


def test_renewal_swaps_certificates_without_dropping_connections(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        payment = await made.pod("payment")
        made.control.lifetime, made.control.clock_skew = 3.0, 0.0
        cart = await made.pod("cart", min_refresh=0.3)
        client = await cart.client()
        deadline = time.monotonic() + 4.5
        while time.monotonic() < deadline:
            assert (await client.request("GET", f"http://{payment.authority}/", payment.authority)).status == 200
            await asyncio.sleep(0.05)
        assert cart.metric("control_identity_cert_refreshes_total", result="ok") >= 2
        assert cart.metric("tls_handshakes_total", direction="outbound") == 1

    run_in_world(tmp_path, scenario)


def test_not_ready_and_not_listening_until_the_first_certificate(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        made.control.issuing = False
        starting = asyncio.ensure_future(made.pod("cart"))
        await asyncio.sleep(1.0)
        assert not starting.done()
        made.control.issuing = True
        cart = await asyncio.wait_for(starting, 5.0)
        assert cart.metric("control_identity_cert_refreshes_total", result="error") >= 1
        assert cart.metric("control_response_total", classification="failure", status_code="503") >= 1

    run_in_world(tmp_path, scenario)


# ---- discovery


def test_last_snapshot_serves_while_the_control_plane_is_gone_and_new_names_time_out(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart = await made.pod("cart", outbound_discovery_idle=1.0)
        payment, catalog = await made.pod("payment"), await made.pod("catalog")
        assert (await cart.send(payment)).status == 200
        assert (await cart.send(catalog)).status == 200
        await made.control.stop()
        for _ in range(15):
            assert (await cart.send(payment)).status == 200
            await asyncio.sleep(0.1)
        # catalog was idle for longer than the cache keeps it
        started = time.monotonic()
        reply = await cart.send(catalog)
        assert (reply.status, reply.headers["l5d-proxy-error"]) == (504, "discovery timed out")
        assert 2.9 < time.monotonic() - started < 4.5
        await made.control.start()
        await until(lambda: made.control.watching(f"/v1/destinations/{payment.authority}") >= 0)
        reply = await cart.send(catalog)
        assert reply.status == 200

    run_in_world(tmp_path, scenario)


@pytest.mark.parametrize("late", ["/v1/destinations/", "/v1/outbound/"])
def test_unknown_services_are_502_whichever_watch_is_answered_first(tmp_path: Path, late: str) -> None:
    async def scenario(made: World) -> None:
        made.control.late = late
        cart, nowhere = await made.pod("cart"), authority_of("nowhere")
        made.serve_unknown(nowhere)
        reply = await cart.send(nowhere)
        assert (reply.status, reply.headers["l5d-proxy-error"]) == (502, "unknown destination")

    run_in_world(tmp_path, scenario)


def test_known_services_without_endpoints_fail_fast(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, empty = await made.pod("cart"), authority_of("empty")
        made.serve(empty, [])
        assert [(await cart.send(empty)).status for _ in range(2)] == [504, 503]
        assert cart.metric("outbound_http_errors_total", error="failfast") == 1
        assert cart.metric("outbound_http_errors_total", error="loadshed") == 1
        assert cart.metric("outbound_http_balancer_queue_gate_shut_total") == 1

    run_in_world(tmp_path, scenario)


def test_endpoint_changes_are_followed_and_their_latency_measured(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, one, two = await made.pod("cart"), await made.pod("one"), await made.pod("two")
        assert (await cart.send(one)).status == 200
        made.control.endpoints(one.authority, [two.endpoint()])
        await until(lambda: cart.metric("control_update_latency_seconds_count") >= 1)
        assert (await cart.send(one)).status == 200
        assert two.app is not None
        assert len(two.app.requests) == 1

    run_in_world(tmp_path, scenario)


def test_a_dead_pod_costs_at_most_its_own_requests(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart, one, two = await made.pod("cart"), await made.pod("one"), await made.pod("two")
        made.control.endpoints(one.authority, [one.endpoint(), two.endpoint()])
        for _ in range(6):
            assert (await cart.send(one)).status == 200
        await one.proxy.stop()
        statuses = [(await cart.send(one)).status for _ in range(20)]
        assert statuses == [200] * 20

    run_in_world(tmp_path, scenario)
