"""Detection on generated and damaged first bytes, judged against OpenSSL and a second reading of httparse's rules.

    python tests/fuzz/fuzz_detect.py --inputs 100000 --seed 7

- `detect_first` must say what a state machine says that was written from httparse's rules, not from our pattern.
- `sni_of`, where OpenSSL as a server hears a name in a ClientHello, must have read the same, or nothing if it is no DNS
  name; where it reads a name, OpenSSL must not have heard another. What it has said must not change as bytes arrive.

An exception is a crash.
"""

from __future__ import annotations

import argparse
import random
import re
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from mesh.proxy.wire.detect import MAX_HELLO_BYTES, NeedMore, Protocol, detect_first, sni_of

SHOWN = 50
DNS_NAME = re.compile(r"([\w-]{1,63}\.)*[\w-]{1,63}\.?", re.ASCII)
NAMES = ["a", "payment.shop.svc.cluster.local", "web.default.serviceaccount.identity.linkerd.cluster.local", "A-b_C.d"]
ALPN = [["l5d-h2"], ["h2", "http/1.1"], []]
STARTS = [
    *(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /a?b=c HTTP/1.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    *(b"\r\n\r\nOPTIONS * HTTP/1.1\r\n", b"X!#$%&'*+-.^_`|~9 /x HTTP/1.1\n\n", b"SSH-2.0-OpenSSH_9.6\r\n"),
    *(b"CONNECT a:443 HTTP/1.1\r\n\r\n", b"*1\r\n$4\r\nPING\r\n", b"\x00\x00\x00\x08\x04\xd2\x16\x2f" * 3),
    *(b"transport.l5d.io/v1\r\n\r\n\x00\x00", b"EHLO mail.example.org\r\n", b"GET http://a/ HTTP/1.1\r\nX", b""),
]
TCHAR = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


@dataclass
class Findings:
    """What a run found."""

    inputs: int = 0
    said: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class _Ended(Exception):
    """The bytes end before anything is wrong with them."""


def _protocol(data: bytes) -> Protocol:
    """httparse's rules, one byte at a time."""
    if data[:2] == b"\x16\x03" or data == b"\x16":
        return Protocol.TLS
    if len(data) < 14:
        return Protocol.OPAQUE
    if data[:14] == b"PRI * HTTP/2.0":
        return Protocol.HTTP2
    try:
        return Protocol.HTTP1 if _request(data) else Protocol.OPAQUE
    except _Ended:
        return Protocol.HTTP1


def _bytes(data: bytes) -> Iterator[int]:
    yield from data
    raise _Ended


def _request(data: bytes) -> bool:
    stream = _bytes(data)
    byte = next(stream)
    while byte in b"\r\n":
        if byte == 0x0D and next(stream) != 0x0A:
            return False
        byte = next(stream)
    for allowed in (TCHAR, frozenset(range(0x21, 0x100)) - {0x7F}):
        if byte not in allowed:
            return False
        while byte in allowed:
            byte = next(stream)
        if byte != 0x20:
            return False
        byte = next(stream)
    for expected in b"HTTP/1.":
        if byte != expected:
            return False
        byte = next(stream)
    if byte not in b"01":
        return False
    byte = next(stream)
    for last in (False, True):
        if byte == 0x0D:
            if next(stream) != 0x0A:
                return False
            if last:
                return True
        elif byte != 0x0A:
            return last and byte in TCHAR
        elif last:
            return True
        byte = next(stream)
    raise AssertionError("not reached")


def client_hello(rng: random.Random) -> bytes:
    """As OpenSSL writes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    protocols = rng.choice(ALPN)
    if protocols:
        context.set_alpn_protocols(protocols)
    out = ssl.MemoryBIO()
    name = rng.choice([*NAMES, None])
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


class _Server:
    """OpenSSL as a server without a certificate: it hears the name, then gives up."""

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.sni_callback = self._heard
        self.name: str | None = None

    def _heard(self, connection: object, name: str | None, context: object) -> None:
        self.name = name

    def hears(self, data: bytes) -> str | None:
        self.name = None
        incoming = ssl.MemoryBIO()
        incoming.write(data)
        # It fails for lack of a certificate, or because the hello is damaged; a name that is not ASCII, the ssl module
        # reports as unraisable and does not hand on.
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        with suppress(ssl.SSLError):
            self.context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
        sys.unraisablehook = hook
        return self.name


def _damaged(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + rng.randrange(1, 4) :]
        elif kind == 2:
            data = data[:at] + rng.randbytes(rng.randrange(1, 4)) + data[at:]
        else:
            data = data[:at]
    return data


def _in_records(hello: bytes, rng: random.Random) -> bytes:
    message, out = hello[5:], b""
    while message:
        size = rng.randrange(1, len(message) + 1)
        out += b"\x16\x03" + rng.choice([b"\x01", b"\x03"]) + size.to_bytes(2, "big") + message[:size]
        message = message[size:]
    return out


def _fuzz_first(rng: random.Random, findings: Findings) -> None:
    data = _damaged(rng.choice(STARTS) + rng.choice([b"", b"\r\n", b"x" * 20]), rng)[: rng.choice([13, 14, 20, 1024])]
    ours, theirs = detect_first(data), _protocol(data)
    findings.said[ours.value] += 1
    if ours is not theirs:
        findings.faults.append(f"{data!r}: {ours}, not {theirs}")


def _fuzz_hello(hello: bytes, server: _Server, rng: random.Random, findings: Findings) -> None:
    data = _damaged(_in_records(hello, rng) if rng.random() < 0.4 else hello, rng)
    found = sni_of(data)
    findings.said["a name" if isinstance(found, str) else "no name" if found is None else "need more"] += 1
    heard = server.hears(data)
    expected = heard.lower() if heard and DNS_NAME.fullmatch(heard) and len(heard) < 256 else None
    if heard is not None and len(data) < MAX_HELLO_BYTES and found != expected:
        findings.faults.append(f"OpenSSL hears {heard!r}, we {found!r}: {data!r}")
    if isinstance(found, str) and heard is not None and heard.lower() != found:
        findings.faults.append(f"we hear {found!r}, OpenSSL {heard!r}: {data!r}")
    end = rng.randrange(len(data) + 1)
    before = sni_of(data[:end])
    if before is not NeedMore and before != found:
        findings.faults.append(f"{before!r} after {end} bytes, then {found!r}: {data!r}")


def run(inputs: int, seed: int) -> Findings:
    """Runs `inputs` inputs; the same seed finds the same, but for the random bytes in OpenSSL's hellos."""
    findings = Findings()
    rng = random.Random(seed)
    server = _Server()
    hellos = [client_hello(rng) for _ in range(40)]
    for number in range(inputs):
        findings.inputs += 1
        try:
            if number % 3:
                _fuzz_first(rng, findings)
            else:
                _fuzz_hello(rng.choice(hellos), server, rng, findings)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a crash, and the run goes on
            findings.faults.append(f"crash {error!r}, seed {seed}, input {number}")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.monotonic()
    findings = run(arguments.inputs, arguments.seed)
    said = ", ".join(f"{what} {count}" for what, count in findings.said.most_common())
    print(
        f"detect: {findings.inputs} inputs ({said}), {len(findings.faults)} faults, {time.monotonic() - started:.0f} s"
    )
    for fault in findings.faults[:SHOWN]:
        print(f"FAULT {fault}")
    return 1 if findings.faults else 0


if __name__ == "__main__":
    sys.exit(main())
