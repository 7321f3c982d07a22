"""One list of requests through ours, through Envoy and through nginx, to one origin: every difference is explained.

Compared is what the origin saw (method, target, end-to-end fields, body, trailers) and what the client got (answers, or
that there was none). Fields that belong to a hop or that a proxy adds for itself are left out, and so are the page and
fields of a proxy's own refusal. A difference that has no line in `EXPLAINED` fails, and so does one for which ours is
not as that line says. New ones are settled by asking RFC 9110, 9112 or 9113, not by adding a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from differential_requests import HOST, HTTP1, HTTP2
from differential_wire import Message, Origin, Outcome, ask, ask2, run_cases

from benchmarks.chain import Node, Wire
from benchmarks.machine import Command, started
from benchmarks.peers import envoy, nginx
from benchmarks.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ENVOY, NGINX = "Envoy", "nginx"


@dataclass(frozen=True)
class Explained:
    """Why ours differs from these peers in these cases."""

    cases: tuple[str, ...]
    peers: tuple[str, ...]
    ours: str
    """What the client gets from ours: a regular expression over the statuses."""
    why: str


BOTH = (ENVOY, NGINX)
EXPLAINED = (
    # Ours lets more through
    Explained(
        ("http/1.0", "http/1.0 keep-alive"),
        (ENVOY,),
        "200",
        "Envoy serves HTTP/1.0 only when told to; Linkerd and we do.",
    ),
    Explained(
        ("options of the server",),
        BOTH,
        "200",
        "`*` is a target like others in a mesh; Envoy's routes match paths only, nginx serves no `*`.",
    ),
    Explained(("trace",), (NGINX,), "200", "nginx forbids TRACE as an edge server; between services it is a method."),
    Explained(
        ("upgrade that the app ignores",),
        BOTH,
        "200",
        "Envoy refuses upgrades it was not configured for, nginx drops them; ours asks the app, which may ignore one"
        " (RFC 9110 7.8).",
    ),
    Explained(
        ("early hints",),
        BOTH,
        "103 200",
        "Interim answers are passed on (RFC 9110 15.2); Envoy drops 103, nginx 1.22 fails.",
    ),
    Explained(
        ("trailers", "answer with trailers"),
        BOTH,
        "200",
        "Trailers are passed on, as Linkerd does; Envoy needs enable_trailers, nginx has none in HTTP/1.",
    ),
    Explained(
        ("te trailers",), BOTH, "200", "That trailers are welcome is told on the next leg, too; nginx drops `te`."
    ),
    Explained(
        ("lower-case method",),
        BOTH,
        "200",
        "Methods are case-sensitive tokens (RFC 9110 9.1): `get` is one of its own.",
    ),
    Explained(
        ("expect 100-continue",),
        BOTH,
        "(100 )?200",
        "The body has come with the head, so that nobody waits for 100; a proxy may leave it out (RFC 9110 10.1.1).",
    ),
    Explained(
        ("underscore in a name",), (NGINX,), "200", "nginx drops such fields by default, to guard CGI; we have no CGI."
    ),
    # Ours lets less through
    Explained(
        ("hop-by-hop named",),
        (NGINX,),
        "200",
        "What Connection names belongs to the hop (RFC 9110 7.6.1); nginx leaves it in.",
    ),
    Explained(("fragment",), (NGINX,), "400", "A target has no fragment (RFC 9112 3.2); nginx passes it on."),
    Explained(
        ("bytes above 127 in the target",),
        (NGINX,),
        "400",
        "A URI is ASCII (RFC 3986 2); two parsers could read two paths.",
    ),
    Explained(
        ("lines that end in LF", "chunk size ends in LF"),
        BOTH,
        "400",
        "Line ends that two parsers read differently are how requests are smuggled; ours wants CR LF.",
    ),
    Explained(
        ("folded value", "CR in a value"),
        (ENVOY,),
        "400",
        "RFC 9112 2.2 and 5.2 allow to refuse or to mend; Envoy mends, and what passes is not what was sent.",
    ),
    Explained(
        ("field without a colon",), (NGINX,), "400", "nginx takes it as a field without a value; RFC 9112 5 knows none."
    ),
    Explained(
        ("tab in the request line", "two blanks in the request line"),
        BOTH,
        "400",
        "RFC 9112 3 wants one SP; leniency is allowed, not needed.",
    ),
    Explained(
        ("chunk longer than said",),
        (ENVOY,),
        "400",
        "Envoy has passed the head and the answer came before the bad chunk was read; ours reads what has come first.",
    ),
    Explained(
        ("two hosts",), (ENVOY,), "400", "RFC 9112 3.2: 400; Envoy joins them with a comma, a name that nobody meant."
    ),
    Explained(
        ("http/1.0 without a host",),
        BOTH,
        "4..|5..",
        "Without a host and an original destination there is nowhere to send it; the peers have one upstream only.",
    ),
    Explained(
        ("unknown expectation",),
        BOTH,
        "417",
        "RFC 9110 10.1.1 offers 417; whom we let it through would not meet it either.",
    ),
    Explained(("http/1.2",), (NGINX,), "400", "No such version; nginx takes any minor version as 1.1."),
    # Both refuse, with another status
    Explained(
        ("chunked twice", "chunked, chunked", "gzip, chunked", "identity", "xchunked"),
        BOTH,
        "400",
        "RFC 9112 6.1 says 501 for an unknown coding; a wrong framing is a bad request to us, and the connection ends.",
    ),
    Explained(
        ("http/1.2", "http/2.0 in the line", "http/3.0 in the line", "chunked in http/1.0", "no protocol"),
        BOTH,
        "400",
        "Envoy says 426 to all that is not HTTP/1.1, nginx 505, or closes without a word after HTTP/0.9.",
    ),
    Explained(("target of 100 KiB",), (ENVOY,), "414", "Envoy says 431 for the target, too."),
    Explained(("head of 200 KiB",), (NGINX,), "431", "nginx says 400."),
    # HTTP/2
    Explained(
        (
            *("h2 transfer-encoding", "h2 name in capitals", "h2 connection field", "h2 te gzip", "h2 no scheme"),
            *("h2 no method", "h2 no path", "h2 empty path", "h2 two methods", "h2 unknown pseudo-header"),
            *("h2 pseudo-header after a field", "h2 blank in a name", "h2 NUL in a value", "h2 CR LF in a value"),
        ),
        (ENVOY,),
        "reset|4..",
        "A malformed request is an error of its stream (RFC 9113 8.1.1); Envoy ends the connection with it, and with it"
        " the calls of others that share it.",
    ),
    Explained(
        ("h2 another host",),
        (ENVOY,),
        "400",
        "RFC 9113 8.3.1: a host that is not the :authority should make the request malformed; Envoy drops it, so that"
        " whoever looked at it before and whoever acts on it after may have read two names.",
    ),
)


def our_command(node: Node) -> Command:
    admin, inbound = free_ports(2)
    prefix = "LINKERD2_PROXY_"
    environment = {
        f"{prefix}OUTBOUND_LISTEN_ADDR": f"127.0.0.1:{node.listen}",
        f"{prefix}INBOUND_LISTEN_ADDR": f"127.0.0.1:{inbound}",
        f"{prefix}ADMIN_LISTEN_ADDR": f"127.0.0.1:{admin}",
        f"{prefix}OUTBOUND_STATIC": json.dumps({HOST: [f"127.0.0.1:{node.upstream}"]}),
        f"{prefix}SHUTDOWN_GRACE_PERIOD": "1s",
    }
    return Command([sys.executable, "-m", "mesh.proxy"], node.listen, environment)


PEERS: dict[str, tuple[Callable[[Node], Command], Callable[[], str | None]]] = {
    ENVOY: (envoy.envoy, envoy.version),
    NGINX: (nginx.nginx, nginx.version),
}


def outcomes_of(command: Callable[[Node], Command], wire: Wire, directory: Path) -> dict[str, Outcome]:
    """Every case of the protocol through one proxy."""

    async def through() -> dict[str, Outcome]:
        origin = Origin()
        await origin.start()
        (listen,) = free_ports(1)
        node = Node("a", listen, origin.port, wire, False, False, directory)
        try:
            with started([command(node)], min(os.sched_getaffinity(0))):
                if wire is Wire.HTTP2:
                    return await run_cases(origin, HTTP2, ask2, listen)
                return await run_cases(origin, HTTP1, ask, listen)
        finally:
            origin.stop()

    return asyncio.run(through())


def differences(ours: Outcome, theirs: Outcome) -> list[str]:
    found = []
    if ours.statuses != theirs.statuses:
        found.append(f"client got {ours.statuses} / {theirs.statuses}")
    else:
        found += [
            f"client got {mine} / {other}"
            for mine, other in zip(ours.got, theirs.got, strict=True)
            if from_origin(mine) and mine != other
        ]
    if ours.seen != theirs.seen:
        found.append(f"origin saw {[shown(m) for m in ours.seen]} / {[shown(m) for m in theirs.seen]}")
    return found


def from_origin(message: Message) -> bool:
    return ("x-origin", "1") in message.fields or message.start.startswith("1")


def shown(message: Message) -> str:
    text = f"{message.start} {dict(message.fields)} {message.body!r}"
    return text if len(text) < 400 else f"{text[:400]}…"


def unexplained(ours: dict[str, Outcome], theirs: dict[str, Outcome], peer: str) -> list[str]:
    return [
        f"{name}, ours / {peer}: {'; '.join(found)}"
        for name, outcome in ours.items()
        if (found := differences(outcome, theirs[name])) and not is_explained(name, peer, outcome)
    ]


def is_explained(name: str, peer: str, ours: Outcome) -> bool:
    statuses = " ".join(ours.statuses)
    return any(name in e.cases and peer in e.peers and re.fullmatch(e.ours, statuses) for e in EXPLAINED)


@pytest.fixture(scope="module")
def ours_http1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return outcomes_of(our_command, Wire.HTTP1, tmp_path_factory.mktemp("ours"))


@pytest.mark.parametrize("peer", PEERS)
def test_http1_requests_fare_as_through_other_proxies(
    peer: str, ours_http1: dict[str, Outcome], tmp_path: Path
) -> None:
    command, version = PEERS[peer]
    if version() is None:
        pytest.skip(f"{peer} is not installed")
    tmp_path.chmod(0o755)  # nginx's worker may be another user
    found = unexplained(ours_http1, outcomes_of(command, Wire.HTTP1, tmp_path), peer)
    assert not found, "\n".join(found)


def test_http2_requests_fare_as_through_envoy(tmp_path: Path) -> None:
    if envoy.version() is None:
        pytest.skip("Envoy is not installed")
    ours = outcomes_of(our_command, Wire.HTTP2, tmp_path)
    assert ours["h2 get"].statuses == ("200",)
    found = unexplained(ours, outcomes_of(envoy.envoy, Wire.HTTP2, tmp_path), ENVOY)
    assert not found, "\n".join(found)


def test_no_explanation_is_of_a_case_that_does_not_exist() -> None:
    cases = {case.name for case in (*HTTP1, *HTTP2)}
    assert len(HTTP1) >= 60
    assert len(cases) == len(HTTP1) + len(HTTP2)
    assert [name for explained in EXPLAINED for name in explained.cases if name not in cases] == []
