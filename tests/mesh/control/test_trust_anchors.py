"""Trust anchors that change under a running server: real handshakes, before and after."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import uvloop

from mesh.api.messages import CertifyResponse
from mesh.control.anchors import TrustAnchors
from mesh.control.credentials import Credentials, load_chain, server_credentials
from mesh.control.http import HttpServer, Response
from mesh.control.metrics import Metrics
from mesh.control.names import component_name
from mesh.control.pki import (
    Authority,
    create_issuer,
    create_key,
    create_trust_anchor,
    issue_leaf,
    private_key_pem,
    to_pem,
)
from tests.mesh.control.builders import CART, silent_log

SERVER = component_name("destination")


def _leaf(issuer: Authority, name: str, key) -> CertifyResponse:
    import time

    leaf = issue_leaf(issuer, name, key.public_key(), now=time.time(), lifetime=600.0, clock_skew=5.0)
    return CertifyResponse(leaf=to_pem(leaf), intermediates=(issuer.certificate_pem,), valid_until=time.time() + 600)


class _Side:
    """A trust anchor with its issuer, and a client that has a leaf of it."""

    def __init__(self) -> None:
        self.anchor = create_trust_anchor()
        self.issuer = create_issuer(self.anchor)

    def install(self, credentials: Credentials) -> None:
        credentials.install(_leaf(self.issuer, SERVER, credentials.key))

    def client(self, *trusted: _Side) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata="".join(side.anchor.certificate_pem for side in trusted))
        key = create_key()
        response = _leaf(self.issuer, CART, key)
        load_chain(context, response.leaf + "".join(response.intermediates), private_key_pem(key))
        return context


async def _asks(port: int, context: ssl.SSLContext) -> bool:
    """Whether a request is answered."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=SERVER)
        writer.write(b"GET / HTTP/1.1\r\nhost: d\r\n\r\n")
        answer = await reader.read(100)
        writer.transport.abort()
        return answer.startswith(b"HTTP/1.1 200")
    except (ssl.SSLError, ConnectionError):
        return False


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_rotation_of_the_anchor_moves_new_handshakes_and_leaves_open_connections(loop_factory) -> None:
    async def story() -> None:
        old, new = _Side(), _Side()
        credentials = server_credentials(SERVER, [old.anchor.certificate], require_client=True)
        old.install(credentials)
        server = HttpServer("d", lambda request: Response(200, b"ok"), Metrics(), credentials.context)
        await server.bind("127.0.0.1", 0)
        await server.serve()
        assert server._server is not None
        port = server._server.sockets[0].getsockname()[1]
        old_client, new_client = old.client(old, new), new.client(old, new)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=old_client, server_hostname=SERVER)
        assert await _asks(port, old_client)
        assert not await _asks(port, new_client)

        credentials.trust([old.anchor.certificate, new.anchor.certificate])
        assert await _asks(port, old_client)
        assert await _asks(port, new_client)
        new.install(credentials)
        only_new = new.client(new)
        assert await _asks(port, only_new), "the new leaf is shown in the new context"

        credentials.trust([new.anchor.certificate])
        assert not await _asks(port, old_client)
        assert await _asks(port, new_client)
        assert await _asks(port, only_new), "the leaf comes along into the next context"

        writer.write(b"GET / HTTP/1.1\r\nhost: d\r\n\r\n")
        assert (await reader.read(100)).startswith(b"HTTP/1.1 200"), "what was open stays open"
        writer.transport.abort()
        await server.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(story())


def test_a_changed_file_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    first, second = create_trust_anchor(), create_trust_anchor()
    path = tmp_path / "ca-bundle.crt"
    path.write_text(first.certificate_pem)
    log, said = silent_log()
    anchors = TrustAnchors(path, [first.certificate], log)
    told: list[int] = []
    anchors.on_change(lambda certificates: told.append(len(certificates)))
    assert not anchors.poll()
    path.write_text(first.certificate_pem + second.certificate_pem)
    assert anchors.poll()
    path.write_text("")
    assert not anchors.poll()
    path.unlink()
    assert not anchors.poll()
    assert not anchors.poll()
    assert len(anchors.certificates) == 2
    assert said.getvalue().count("cannot be read") == 2
    assert told == [2]
