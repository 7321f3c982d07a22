"""A webhook, ready to be started: its HTTPS server and the keeper of its certificate.

webhook = WebhookServer(api, place, {"/": judge}, log, metrics)
await webhook.bind("0.0.0.0", 8443)
await webhook.run()                     serves once there is a certificate; until cancelled
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from mesh.control.http import HttpServer, Later, Request, Response
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.webhook.keeper import Keeper, Place
from mesh.control.webhook.review import Handler, respond
from mesh.kube.api import Api

MAX_REVIEW_BYTES = 4 << 20
"""An AdmissionReview has an object twice at most, and etcd takes none above 1.5 MiB."""


class WebhookServer:
    """One webhook of this replica."""

    def __init__(self, api: Api, place: Place, handlers: Mapping[str, Handler], log: Log, metrics: Metrics) -> None:
        """`handlers` by the path of the webhook configuration's `clientConfig`."""
        self.keeper = Keeper(api, place, log, metrics)
        self.server = HttpServer(
            "webhook",
            partial(_handle, handlers),
            metrics,
            self.keeper.context,
            max_body_bytes=MAX_REVIEW_BYTES,
        )

    @property
    def ready(self) -> bool:
        return self.keeper.ready.is_set()

    async def bind(self, host: str, port: int) -> None:
        """Takes the address and accepts nothing yet. Raises OSError when it is taken."""
        await self.server.bind(host, port)

    async def run(self) -> None:
        """Looks after the certificate, and serves as soon as there is one."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.keeper.run())
            group.create_task(self._serve())

    async def close(self) -> None:
        await self.server.close()

    async def _serve(self) -> None:
        await self.keeper.ready.wait()
        await self.server.serve()


def _handle(handlers: Mapping[str, Handler], request: Request) -> Response | Later:
    return respond(request, handlers)
