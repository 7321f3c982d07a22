"""What decides where a request goes: the address that was dialled, an ingress's override, else the request itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from proxy_world import World, run_in_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]


def test_an_ingress_sends_requests_where_their_override_says_and_does_not_pass_it_on(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        edge = await made.pod("edge", ingress_mode=True)
        shop, payment = await made.pod("shop"), await made.pod("payment")
        assert shop.app is not None
        assert payment.app is not None
        reply = await edge.send(shop.authority, "/pay", l5d_dst_override=payment.authority)
        assert reply.status == 200
        (request,) = payment.app.requests
        assert "l5d-dst-override" not in request.headers
        assert request.headers["host"] == shop.authority
        assert shop.app.requests == []
        assert (await edge.send(shop.authority, "/")).status == 200
        assert len(shop.app.requests) == 1

    run_in_world(tmp_path, scenario)


def test_the_override_of_anybody_else_is_an_ordinary_header(tmp_path: Path) -> None:
    async def scenario(made: World) -> None:
        cart = await made.pod("cart")
        shop, payment = await made.pod("shop"), await made.pod("payment")
        assert shop.app is not None
        assert payment.app is not None
        assert (await cart.send(shop.authority, "/", l5d_dst_override=payment.authority)).status == 200
        assert len(shop.app.requests) == 1
        assert payment.app.requests == []

    run_in_world(tmp_path, scenario)
