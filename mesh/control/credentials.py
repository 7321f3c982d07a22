"""The certificate that a control-plane server shows, and what it demands of its clients.

TLS 1.3 only, no session tickets: resumption would let a client in on an identity that has expired since. A renewed leaf
is loaded into the same context, which serves it to new handshakes and leaves open connections alone.

Other trust anchors need another context (OpenSSL adds to a context's anchors and never takes one away). The listening
socket keeps its own, whose SNI callback puts each new handshake on the current one.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.api.messages import CertifyResponse
from mesh.control.pki import InvalidCredentials, create_key, load_certificates, private_key_pem, signed_by, to_pem


@dataclass(slots=True)
class Credentials:
    """Key and current leaf of one server."""

    identity: str
    anchors: list[x509.Certificate]
    key: ec.EllipticCurvePrivateKey
    context: ssl.SSLContext
    """Of the listening socket."""
    expires_at: float | None = None
    """Unix seconds; None before the first leaf."""
    require_client: bool = False
    _chain: str = ""
    _current: ssl.SSLContext | None = None
    """Of new handshakes; None: the listening socket's."""

    def trust(self, anchors: list[x509.Certificate]) -> None:
        """Other trust anchors, from the next handshake on."""
        self.anchors = anchors
        current = _server_context(anchors, require_client=self.require_client)
        if self._chain:
            load_chain(current, self._chain, private_key_pem(self.key))
        self._current = current
        self.context.sni_callback = self._choose

    def _choose(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if self._current is not None:
            handshake.context = self._current

    def install(self, response: CertifyResponse) -> None:
        """Shows the new leaf from the next handshake on.

        Raises:
            InvalidCredentials: a leaf for another key or name, or not signed by our anchors; the old one stays.
        """
        leaf = load_certificates(response.leaf.encode(), "issued leaf")[0]
        if leaf.public_key() != self.key.public_key():
            raise InvalidCredentials("issued leaf is for another key")
        try:
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            raise InvalidCredentials("issued leaf has no readable name") from None
        if names.get_values_for_type(x509.DNSName) != [self.identity]:
            raise InvalidCredentials("issued leaf is for another name")
        self._check_signatures(leaf, response)
        chain = response.leaf + "".join(response.intermediates)
        for context in (self.context, self._current):
            if context is not None:
                load_chain(context, chain, private_key_pem(self.key))
        self._chain = chain
        self.expires_at = response.valid_until

    def _check_signatures(self, leaf: x509.Certificate, response: CertifyResponse) -> None:
        path = [leaf]
        for pem in response.intermediates:
            path.extend(load_certificates(pem.encode(), "issued intermediates"))
        for lower, upper in zip(path, [*path[1:], None], strict=True):
            candidates = [upper] if upper is not None else self.anchors
            if not any(signed_by(lower, candidate) for candidate in candidates):
                raise InvalidCredentials("issued leaf is not signed by our trust anchors")


def server_credentials(identity: str, anchors: list[x509.Certificate], *, require_client: bool) -> Credentials:
    """Credentials without a leaf. `require_client`: peers must show a certificate of the mesh."""
    context = _server_context(anchors, require_client=require_client)
    return Credentials(identity, anchors, create_key(), context, require_client=require_client)


def _server_context(anchors: list[x509.Certificate], *, require_client: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_NONE
    if require_client:
        context.load_verify_locations(cadata=_pem(anchors))
    return context


def client_context(anchors: list[x509.Certificate]) -> ssl.SSLContext:
    """For asking identity: its certificate is checked, ours is not shown (the token speaks for us)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=_pem(anchors))
    return context


def load_chain(context: ssl.SSLContext, chain_pem: str, key_pem: str) -> None:
    """`ssl` reads certificates from files only: one in memory where the system has that (containers have read-only
    roots), else a private temporary one; gone on return."""
    content = (key_pem + chain_pem).encode()
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("leaf", os.MFD_CLOEXEC)
        try:
            os.write(handle, content)
            context.load_cert_chain(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)
        return
    handle, name = tempfile.mkstemp(prefix="leaf-", suffix=".pem")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        context.load_cert_chain(name)
    finally:
        os.unlink(name)


def _pem(certificates: list[x509.Certificate]) -> str:
    return "".join(to_pem(c) for c in certificates)
