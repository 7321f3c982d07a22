"""Why handshakes fail, by name, on both sides: real sockets and real certificates, one thing wrong with each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from proxy_world import ControlPlane, Pod, World, authority_of, identity_of, run_in_world, until

from benchmarks.ports import free_port
from mesh.api.messages import Endpoint
from mesh.behavior.authz import default_inbound_policy
from mesh.control import pki
from mesh.proxy.csr import make_key_and_csr
from mesh.proxy.wire.contexts import Contexts, make_contexts
from mesh.proxy.wire.tls import TlsShim

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]


def credentials(
    control: ControlPlane, name: str, *, at: float = 0.0, anchor: pki.Authority | None = None, signer: bool = False
) -> Contexts:
    """A certificate for `name`, issued `at` seconds from now for a minute. `anchor`: another mesh's; it is trusted, and
    with `signer` it signs, too."""
    key, csr = make_key_and_csr(name)
    issuer = pki.create_issuer(anchor) if anchor is not None and signer else control.issuer
    public_key = x509.load_pem_x509_csr(csr.encode()).public_key()
    leaf = pki.issue_leaf(issuer, name, public_key, now=time.time() + at, lifetime=60.0, clock_skew=0.0)
    trusted = (control.anchor if anchor is None or signer else anchor).certificate_pem
    return make_contexts(trusted, pki.to_pem(leaf) + issuer.certificate_pem, key)


def old_protocol(control: ControlPlane) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=control.anchor.certificate_pem)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


Spoil = Callable[[ControlPlane], ssl.SSLContext]

CALLERS: dict[str, tuple[str, Spoil]] = {
    "expired": ("certificate_expired", lambda c: credentials(c, "a.b", at=-120).control),
    "not yet valid": ("certificate_not_yet_valid", lambda c: credentials(c, "a.b", at=120).control),
    "of another mesh": (
        "unknown_ca",
        lambda c: credentials(c, "a.b", anchor=pki.create_trust_anchor(), signer=True).control,
    ),
    "that does not trust us": ("unknown_ca", lambda c: credentials(c, "a.b", anchor=pki.create_trust_anchor()).control),
    "without a certificate": (
        "certificate_required",
        lambda c: ssl.create_default_context(cadata=c.anchor.certificate_pem),
    ),
    "of an old protocol": ("protocol", old_protocol),
}


@pytest.mark.parametrize("caller", CALLERS)
def test_inbound_names_what_is_wrong_with_a_caller(tmp_path: Path, caller: str) -> None:
    reason, spoil = CALLERS[caller]

    async def scenario(made: World) -> None:
        payment = await made.pod("payment")
        address = payment.config.inbound_listen
        end = End()
        shim = TlsShim(spoil(made.control), end, server_side=False, server_hostname=payment.identity)
        await asyncio.get_running_loop().create_connection(lambda: shim, address.host, address.port)
        await end.lost.wait()
        assert not end.received, "the handshake failed, and yet there was an answer"
        await until(lambda: failures(payment, "inbound") == {reason: 1})
        assert payment.app is not None
        assert payment.app.requests == []

    run_in_world(tmp_path, scenario)


class End(asyncio.Protocol):
    """One end of TLS by our own shim, which lets its peer know what it did not like (uvloop's does not)."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = asyncio.Event()

    def handshake_done(self, shim: TlsShim) -> Any:
        return self

    def handshake_failed(self, shim: TlsShim, error: BaseException | None) -> None:
        self.lost.set()

    def connection_made(self, transport: Any) -> None:
        transport.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


def failures(pod: Pod, direction: str) -> dict[str, float]:
    reasons = {
        *(reason for reason, _ in CALLERS.values()),
        *("identity_mismatch", "bad_certificate", "timeout", "io"),
    }
    counted = {r: pod.metric("tls_handshake_failures_total", direction=direction, reason=r) for r in reasons}
    return {reason: count for reason, count in counted.items() if count}


def client_hello(name: str) -> bytes:
    """What a client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(("leaves", "reason"), [(True, "io"), (False, "timeout")])
def test_inbound_names_a_caller_that_stops_in_the_handshake(tmp_path: Path, leaves: bool, reason: str) -> None:
    async def scenario(made: World) -> None:
        payment = await made.pod("payment")
        policy = payment.proxy.inbound.policy
        assert payment.app is not None
        impatient = msgspec.structs.replace(
            default_inbound_policy("all-unauthenticated", version=9, published_at=0.0), detect_timeout_seconds=0.3
        )
        made.control.publish(f"/v1/inbound/shop/payment-0/{payment.app.address.port}", impatient)
        await until(lambda: policy.detect_timeout == 0.3)
        address = payment.config.inbound_listen
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(client_hello(payment.identity))
        assert (await reader.read(3))[0] == 0x16, "the server's part of the handshake"
        if leaves:
            writer.transport.abort()
        await until(lambda: failures(payment, "inbound") == {reason: 1})
        writer.transport.abort()

    run_in_world(tmp_path, scenario)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await reader.read()
    writer.close()


async def hanging_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await silent(reader, writer)


NAME = identity_of("payment")
SERVERS: dict[str, tuple[str, Serve, Spoil | None]] = {
    "expired": ("certificate_expired", silent, lambda c: credentials(c, NAME, at=-120).server),
    "not yet valid": ("certificate_not_yet_valid", silent, lambda c: credentials(c, NAME, at=120).server),
    "of another mesh": (
        "unknown_ca",
        silent,
        lambda c: credentials(c, NAME, anchor=pki.create_trust_anchor(), signer=True).server,
    ),
    "that does not trust us": (
        "unknown_ca",
        silent,
        lambda c: credentials(c, NAME, anchor=pki.create_trust_anchor()).server,
    ),
    "that is somebody else": ("identity_mismatch", silent, lambda c: credentials(c, "somebody.else").server),
    "that speaks no TLS": ("protocol", plain, None),
    "that says nothing": ("timeout", silent, None),
    "that hangs up": ("io", hanging_up, None),
}


@pytest.mark.parametrize("server", SERVERS)
def test_outbound_names_what_is_wrong_with_a_server(tmp_path: Path, server: str) -> None:
    reason, serve, spoil = SERVERS[server]

    async def scenario(made: World) -> None:
        cart = await made.pod("cart", outbound_connect_timeout=0.3)
        port = free_port()
        if spoil is None:
            listening: asyncio.Server = await asyncio.start_server(serve, "127.0.0.1", port)
        else:
            context = spoil(made.control)
            listening = await asyncio.get_running_loop().create_server(
                lambda: TlsShim(context, End(), server_side=True), "127.0.0.1", port
            )
        authority = authority_of("payment")
        made.serve(authority, [])
        made.control.endpoints(
            authority, [Endpoint(address=f"127.0.0.1:{port}", pod="payment-0", namespace="shop", identity=NAME)]
        )
        request = asyncio.ensure_future(cart.send(authority))
        await until(lambda: bool(failures(cart, "outbound")))
        assert set(failures(cart, "outbound")) == {reason}
        request.cancel()
        listening.close()

    run_in_world(tmp_path, scenario)


def test_the_control_plane_must_be_who_it_says(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart = await made.pod("cart")
        watching = made.control.watching
        path = f"/v1/inbound/shop/cart-0/{cart.config.app.port if cart.config.app else 0}"
        await until(lambda: watching(path) == 1)
        await made.control.stop()
        impostor = credentials(made.control, "somebody.else").server
        address = made.control.address
        listening = await asyncio.start_server(
            silent, address.host, address.port, ssl=impostor, reuse_address=True, family=socket.AF_INET
        )
        await until(
            lambda: cart.metric("tls_handshake_failures_total", direction="control", reason="identity_mismatch") >= 1
        )
        listening.close()
        await made.control.start()
        await until(lambda: watching(path) == 1)

    run_in_world(tmp_path, scenario)
