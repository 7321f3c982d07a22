"""TLS contexts: what a certificate is good for, one context for each use.

TLS 1.3 only, P-256, no tickets and so no resumption: every new connection proves both certificates anew, which is what
makes an expiry drill honest. OpenSSL does all verification.

Making them takes 5 ms, most of it OpenSSL's reading of the key, once for each context. While requests are served it is
done in steps, between which the event loop turns.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Generator, Iterator
from dataclasses import dataclass

ALPN_HTTP2 = "h2"
ALPN_OPAQUE = "transport.l5d.io/v1"
"""Linkerd's opaque transport: a header that names the port comes before the bytes."""
ALPN_ACCEPTED = "l5d-h1"
"""HTTP/1.1 between our proxies, for upgrades: after the handshake the server says `ACCEPTED` before anything else.

In TLS 1.3 a client holds the handshake for finished before the server has looked at its certificate. HTTP/2 makes up
for that with the server's SETTINGS frame; over HTTP/1.1 this line does, so that a request is never written to a
connection that is about to be refused. A peer that does not choose this protocol is spoken to without it."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """One certificate, ready for each use: ALPN is a property of a context, so each protocol has its own."""

    control: ssl.SSLContext
    """To the control plane: no ALPN."""
    http2: ssl.SSLContext
    http1: ssl.SSLContext
    opaque: ssl.SSLContext
    server: ssl.SSLContext


def make_contexts(trust_anchors: str, chain: str, key: str) -> Contexts:
    """Contexts that present `chain` (leaf first, PEM) and trust `trust_anchors`.

    Raises:
        ssl.SSLError: the key does not belong to the leaf, or the PEM is broken.
    """
    steps = contexts_in_steps(trust_anchors, chain, key)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            made: Contexts = done.value
            return made


def contexts_in_steps(trust_anchors: str, chain: str, key: str) -> Generator[None, None, Contexts]:
    """The same, with a pause after each millisecond of work: all of it takes 5 ms, and requests wait meanwhile."""
    made: list[ssl.SSLContext] = []
    with _chain_file(chain, key) as path:
        for protocol in ("", ALPN_HTTP2, ALPN_ACCEPTED, ALPN_OPAQUE):
            context = anchored_context(trust_anchors)
            if protocol:
                context.set_alpn_protocols([protocol])
            yield
            context.load_cert_chain(path)
            made.append(context)
            yield
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _harden(server)
        server.verify_mode = ssl.CERT_REQUIRED
        server.load_verify_locations(cadata=trust_anchors)
        server.num_tickets = 0
        server.set_alpn_protocols([ALPN_HTTP2, ALPN_OPAQUE, ALPN_ACCEPTED])
        yield
        server.load_cert_chain(path)
    control, http2, http1, opaque = made
    return Contexts(control, http2, http1, opaque, server)


def anchored_context(trust_anchors: str) -> ssl.SSLContext:
    """A client context without a certificate of its own: it verifies the server's chain and DNS name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.load_verify_locations(cadata=trust_anchors)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.set_ecdh_curve("prime256v1")


@contextlib.contextmanager
def _chain_file(chain: str, key: str) -> Iterator[str]:
    """`ssl` reads keys from files only, so the key passes through one that has no name in any directory (Linux), or
    whose name lives for a moment in a private directory (elsewhere)."""
    content = f"{chain.rstrip()}\n{key}".encode()
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("leaf")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    import tempfile  # with its archive formats half a megabyte, which Linux does without

    with tempfile.TemporaryDirectory() as private:
        path = os.path.join(private, "leaf.pem")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)
        yield path
