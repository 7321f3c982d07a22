"""`python -m mesh.proxy`: one sidecar, configured by environment variables only (`mesh.proxy.config`)."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from random import Random

import uvloop

from mesh import native
from mesh.proxy import descriptors
from mesh.proxy.config import Config, InvalidConfig, load_config
from mesh.proxy.log import LogControl, start_logging
from mesh.proxy.proxy import Proxy


async def _run(config: Config, log_control: LogControl) -> int:
    loop = asyncio.get_running_loop()
    stop, stop_now = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (stop_now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    # Random: for balancing and jitter, not for secrets.
    proxy = Proxy(config, os.environ, Random(), log_control=log_control, shutdown=stop.set)
    starting = loop.create_task(proxy.start())
    stopping = loop.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    status = 0
    if starting.done() and (error := starting.exception()) is not None:
        if not isinstance(error, OSError):
            raise error
        print(f"gameday proxy: {error}", file=sys.stderr)
        status = 1
    else:
        # What start-up made stays for good: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        await stop.wait()
        if not starting.done():
            starting.cancel()
        draining = loop.create_task(proxy.drain())
        hurrying = loop.create_task(stop_now.wait())
        await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
        if not draining.cancel():
            draining.result()
    await proxy.stop()
    return status


def main() -> int:
    """Runs until SIGTERM, and then until it is drained or there is another.

    Exit codes: 0 drained, 1 could not start, 2 wrong configuration.
    """
    try:
        native.check()
        config = load_config()
    except (InvalidConfig, native.StaleBuild) as error:
        print(f"gameday proxy: {error}", file=sys.stderr)
        return 2
    descriptors.reserve()
    return uvloop.run(_run(config, start_logging(config.log)))


if __name__ == "__main__":
    sys.exit(main())
