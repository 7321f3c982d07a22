"""`python -m mesh.control.injector`: the injector as a process, from start to SIGTERM.

    informers ─► first lists ─┐
    webhook certificate ──────┴─► ready            admin answers from the start

The webhook serves as soon as it has a certificate, with the values that it has by then: with an API server that does
not let it read the ConfigMap, pods are better injected with defaults than not at all.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence

from mesh.control.admin import admin_handler
from mesh.control.http import HttpServer
from mesh.control.injector.webhook import Injector
from mesh.control.log import LEVELS, Log
from mesh.control.metrics import Metrics
from mesh.control.names import CONTROL_PLANE_NAMESPACE, is_label
from mesh.control.registry.kubernetes import register_informers
from mesh.control.webhook.keeper import MUTATING, Place
from mesh.control.webhook.server import WebhookServer
from mesh.kube.api import Api
from mesh.kube.client import ClusterUnreachable, find_config, service_account_config
from mesh.kube.events import Events

SERVICE = "linkerd-proxy-injector"
SECRET = "linkerd-proxy-injector-k8s-tls"  # noqa: S105 – its name
CONFIGURATION = "linkerd-proxy-injector-webhook-config"
FAILED, BAD_FLAGS = 1, 2


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags. Ends the program where they are wrong."""
    flags = argparse.ArgumentParser(prog="python -m mesh.control.injector", description="Injects proxies into pods.")
    flags.add_argument("--listen", type=_address, default=("0.0.0.0", 8443), metavar="IP:PORT")
    flags.add_argument("--admin", type=_address, default=("0.0.0.0", 9995), metavar="IP:PORT")
    flags.add_argument("--controller-namespace", default=CONTROL_PLANE_NAMESPACE, metavar="NAMESPACE")
    flags.add_argument("--kubeconfig", metavar="FILE", help="instead of the pod's service account")
    flags.add_argument("--log-level", choices=LEVELS, default="info")
    given = flags.parse_args(arguments)
    if not is_label(given.controller_namespace):
        flags.error(f"--controller-namespace: {given.controller_namespace!r} is not a namespace name")
    return given


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not IP:PORT")
    return host.strip("[]"), int(port)


async def run(flags: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT; the exit code.

    Raises:
        ClusterUnreachable: there is no service account, or no such kubeconfig.
        OSError: an address is taken.
    """
    log, metrics = Log("proxy-injector", flags.log_level), Metrics()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.set_exception_handler(lambda _, context: _unexpected(log, context))
    api = Api.of(find_config(None, flags.kubeconfig) if flags.kubeconfig else service_account_config())
    me = f"{os.environ.get('HOSTNAME') or socket.gethostname()}-{os.getpid()}"
    namespace = flags.controller_namespace
    events = Events(api, SERVICE, me, log)
    injector = Injector(api, namespace, events, log, metrics)
    register_informers(metrics, list(injector.informers))
    place = Place(namespace, SERVICE, SECRET, CONFIGURATION, MUTATING)
    webhook = WebhookServer(api, place, {"/": injector.review}, log, metrics)

    def ready() -> bool:
        return webhook.ready and all(informer.synced for informer in injector.informers)

    admin = HttpServer("admin", admin_handler(metrics, ready), metrics)
    await admin.bind(*flags.admin)
    await admin.serve()
    await webhook.bind(*flags.listen)
    works = [webhook.run(), events.run(), *(informer.run() for informer in injector.informers)]
    tasks = [loop.create_task(work) for work in works]
    stopping = loop.create_task(stop.wait())
    done, _ = await asyncio.wait((*tasks, stopping), return_when=asyncio.FIRST_COMPLETED)
    died = [task for task in done if task is not stopping]
    for task in (*tasks, stopping):
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(webhook.close(), admin.close())
    await api.close()
    if died:
        # A task ends by cancellation or by a bug; without it the injector must not look healthy.
        log.error("background work failed; stopping", reason=repr(next(filter(None, results), None)))
        return FAILED
    log.info("stopped")
    return 0


def _unexpected(log: Log, context: dict[str, object]) -> None:
    error = context.get("exception")
    if isinstance(error, (ConnectionError, TimeoutError)):
        log.debug("connection failed", reason=error)
        return
    log.error("unexpected", reason=repr(error) if error is not None else context.get("message"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Exit codes: 0 stopped on request, 1 a bug, 2 flags or credentials that cannot be used."""
    import uvloop

    flags = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(flags))
    except (ClusterUnreachable, OSError) as error:
        print(f"mesh.control.injector: {error}", file=sys.stderr)
        return BAD_FLAGS


if __name__ == "__main__":
    sys.exit(main())
