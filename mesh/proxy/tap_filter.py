"""What a client of tap asks for, and the judgement of a request by it.

A filter is compiled once, to one function; terms that are not given cost nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Literal

import msgspec

from mesh.proxy.observe import Observed


class InvalidTap(ValueError):
    """The request for a tap makes no sense; the text is for the user."""


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One end. `ip` may be a network; `labels` are those that the endpoint has: pod, namespace, identity."""

    ip: str = ""
    port: int | None = None
    identity: str = ""
    labels: dict[str, str] = {}


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """All that is given must hold. `status`: 503, or 5 for the class."""

    all: tuple[Match, ...] = ()
    any: tuple[Match, ...] = ()
    not_: Match | None = msgspec.field(default=None, name="not")
    direction: Literal["", "inbound", "outbound"] = ""
    method: str = ""
    scheme: str = ""
    authority: str = ""
    path: str = ""
    path_prefix: str = ""
    route: str = ""
    status: int | None = None
    grpc_status: int | None = None
    source: Peer | None = None
    destination: Peer | None = None


class TapRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What a client asks for."""

    match: Match = Match()
    limit: int = 0
    """Requests until the stream ends; 0: none."""
    sample_rate: float = 1.0
    max_rps: float = 0.0
    """Requests per second; 0: no limit."""
    headers: bool = False
    """Whether request headers are shown. Credentials and cookies never are."""


def parse_tap(body: bytes) -> TapRequest:
    """The request in a body.

    Raises:
        InvalidTap: it is none.
    """
    try:
        wanted = msgspec.json.decode(body or b"{}", type=TapRequest)
    except msgspec.DecodeError as error:
        raise InvalidTap(str(error)) from None
    if wanted.limit < 0 or wanted.max_rps < 0:
        raise InvalidTap("limit and maxRps must not be negative")
    if not 0.0 < wanted.sample_rate <= 1.0:
        raise InvalidTap("sampleRate must be above 0 and at most 1")
    compile_match(wanted.match)
    return wanted


Predicate = Callable[[Observed], bool]


def compile_match(match: Match) -> Predicate:
    """A function that judges requests.

    Raises:
        InvalidTap: an address is none.
    """
    tests: list[Predicate] = []
    if match.direction:
        tests.append(lambda r: r.owner.direction == match.direction)
    if match.method:
        method = match.method.upper()
        tests.append(lambda r: r.head.method == method)
    for wanted, read in ((match.scheme, "scheme"), (match.path, "path")):
        if wanted:
            tests.append(_equals(read, wanted.encode()))
    if match.authority:
        same = _authority(match.authority.lower())
        tests.append(lambda r: same(r.authority) or same(r.head.authority.decode("latin-1").lower()))
    if match.path_prefix:
        prefix = match.path_prefix.encode()
        tests.append(lambda r: r.head.path.startswith(prefix))
    if match.route:
        tests.append(lambda r: r.route_name == match.route)
    if match.status is not None:
        status = match.status
        tests.append(lambda r: status in (r.status, r.status // 100))
    if match.grpc_status is not None:
        tests.append(lambda r: r.grpc_status == match.grpc_status)
    if match.source is not None:
        tests.append(_source(match.source))
    if match.destination is not None:
        tests.append(_destination(match.destination))
    tests.extend(compile_match(part) for part in match.all)
    if match.any:
        alternatives = tuple(compile_match(part) for part in match.any)
        tests.append(lambda r: any(test(r) for test in alternatives))
    if match.not_ is not None:
        negated = compile_match(match.not_)
        tests.append(lambda r: not negated(r))
    return lambda r: all(test(r) for test in tests)


def _authority(wanted: str) -> Callable[[str], bool]:
    """One without a port means any port: who looks at a service does not know what its clients wrote."""
    with_port = wanted.rpartition(":")[2].isdecimal()
    return lambda said: said == wanted or (not with_port and said.rpartition(":")[0] == wanted)


Moment = Literal["began", "responded", "ended"]


def judged_at(match: Match) -> Moment:
    """The first moment at which all terms of a match are known."""
    moments: list[Moment] = [judged_at(part) for part in (*match.all, *match.any)]
    if match.not_ is not None:
        moments.append(judged_at(match.not_))
    if match.grpc_status is not None or "ended" in moments:
        return "ended"
    late = match.status is not None or match.destination is not None or match.route
    return "responded" if late or "responded" in moments else "began"


def _equals(field: str, value: bytes) -> Predicate:
    return lambda r: getattr(r.head, field) == value


def _source(wanted: Peer) -> Predicate:
    at = _address(wanted)

    def test(request: Observed) -> bool:
        session = request.session
        labels = {"identity": session.peer_identity or ""}
        return at(session.peer) and _labelled(wanted, labels)

    return test


def _destination(wanted: Peer) -> Predicate:
    at = _address(wanted)

    def test(request: Observed) -> bool:
        endpoint = request.endpoint
        if endpoint is None:
            return at(request.session.local) and _labelled(wanted, {})
        spec = endpoint.spec
        labels = {"pod": spec.pod, "namespace": spec.namespace, "identity": spec.identity or ""}
        return at(spec.address) and _labelled(wanted, labels)

    return test


def _labelled(wanted: Peer, labels: dict[str, str]) -> bool:
    if wanted.identity and labels.get("identity", "") != wanted.identity:
        return False
    return all(labels.get(name) == value for name, value in wanted.labels.items())


def _address(wanted: Peer) -> Callable[[str], bool]:
    try:
        network = ipaddress.ip_network(wanted.ip, strict=False) if wanted.ip else None
    except ValueError:
        raise InvalidTap(f"{wanted.ip!r} is neither an address nor a network") from None

    def test(address: str) -> bool:
        host, _, port = address.rpartition(":")
        if wanted.port is not None and port != str(wanted.port):
            return False
        if network is None:
            return True
        try:
            return ipaddress.ip_address(host.strip("[]")) in network
        except ValueError:
            return False

    return test
