"""Flags → one frozen struct (see `mesh.viz.__main__` for the list)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.control.config import Address, InvalidFlags
from mesh.control.log import LEVELS
from mesh.viz.identity import IdentitySettings

WINDOW_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Config:
    """One viz process. Times in seconds."""

    listen: Address
    admin: Address
    pods: Path | None
    """A list of pods in a file; None: Kubernetes."""
    namespace: str
    controller_namespace: str
    trust_domain: str
    cluster_domain: str
    identity: IdentitySettings | None
    """None: no certificate, no tap."""
    tap_token: Path | None
    scrape_interval: float
    scrape_timeout: float
    scrape_concurrency: int
    log_level: str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidFlags(f"{message} (see python -m mesh.viz --help)")


def parse(arguments: Sequence[str]) -> Config:
    """Raises InvalidFlags; prints and exits 0 for --help."""
    parser = _Parser(prog="python -m mesh.viz", description="What the proxies report: API, tap and web UI.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--kubernetes", action="store_true", help="pods from the API server")
    where.add_argument("--pods", type=Path, metavar="FILE", help="pods from a JSON list")
    parser.add_argument("--listen", type=_address, default=Address("0.0.0.0", 8084), metavar="IP:PORT")
    parser.add_argument("--admin", type=_address, default=Address("0.0.0.0", 9994), metavar="IP:PORT")
    parser.add_argument("--identity-addr", metavar="HOST:PORT", type=_address)
    parser.add_argument("--token", type=Path, metavar="FILE")
    parser.add_argument("--trust-anchors", type=Path, metavar="FILE", help="PEM")
    parser.add_argument("--trust-domain", default="cluster.local")
    parser.add_argument("--cluster-domain", default="cluster.local", help="end of Services' names")
    parser.add_argument("--controller-namespace", default="linkerd")
    parser.add_argument("--identity-name", metavar="NAME", help="TLS name of identity's certificate")
    parser.add_argument("--local-name", metavar="NAME", help="TLS name of our own")
    parser.add_argument("--namespace", default="linkerd-viz")
    parser.add_argument("--tap-token", type=Path, metavar="FILE", help="with --pods: what a client who taps must show")
    parser.add_argument("--scrape-interval", type=_duration, default=5.0, metavar="DURATION")
    parser.add_argument("--scrape-timeout", type=_duration, default=2.0, metavar="DURATION")
    parser.add_argument("--scrape-concurrency", type=_positive, default=20, metavar="N")
    parser.add_argument("--log-level", choices=LEVELS, default="info")
    flags = parser.parse_args(arguments)
    if flags.scrape_interval > WINDOW_SECONDS / 10:
        raise InvalidFlags("--scrape-interval: at most 60s, or a window of minutes has too few scrapes")
    if flags.tap_token is not None and flags.pods is None:
        raise InvalidFlags("--tap-token: only with --pods; in Kubernetes the token is in the Secret viz-tap")
    return Config(
        listen=flags.listen,
        admin=flags.admin,
        pods=flags.pods,
        namespace=flags.namespace,
        controller_namespace=flags.controller_namespace,
        trust_domain=flags.trust_domain,
        cluster_domain=flags.cluster_domain,
        identity=_identity(flags),
        tap_token=flags.tap_token,
        scrape_interval=flags.scrape_interval,
        scrape_timeout=flags.scrape_timeout,
        scrape_concurrency=flags.scrape_concurrency,
        log_level=flags.log_level,
    )


def _identity(flags: argparse.Namespace) -> IdentitySettings | None:
    given = {"--identity-addr": flags.identity_addr, "--token": flags.token, "--trust-anchors": flags.trust_anchors}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise InvalidFlags(f"{', '.join(missing)}: needed too; a certificate takes {', '.join(given)}")
    domain, control = flags.trust_domain, flags.controller_namespace
    suffix = f"serviceaccount.identity.{control}.{domain}"
    return IdentitySettings(
        address=str(flags.identity_addr),
        identity_name=flags.identity_name or f"linkerd-identity.{control}.{suffix}",
        local_name=flags.local_name or f"viz.{flags.namespace}.{suffix}",
        token=flags.token,
        anchors=flags.trust_anchors,
    )


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return Address(host.strip("[]"), int(port))


def _duration(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except InvalidDuration as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds <= 0:
        raise argparse.ArgumentTypeError("must be longer than zero")
    return seconds


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
